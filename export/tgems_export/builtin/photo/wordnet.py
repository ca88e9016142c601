"""WordNet's nouns: synsets, their lemmas and what lies below what (format: `man 5 wndb`).

A synset is named as in ImageNet: `n` and its offset in the file of nouns of WordNet 3.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tgems_edge.errors import DataError

__all__ = ["WORDNET", "Synset", "ancestors", "read_nouns", "read_senses"]

WORDNET = Path("/usr/share/wordnet")  # where Debian's package `wordnet-base` puts it
HYPERNYM = "@"  # of a kind; that of an instance, such as a person or a town, is `@i`


@dataclass(frozen=True)
class Synset:
    """One meaning, and the nouns that have it."""

    lemmas: tuple[str, ...]  # the usual one first
    hypernyms: tuple[str, ...]  # synsets above it
    gloss: str  # its definition, without examples
    file: int  # the lexicographers' file that it is in: animals, artefacts and so on

    @property
    def names(self) -> tuple[str, ...]:
        """Return the lemmas as one writes them."""
        return tuple(lemma.replace("_", " ") for lemma in self.lemmas)


def read_nouns(folder: Path = WORDNET) -> dict[str, Synset]:
    """Read all synsets of nouns.

    Raises:
        DataError: WordNet is not there.
    """
    return dict(_parse(line) for line in _lines(folder / "data.noun"))


def read_senses(synsets: Mapping[str, Synset], folder: Path = WORDNET) -> dict[str, tuple[str, ...]]:
    """Read the synsets of every lemma, the most frequent one first.

    Raises:
        DataError: WordNet is not there.
    """
    senses = {}
    for line in _lines(folder / "index.noun"):
        lemma, _, count, *_ = line.split()
        offsets = line.split()[-int(count) :]
        senses[lemma] = tuple(name for offset in offsets if (name := f"n{offset}") in synsets)
    return senses


def ancestors(synset: str, synsets: Mapping[str, Synset]) -> set[str]:
    """Return all synsets above one."""
    found: set[str] = set()
    ahead = list(synsets[synset].hypernyms)
    while ahead:
        if (above := ahead.pop()) not in found:
            found.add(above)
            ahead += synsets[above].hypernyms
    return found


def _lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no WordNet 3.0; on Debian: apt-get install wordnet-base") from None
    return (line for line in text.splitlines() if not line.startswith("  "))  # which is the licence


def _parse(line: str) -> tuple[str, Synset]:
    """Read `offset file type count (lemma id)… count (symbol offset part id)… | gloss`."""
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    words = int(fields[3], 16)
    lemmas = tuple(fields[4 + 2 * place] for place in range(words))
    pointers = fields[5 + 2 * words :]
    hypernyms = tuple(
        f"n{offset}"
        for symbol, offset, part in zip(pointers[::4], pointers[1::4], pointers[2::4], strict=True)
        if symbol == HYPERNYM and part == "n"
    )
    return f"n{fields[0]}", Synset(lemmas, hypernyms, gloss.partition('; "')[0].strip(), int(fields[1]))
