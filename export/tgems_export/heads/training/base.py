"""The interface of the training of every kind of head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from tgems_export.encoders.towers.base import Pool
from tgems_export.heads.base import ExitHead

__all__ = [
    "Figures",
    "HeadSettings",
    "OnEpoch",
    "Teacher",
    "TrainingSet",
    "make_seed",
    "predict",
    "validate",
]

# Called after an epoch with its number and a function that measures accuracy.
OnEpoch = Callable[[int, Callable[[], float]], None]


@dataclass(frozen=True)
class Teacher:
    """The full CLIP, as far as a head learns from it."""

    embeddings: Tensor  # (n, E) of the pictures to train on
    logit_scale: float  # s


@dataclass(frozen=True)
class TrainingSet:
    """The data of one training: n pictures to train on, m to validate with."""

    activations: Tensor  # (n, D)
    targets: Tensor  # (n, C) distributions over the classes
    prompts: Tensor  # (C, P, E) text embeddings, one per template
    validation_activations: Tensor  # (m, D)
    validation_labels: Tensor  # (m,)
    text: Tensor  # (C, E) the embeddings that tables are made from


@dataclass(frozen=True)
class Figures:
    """Figures of a trained head, for its card."""

    pictures: int  # trained on
    accuracy: float  # top-1 on held-out pictures
    accuracy_held_out_templates: float | None
    warnings: tuple[str, ...]


class HeadSettings(ABC):
    """Settings of one kind of head; a frozen dataclass whose fields are recorded in the head file."""

    options: ClassVar[frozenset[str]]  # fields that `train` lets a person choose
    seed: int

    def stated(self) -> dict[str, str]:
        """All fields, for the record."""
        return {name: str(value) for name, value in vars(self).items()}

    @abstractmethod
    def compared_in(self, width: int, embedding_width: int, whose: str) -> int:
        """K, the width in which the head compares, of D = `width` and E = `embedding_width`.

        Args:
            width: D, of the activation.
            embedding_width: E.
            whose: widths these are, for the message.

        Raises:
            DataError: K and D do not go together.
        """

    @abstractmethod
    def pools(self, available: tuple[Pool, ...]) -> tuple[Pool, ...]:
        """Those of a tower's pools that the head may read."""

    @abstractmethod
    def epochs_for(self, pictures: int) -> int:
        """Epochs, all told, with so many pictures to train on."""

    @abstractmethod
    def trial(self) -> HeadSettings:
        """A short training that tells which pool is better."""

    @abstractmethod
    def train(
        self,
        data: TrainingSet,
        teacher: Teacher,
        *,
        layer: int,
        checkpoint: Path | None = None,
        on_epoch: OnEpoch = lambda epoch, accuracy: None,
    ) -> ExitHead:
        """Trains a head.

        Args:
            data: see `TrainingSet`.
            teacher: see `Teacher`.
            layer: of the activations; part of the seed.
            checkpoint: where the state may be kept between epochs; an existing one is continued.
            on_epoch: called after each epoch.
        """

    @abstractmethod
    def examine(
        self, head: ExitHead, data: TrainingSet, held_out_text: Tensor | None, classes: tuple[str, ...]
    ) -> Figures:
        """Measures a head that `train` made.

        Args:
            head: the head.
            data: what it was trained on.
            held_out_text: (C, E) of templates never trained on, if there are any.
            classes: the C names.
        """


@torch.no_grad()
def predict(head: ExitHead, activations: Tensor, text: Tensor) -> Tensor:
    """Classes (n,) with the smallest rate (eq. 2) of activations (n, D), given text (C, E)."""
    return head.rates(activations, text).argmin(1)


def validate(head: ExitHead, data: TrainingSet) -> float:
    """Top-1 accuracy on the pictures that watch the training."""
    head.eval()
    correct = predict(head, data.validation_activations, data.text) == data.validation_labels
    return float(correct.float().mean())


def make_seed(seed: int, layer: int, epoch: int) -> int:
    """A seed of its own for every epoch of every layer."""
    return (seed * 1000 + layer) * 100_000 + epoch
