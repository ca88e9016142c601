"""Names of the pictures: class names and their synonyms, in many templates, as tokens.

CIFAR-10 and Tiny-ImageNet name things on different levels (`dog`, `Chihuahua`). A picture is therefore
only told apart from the other names of its own data set: a Chihuahua is never pushed away from `dog`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tgems_export.encoders.prompts import spoken

__all__ = ["Vocabulary", "build_vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """All prompts of C classes from some data sets, each class with its own number of prompts."""

    names: tuple[str, ...]  # C class names
    data_set: Tensor  # (C,) which data set a class belongs to
    tokens: Tensor  # (T, L) all prompts, class after class, those with the class name itself first
    first: Tensor  # (C,) where a class begins in tokens
    plain: Tensor  # (C,) how many of its prompts say the class name
    count: Tensor  # (C,) how many prompts it has

    def draw(self) -> Tensor:
        """One prompt a class, (C, L): half of the times the class name itself, else any synonym."""
        among = torch.where(torch.rand(len(self.first)) < 0.5, self.plain, self.count)
        return self.tokens[self.first + (torch.rand(len(self.first)) * among).long()]

    def rivals(self, data_set: int) -> Tensor:
        """Return which classes (C,) belong to a data set."""
        return self.data_set == data_set


def build_vocabulary(
    data_sets: Sequence[Sequence[Sequence[str]]],
    templates: Sequence[str],
    tokenize: Callable[..., Tensor],
    length: int,
) -> Vocabulary:
    """Say every name of every class in every template.

    Args:
        data_sets: for each data set, for each class, its names, the class name first.
        templates: each with one {}.
        tokenize: of the text tower.
        length: L; prompts that need more tokens are left out.
    """
    names, owner, tokens, plain, count = [], [], [], [], []
    for data_set, classes in enumerate(data_sets):
        for synonyms in classes:
            said = [_fitting(name, templates, tokenize, length) for name in synonyms]
            names.append(synonyms[0])
            owner.append(data_set)
            tokens += said
            plain.append(len(said[0]))
            count.append(sum(len(prompts) for prompts in said))
    counts = torch.tensor(count)
    return Vocabulary(
        names=tuple(names),
        data_set=torch.tensor(owner),
        tokens=torch.cat(tokens),
        first=counts.cumsum(0) - counts,
        plain=torch.tensor(plain),
        count=counts,
    )


def _fitting(name: str, templates: Sequence[str], tokenize: Callable[..., Tensor], length: int) -> Tensor:
    prompts = [template.replace("{}", spoken(name)) for template in templates]
    tokens = tokenize([*prompts, ""], context_length=2 * length)
    fits = (tokens[:-1, length:] == tokens[-1, -1]).all(1)
    return tokens[:-1, :length][fits]
