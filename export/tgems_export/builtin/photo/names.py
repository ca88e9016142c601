"""Names for the text tower to learn, and the direction in the joint embedding that WordNet gives each.

A classifier's row is the prototype of its class, and of every kind of it. A noun that stands above classes
gets the mean of the rows below it; one that stands beside them, such as an instrument that is no class, the
mean of the rows below its nearest hypernym that has any. So every name of WordNet that is near something the
tower knows has a place.

C classes, E width of the joint embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tgems_export.builtin.photo.wordnet import Synset, ancestors

__all__ = ["Name", "Names", "collect_names"]

MOST_BELOW = 150  # classes below a hypernym; a mean of more says little
MOST_BESIDE = 40  # and below one that a noun without classes is placed by
MOST_STEPS = 3  # up to that one
# Animals, artefacts, bodies, food, objects, plants and substances: WordNet's files (`man 5 lexnames`) of what
# can be seen.
VISIBLE = frozenset((5, 6, 8, 13, 17, 20, 27))


@dataclass(frozen=True)
class Name:
    """A name, and the synset whose place it gets."""

    text: str
    synset: str
    is_class: bool


@dataclass(frozen=True)
class Names:
    """All names, and where they should point.

    The names of classes come first, in the order of the classes; then those of what stands above classes.
    """

    names: tuple[Name, ...]
    targets: Tensor  # (len(names), E) of length 1
    prototypes: Tensor  # (C, E) of the classes, of length 1; two may share their only name
    labels: Tensor  # (len(names),) the class, or -1
    known: int  # how many names are of classes or of what stands above them


def collect_names(
    synsets: Mapping[str, Synset],
    senses: Mapping[str, Sequence[str]],
    classes: Sequence[str],
    prototypes: Tensor,
) -> Names:
    """Collect names for all synsets that can be placed.

    Args:
        synsets: of nouns.
        senses: synsets of every lemma, the most frequent first.
        classes: the synset of each class.
        prototypes: (C, E) of the classes.
    """
    rows = nn.functional.normalize(prototypes, dim=1)
    below = _classes_below(synsets, classes)
    number = {synset: label for label, synset in enumerate(classes)}

    def place(synset: str) -> Tensor | None:
        if synset in number:
            return rows[number[synset]]
        if synset in below:
            return _mean(rows, below[synset]) if len(below[synset]) <= MOST_BELOW else None
        if synsets[synset].file not in VISIBLE:
            return None
        nearest = _nearest(synset, synsets, below)
        return _mean(rows, nearest) if nearest and len(nearest) <= MOST_BESIDE else None

    places = {synset: target for synset in synsets if (target := place(synset)) is not None}
    above = [synset for synset in places if synset in below and synset not in number]
    beside = [synset for synset in places if synset not in below and synset not in number]
    names, taken, known = [], set(), 0
    for synset in (*classes, *above, *beside):
        is_known = synset in number or synset in below
        for text, lemma in zip(synsets[synset].names, synsets[synset].lemmas, strict=True):
            meanings = [sense for sense in senses.get(lemma.lower(), ()) if sense in places]
            usual = next((sense for sense in meanings if sense in number), next(iter(meanings), synset))
            wanted = is_known or text.islower()  # what is capitalised beside classes is Latin, mostly
            if (synset in number or synset == usual) and wanted and text.lower() not in taken:
                taken.add(text.lower())
                names.append(Name(text, synset, synset in number))
                known += is_known
    return Names(
        names=tuple(names),
        targets=torch.stack([places[name.synset] for name in names]),
        prototypes=rows,
        labels=torch.tensor([number.get(name.synset, -1) for name in names]),
        known=known,
    )


def _classes_below(synsets: Mapping[str, Synset], classes: Iterable[str]) -> dict[str, list[int]]:
    """Return the classes below every synset that has any; a class is below itself."""
    below: dict[str, list[int]] = {}
    for label, synset in enumerate(classes):
        for above in {synset, *ancestors(synset, synsets)}:
            below.setdefault(above, []).append(label)
    return below


def _nearest(synset: str, synsets: Mapping[str, Synset], below: Mapping[str, list[int]]) -> list[int] | None:
    """Return the classes below the nearest hypernym that has any."""
    level = list(synsets[synset].hypernyms)
    for _ in range(MOST_STEPS):
        found = [below[above] for above in level if above in below]
        if found:
            return min(found, key=len)
        level = [above for one in level for above in synsets[one].hypernyms]
    return None


def _mean(rows: Tensor, labels: Sequence[int]) -> Tensor:
    return nn.functional.normalize(rows[list(labels)].mean(0), dim=0)
