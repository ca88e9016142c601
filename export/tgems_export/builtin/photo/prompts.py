"""Names in templates, as tokens of CLIP's tokenizer.

The tokens that occur are numbered anew, in the same order, so that training keeps embeddings of those alone.

L tokens of the longest prompt of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import open_clip
import torch
from torch import Tensor

__all__ = ["Prompts"]

PLURAL_SHARE = 0.2  # of prompts
QUALIFIED_SHARE = 0.15
# What names are qualified with in lists of classes; it changes what is seen, but hardly which class is near.
# fmt: off
BEFORE = (
    "red", "green", "blue", "yellow", "orange", "brown", "black", "white", "grey", "pink", "golden",
    "small", "big", "large", "little", "young", "old", "baby", "wild", "fresh", "dried",
    "wooden", "metal", "plastic", "glass", "paper", "toy", "regular", "common", "vintage", "modern",
)
AFTER = (
    "head", "face", "body", "side", "front", "back", "view", "close-up", "photo", "drawing", "toy", "statue",
    "shop", "brand",
)
# fmt: on


@dataclass(frozen=True)
class _Spelling:
    """A name in tokens."""

    plain: list[int]
    plural: list[int]


class Prompts:
    """N names and the templates that say them."""

    def __init__(self, names: Sequence[str], known: int, templates: Sequence[str], length: int):
        """Tokenise all of them once.

        Args:
            names: N of them.
            known: so many of the first have a plural in any case, the others where it adds no token.
            templates: each holds {} once.
            length: of the longest prompt that the text tower reads.
        """
        self._tokenizer = open_clip.SimpleTokenizer()
        self._length = length
        self._taken = frozenset(name.lower() for name in names)
        self._texts = tuple(names)
        plain = [self._split(name) for name in names]
        plural = [self._split(_plural(name)) for name in names]
        used = {token for tokens in plain + plural[:known] for token in tokens}
        self._names = [
            _Spelling(one, many if used.issuperset(many) else one)
            for one, many in zip(plain, plural, strict=True)
        ]
        self._templates = [tuple(self._split(part) for part in text.split("{}")) for text in templates]
        self._before = {word: self._split(word) for word in BEFORE}
        self._after = {word: self._split(word) for word in AFTER}
        self.used = self._find_used()  # (U,) tokens in ascending order: the end of text is the last

    def draw(self, members: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw a prompt for each of some names, (len(members), L), as places in `used`."""
        count = len(members)
        templates = torch.randint(len(self._templates), (count,), generator=generator).tolist()
        chances = torch.rand(count, 3, generator=generator).tolist()
        drawn = []
        for member, template, (plural, qualified, which) in zip(members, templates, chances, strict=True):
            spelling = self._names[member]
            name = spelling.plural if plural < PLURAL_SHARE else spelling.plain
            if qualified < QUALIFIED_SHARE:
                name = self._qualify(member, name, which)
            drawn.append(self._say(name, self._templates[template]))
        return self._join(drawn)

    def plain(self, members: Sequence[int]) -> Tensor:
        """Return the prompts of some names in the first template, (len(members), L), as places in `used`."""
        return self._join([self._say(self._names[member].plain, self._templates[0]) for member in members])

    def _split(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text)
        return tokens

    def _qualify(self, member: int, name: list[int], which: float) -> list[int]:
        """Put a word before or behind a name, unless that is another name."""
        words = BEFORE if which < 0.5 else AFTER
        word = words[int(which % 0.5 * 2 * len(words))]
        text = self._texts[member].lower()
        if (f"{word} {text}" if which < 0.5 else f"{text} {word}") in self._taken:
            return name
        return [*self._before[word], *name] if which < 0.5 else [*name, *self._after[word]]

    def _say(self, name: list[int], template: tuple[list[int], ...]) -> list[int]:
        before, after = template
        room = self._length - 2
        tokens = [*before, *name, *after]
        tokens = tokens if len(tokens) <= room else name[:room]
        return [self._tokenizer.sot_token_id, *tokens, self._tokenizer.eot_token_id]

    def _join(self, prompts: list[list[int]]) -> Tensor:
        joined = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
        for row, prompt in zip(joined, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        return torch.searchsorted(self.used, joined)

    def _find_used(self) -> Tensor:
        used = {0, self._tokenizer.sot_token_id, self._tokenizer.eot_token_id}  # 0 fills up what is short
        for spelling in self._names:
            used.update(spelling.plain, spelling.plural)
        for parts in (*self._templates, self._before.values(), self._after.values()):
            used.update(token for part in parts for token in part)
        return torch.tensor(sorted(used))


def _plural(name: str) -> str:
    """Return the regular plural of an English noun."""
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"
