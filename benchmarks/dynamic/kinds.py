"""Heads of one kind behind every block, and sets of exits under the budget that calibration chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dynamic.answers import FP32, INT8, KINDS, Heads, Precision, Tower
from dynamic.choices import GATES, Curve, Decider, Gate, Outcome, Point, Run, difference, run
from tgems_export.heads.base import HeadKindName

__all__ = ["BUDGETS", "SETS", "SURE", "Choice", "Kind", "mean_accuracy", "mean_operations"]

SETS = ((3, 5, 8), (3, 5, 8, 11), (8, 10, 11), (8, 10, 11, 12))
BUDGETS = tuple(np.arange(0.25, 0.901, 0.05).round(2).tolist())
GATES_BETWEEN = 1 / 3  # of the way from the first exit's operations to the last one's, where a budget binds

SURE = 1.96  # standard errors

Bools = NDArray[np.bool_]


def mean_accuracy(found: Sequence[Point]) -> float:
    """Accuracy where it is measured, over the seeds."""
    return float(np.mean([point.evaluation.accuracy for point in found]))


def mean_operations(found: Sequence[Point]) -> float:
    """Operations of a mean picture there, as a share of the full tower's."""
    return float(np.mean([point.evaluation.operations for point in found]))


@dataclass(frozen=True)
class Kind:
    """Heads of one kind, of every seed, and what all exits and sets of exits make of them."""

    kind: HeadKindName
    heads: list[Heads]

    @property
    def title(self) -> str:
        """The name as people say it."""
        return KINDS[self.kind]

    @cached_property
    def tower(self) -> Tower:
        """The graph of all exits."""
        return Tower(self.heads[0])

    @cached_property
    def runs(self) -> dict[Precision, list[Run]]:
        """Results for each precision and seed."""
        return {p: [run(self.tower, heads, p) for heads in self.heads] for p in (FP32, INT8)}

    @cached_property
    def uncalibrated(self) -> list[Run]:
        """Results in INT8 with every temperature 1."""
        return [run(self.tower, heads, INT8, calibrated=False) for heads in self.heads]

    @cached_property
    def curves(self) -> dict[tuple[Precision, tuple[int, ...]], Curve]:
        """Values for every precision and set."""
        return {
            (precision, layers): Curve.of(runs, layers, BUDGETS)
            for precision, runs in self.runs.items()
            for layers in SETS
        }

    @cached_property
    def gated(self) -> dict[tuple[int, ...], dict[str, list[Outcome]]]:
        """Outcomes of the evaluation pictures in INT8 for each set, gate and seed."""
        return {
            layers: {name: self._outcomes(layers, gate) for name, gate in GATES.items()} for layers in SETS
        }

    def _outcomes(self, layers: tuple[int, ...], gate: Gate) -> list[Outcome]:
        first, *_, last = self.heads[0].costs.dynamic(layers)
        budget = first + GATES_BETWEEN * (last - first)
        runs = self.runs[INT8] if gate.calibrated else self.uncalibrated
        return [Decider(run, layers, gate).point(budget).evaluation for run in runs]

    @property
    def costs(self) -> list[float]:
        """Accuracies of the static exits."""
        return self.heads[0].costs.static

    def right(self, layer: int, precision: Precision = INT8) -> list[Bools]:
        """The evaluation pictures that the static exit has right, for each seed."""
        return [run.evaluation.right[layer - 1] for run in self.runs[precision]]

    def accuracy(self, layer: int, precision: Precision = INT8) -> float:
        """The mean accuracy of a static exit over all seeds."""
        return float(np.mean(self.right(layer, precision)))

    def calibrated_accuracy(self, layer: int, precision: Precision = INT8) -> float:
        """The same on the pictures that calibrate, where it may be chosen by."""
        return float(np.mean([run.calibration.right[layer - 1] for run in self.runs[precision]]))

    def best(self, precision: Precision = INT8) -> int:
        """The static exit that is most often right on the pictures that calibrate; of equals the earliest."""
        layers = self.heads[0].material.layers
        return max(layers, key=lambda layer: (self.calibrated_accuracy(layer, precision), -layer))

    def cheapest_equal(self, precision: Precision = INT8) -> int:
        """The cheapest static exit that those pictures cannot tell from the best."""
        runs = self.runs[precision]
        best = [run.calibration.right[self.best(precision) - 1] for run in runs]

        def is_worse(layer: int) -> bool:
            gain, error = difference([run.calibration.right[layer - 1] for run in runs], best)
            return gain < -SURE * error

        return next(layer for layer in self.heads[0].material.layers if not is_worse(layer))

    def chosen(self, layers: tuple[int, ...], precision: Precision = INT8) -> list[Point]:
        """Under the budget that calibration says is as good as the best static exit."""
        curve = self.curves[precision, layers]
        return curve.chosen(self.calibrated_accuracy(self.best(precision), precision))

    def as_accurate(self, accuracy: float, precision: Precision = INT8) -> int | None:
        """The cheapest static exit that is at least so accurate where it is measured."""
        enough = [i for i in self.heads[0].material.layers if self.accuracy(i, precision) >= accuracy]
        return min(enough, key=lambda layer: self.costs[layer - 1], default=None)


@dataclass(frozen=True)
class Choice:
    """A set of exits under the budget that calibration chooses, beside the best static exit."""

    kind: Kind
    layers: tuple[int, ...]
    precision: Precision

    @property
    def chosen(self) -> list[Point]:
        """Values for each seed."""
        return self.kind.chosen(self.layers, self.precision)

    @property
    def best(self) -> int:
        """The static exit to be equalled."""
        return self.kind.best(self.precision)

    @property
    def gain(self) -> tuple[float, float]:
        """Accuracy against it, and the standard error."""
        right = [point.evaluation.right for point in self.chosen]
        return difference(right, self.kind.right(self.best, self.precision))

    @property
    def saving(self) -> float:
        """Share of its operations that is saved."""
        return self.saving_on(self.best)

    def saving_on(self, layer: int) -> float:
        """Share of a static exit's operations that is saved."""
        return 1 - mean_operations(self.chosen) / self.kind.costs[layer - 1]

    @property
    def hindsight(self) -> float | None:
        """The least operations of all budgets that measured as accurate as it, if any did."""
        wanted = self.kind.accuracy(self.best, self.precision)
        curve = self.kind.curves[self.precision, self.layers]
        enough = [mean_operations(found) for found in curve.points if mean_accuracy(found) >= wanted]
        return min(enough, default=None)
