"""Answers of a model file in columns, with the label sets, `unknown` and rows that follow from them.

Everything that needs more than the best class asks here: `classify`, `evaluate`, and the workstation where it
calibrates and measures. N pictures, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgems_edge.errors import ModelFileError
from tgems_edge.maths.rates import posterior, top_k
from tgems_edge.maths.sets import DEFAULT_COVERAGE, SetMethod, set_scores
from tgems_edge.model_file.card import Card
from tgems_edge.runtime.uncertainty import NO_SETS, Uncertainty

__all__ = ["Answers", "check_outputs"]

ROUNDING = 1e-3  # by which a probability may exceed 1
UNKNOWN = {"label": "unknown", "index": None, "probability": None}


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of a model file to N pictures."""

    rates: NDArray[np.float32]  # (N, C) class-rates, smaller is better
    probabilities: NDArray[np.floating]  # (N, C) posterior; calibrated only if the card is
    labels: NDArray[np.int64]  # (N,) the classes with the smallest rates
    exit_layers: NDArray[np.int64]  # (N,) the blocks that answered
    card: Card

    @classmethod
    def from_rates(cls, rates: NDArray[np.float32], exit_layers: NDArray[np.int64], card: Card) -> Answers:
        """Return the answers that rates (N, C) of the exits (N,) mean under a card.

        A graph computes the same; this is for a card that came after it, and in double precision.
        """
        probabilities = np.empty(rates.shape)
        for exit in card.exits:
            own = exit_layers == exit.layer
            probabilities[own] = posterior(rates[own].astype(np.float64), exit.k, exit.temperature)
        return cls(rates, probabilities, rates.argmin(1), exit_layers, card)

    @classmethod
    def join(cls, parts: Sequence[Answers]) -> Answers:
        """Return the answers of one file to all pictures of some parts, of which there is at least one."""
        return cls(
            np.concatenate([part.rates for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.exit_layers for part in parts]),
            parts[0].card,
        )

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def __getitem__(self, rows: slice) -> Answers:
        """Return the answers to some of the pictures."""
        return Answers(
            self.rates[rows], self.probabilities[rows], self.labels[rows], self.exit_layers[rows], self.card
        )

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """(N, C) classes, the best first."""
        return top_k(self.rates, self.rates.shape[1])

    @cached_property
    def surprisals(self) -> NDArray[np.floating]:
        """(N,) smallest rates, less what is usual at the exit that answered, so that exits compare."""
        usual = np.array([self.card.surprise(layer) for layer in self.exit_layers.tolist()])
        surprisals: NDArray[np.floating] = self.rates.min(1) - usual
        return surprisals

    def sets(self, coverage: float = DEFAULT_COVERAGE, method: SetMethod = "threshold") -> NDArray[np.bool_]:
        """Return the label sets (N, C): classes that hold the true one with a probability of `coverage`.

        Args:
            coverage: 0.8, 0.9, 0.95 or 0.99.
            method: `threshold` has the smallest sets on average, `adaptive` follows the difficulty.

        Raises:
            InputError: the file was exported without calibration, or not for this coverage.
        """
        bound = self.card.set_bound(coverage, method)
        if method not in self._scores:
            self._scores[method] = set_scores(self.probabilities, method)
        members: NDArray[np.bool_] = self._scores[method] <= bound
        return members

    @cached_property
    def _scores(self) -> dict[SetMethod, NDArray[np.float64]]:
        """(N, C) for each method that was asked for: sets of several coverages share them."""
        return {}

    def unknown(self, share: float) -> NDArray[np.bool_]:
        """Return whether each picture (N,) is more surprising than all but a share of known pictures.

        Raises:
            InputError: the file was exported without calibration, or not for this share.
        """
        unknown: NDArray[np.bool_] = self.surprisals > self.card.rejection_bound(share)
        return unknown

    def rows(self, *, top: int = 3, uncertainty: Uncertainty = NO_SETS) -> list[dict[str, Any]]:
        """Return one record for each picture, as `classify --json` prints it.

        Args:
            top: how many classes to name.
            uncertainty: what else to say; a set is null without a coverage.
        """
        members = (
            None if uncertainty.coverage is None else self.sets(uncertainty.coverage, uncertainty.method)
        )
        unknown = None if uncertainty.reject is None else self.unknown(uncertainty.reject)
        return [
            {
                **self.best(row, 1)[0],
                **(UNKNOWN if unknown is not None and unknown[row] else {}),
                "top": self.best(row, top),
                "set": None if members is None else self.names_in(row, members[row]),
                "coverage": uncertainty.coverage,
                "exit_layer": int(self.exit_layers[row]),
            }
            for row in range(len(self))
        ]

    def best(self, row: int, count: int) -> list[dict[str, Any]]:
        """Return the best classes of one picture, best first, as `classify --json` prints them."""
        calibrated = self.card.calibration is not None
        return [
            {
                "label": self.card.classes[index],
                "index": index,
                "rate": float(self.rates[row, index]),
                "probability": float(self.probabilities[row, index]) if calibrated else None,
            }
            for index in self.order[row, :count].tolist()
        ]

    def names_in(self, row: int, members: NDArray[np.bool_]) -> list[str]:
        """Return the names of the classes in a set (C,) of one picture, best first."""
        return [self.card.classes[index] for index in self.order[row].tolist() if members[index]]


def check_outputs(outputs: Sequence[NDArray[Any]], card: Card, pictures: int, name: str) -> Answers:
    """Hold the outputs of one run against the contract of model files, and return them as answers.

    A file can state anything of itself and still compute something else.

    Args:
        outputs: rates and probabilities, float32 (B, C); labels and exit layers, int64 (B,).
        card: of the file.
        pictures: B.
        name: of the file, for messages.

    Raises:
        ModelFileError: outputs of other types or shapes, rates or probabilities that are no numbers, a label
            that has not the smallest rate, or an exit layer that is none of the card's.
    """
    rates, probabilities, labels, exit_layers = outputs
    matrix, column = ("float32", (pictures, len(card.classes))), ("int64", (pictures,))
    found = [(str(output.dtype), output.shape) for output in outputs]
    if found != [matrix, matrix, column, column]:
        raise _wrong(name, "outputs of other types or shapes than its card implies")
    if not np.isfinite(rates).all():
        raise _wrong(name, "rates that are no numbers")
    if not ((probabilities >= 0) & (probabilities <= 1 + ROUNDING)).all():  # nan is neither
        raise _wrong(name, "probabilities that are not from 0 to 1")
    if labels.min() < 0 or labels.max() >= len(card.classes):
        raise _wrong(name, "a label that is no class of its card")
    if (rates[np.arange(pictures), labels] != rates.min(1)).any():
        raise _wrong(name, "a label whose rate is not the smallest")
    # What rates of another exit mean, and when they are surprising, nobody could say.
    if strange := set(exit_layers.tolist()).difference(card.exit_layers):
        raise _wrong(name, f"an answer from block {min(strange)}, which is no exit of its card")
    return Answers(rates, probabilities, labels, exit_layers, card)


def _wrong(name: str, what: str) -> ModelFileError:
    return ModelFileError(f"{name}: the graph gave {what}; export it again, or try another provider")
