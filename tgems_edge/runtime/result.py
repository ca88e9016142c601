"""The answer to one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgems_edge.maths.sets import DEFAULT_COVERAGE, SetMethod
from tgems_edge.model_file.card import Card
from tgems_edge.runtime.answers import Answers

__all__ = ["Result", "Speed"]


@dataclass(frozen=True)
class Speed:
    """Milliseconds of one picture, by the clock.

    Where pictures are read ahead (`Classifier.classify_each`), the stages of different pictures overlap and
    slow each other down: a folder takes less than the sum over its pictures.
    """

    preprocess: float
    inference: float  # this and the next: of its batch, divided by the pictures in it
    postprocess: float


@dataclass(frozen=True)
class Result:
    """The answer to one picture: a view on the answers to a batch of one."""

    answers: Answers  # to this picture alone
    speed: Speed

    @property
    def card(self) -> Card:
        """The card of the model file."""
        return self.answers.card

    @property
    def rates(self) -> NDArray[np.float32]:
        """(C,) class-rates, smaller is better."""
        rates: NDArray[np.float32] = self.answers.rates[0]
        return rates

    @property
    def probabilities(self) -> NDArray[np.floating]:
        """(C,) posterior; calibrated only if `calibrated`."""
        probabilities: NDArray[np.floating] = self.answers.probabilities[0]
        return probabilities

    @property
    def order(self) -> NDArray[np.int64]:
        """(C,) class indices, best first."""
        order: NDArray[np.int64] = self.answers.order[0]
        return order

    @property
    def exit_layer(self) -> int:
        """The block that answered."""
        return int(self.answers.exit_layers[0])

    @property
    def names(self) -> tuple[str, ...]:
        """The C class names, in the order of the rates."""
        return self.card.classes

    @property
    def calibrated(self) -> bool:
        """Whether the file was exported with calibration."""
        return self.card.calibration is not None

    @property
    def top1(self) -> int:
        """Index of the best class (eq. 2)."""
        return int(self.order[0])

    @property
    def label(self) -> str:
        """Name of the best class."""
        return self.names[self.top1]

    @property
    def top1conf(self) -> float:
        """Probability of the best class."""
        return float(self.probabilities[self.top1])

    @property
    def top5(self) -> list[int]:
        """Indices of the five best classes, best first."""
        return [int(index) for index in self.order[:5]]

    def top(self, count: int) -> list[dict[str, Any]]:
        """The best `count` classes, best first, as `classify --json` prints them."""
        return self.answers.best(0, count)

    def label_set(self, coverage: float = DEFAULT_COVERAGE, method: SetMethod = "threshold") -> list[str]:
        """Names that hold the true class with a probability of at least `coverage`, best first.

        Args:
            coverage: 0.8, 0.9, 0.95 or 0.99.
            method: `threshold` has the smallest sets on average, `adaptive` follows the difficulty.

        Raises:
            InputError: the file was exported without calibration, or not for this coverage.
        """
        return self.answers.names_in(0, self.answers.sets(coverage, method)[0])

    def is_unknown(self, reject: float = 0.05) -> bool:
        """Whether the picture is more surprising than all but a share of `reject` of known pictures.

        Raises:
            InputError: the file was exported without calibration, or not for this share.
        """
        return bool(self.answers.unknown(reject)[0])
