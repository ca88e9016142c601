"""Choices of exits and their value, in numpy: the sums of dynamic_exits.py.

Temperatures, gates and thresholds are fitted on the pictures that calibrate, and accuracy and operations come
from the exits that the pictures that evaluate then take. `decisions.decide` does the same for a file; here
every part of it can be replaced by a control.

n pictures, C classes, S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from dynamic.answers import Costs, Heads, Precision, Tower
from tgems_edge.errors import InputError
from tgems_edge.maths.rates import posterior
from tgems_export.calibration import fit_temperature
from tgems_export.exporting.dynamic.decisions import ExitAnswers, Fit, fit_right
from tgems_export.exporting.dynamic.gates import (
    GRID,
    GateFit,
    choose_thresholds,
    exits_taken,
    features,
    fit_gate,
)

__all__ = [
    "GATES",
    "Curve",
    "Decider",
    "Gate",
    "Outcome",
    "Point",
    "Quadrants",
    "Run",
    "difference",
    "mcnemar",
    "quadrants",
    "run",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """Features of gates for n pictures, and the exits that have them right."""

    features: list[Floats]  # (n, 3) for each exit but the last
    right: Bools  # (exits, n)


@dataclass(frozen=True)
class Run:
    """All exits of one seed, kind and precision on both sorts of pictures."""

    calibration: Seen
    evaluation: Seen
    costs: Costs
    temperatures: tuple[float, ...]


def run(tower: Tower, heads: Heads, precision: Precision, *, calibrated: bool = True) -> Run:
    """Data to decide with; without calibration every temperature is 1."""
    said, material = tower.said(heads, precision), heads.material
    labels, ks = material.calibration.labels, [part.head.k for part in heads.parts]
    temperatures = [
        fit_temperature(answer.rates, labels, k) if calibrated else 1.0
        for answer, k in zip(said.calibration, ks, strict=True)
    ]

    def see(answers: Sequence[ExitAnswers], labels: NDArray[np.int64]) -> Seen:
        seen = [
            features(posterior(answer.rates.astype(np.float64), k, temperature), answer.spread)
            for answer, k, temperature in zip(answers[:-1], ks, temperatures, strict=False)
        ]
        return Seen(seen, np.stack([answer.right(labels) for answer in answers]))

    return Run(
        see(said.calibration, labels),
        see(said.evaluation, material.evaluation.labels),
        tower.heads.costs,
        tuple(temperatures),
    )


@dataclass(frozen=True)
class Outcome:
    """Outcome of n pictures."""

    taken: NDArray[np.int64]  # (n,) which of the exits, from 0
    right: Bools  # (n,)
    shares: Floats  # of the pictures, by exit
    operations: float  # of a mean picture, as a share of the full tower's

    @property
    def accuracy(self) -> float:
        """Share that is right."""
        return float(self.right.mean())


def _outcome(taken: NDArray[np.int64], right: Bools, costs: Sequence[float]) -> Outcome:
    """Return the accuracy of exits taken, where (exits, n) says which exit is right."""
    shares = np.bincount(taken, minlength=len(costs)) / len(taken)
    return Outcome(taken, right[taken, np.arange(len(taken))], shares, float(shares @ costs))


@dataclass(frozen=True)
class Gate:
    """One way to decide."""

    fit: Fit = fit_right
    quantiles: bool = False  # thresholds at quantiles of the scores, not at fixed ones
    calibrated: bool = True


def _fit_on(label: Callable[[Bools, Bools], Bools]) -> Fit:
    """A gate with another label, of who is right here and who at the end."""

    def fit(seen: Floats, right: Sequence[Bools], number: int) -> GateFit:
        return fit_gate(seen, label(right[number], right[-1]))

    return fit


def _fit_confidence(seen: Floats, right: Sequence[Bools], number: int) -> GateFit:
    """The gate of LRA-EE without margin and spread; what is always 0 has no weight."""
    return fit_gate(seen * [1, 0, 0], right[number])


# A rescue is rare, so its probability hardly reaches the lowest of the fixed thresholds.
GATES = {
    "right here (eq. 4)": Gate(),
    "right here, thresholds at quantiles": Gate(quantiles=True),
    "not wrong here and right at the end, at quantiles": Gate(_fit_on(lambda here, end: here | ~end), True),
    "right here and wrong at the end, at quantiles": Gate(_fit_on(lambda here, end: here & ~end), True),
    "confidence alone": Gate(_fit_confidence),
    "without temperature": Gate(calibrated=False),
}


@dataclass(frozen=True)
class Point:
    """Thresholds under one budget."""

    budget: float
    thresholds: list[float]
    calibration: Outcome
    evaluation: Outcome


class Decider:
    """Gates of several exits, fitted."""

    def __init__(self, run: Run, layers: Sequence[int], gate: Gate = GATES["right here (eq. 4)"]):
        """Choose exits behind some of the blocks."""
        self._places = [layer - 1 for layer in layers]
        self.costs = run.costs.dynamic(layers)
        self._run, self._gate = run, gate
        right = list(run.calibration.right[self._places])
        self.gates = [
            gate.fit(run.calibration.features[place], right, number)
            for number, place in enumerate(self._places[:-1])
        ]

    def point(self, budget: float) -> Point:
        """Return what the budget buys.

        Raises:
            InputError: nothing.
        """
        run = self._run
        right = list(run.calibration.right[self._places])
        thresholds = choose_thresholds(self._calibration_scores, right, self.costs, budget)
        outcomes = (
            _outcome(
                exits_taken([score < least for score, least in zip(scores, thresholds, strict=True)]),
                seen.right[self._places],
                self.costs,
            )
            for seen, scores in (
                (run.calibration, self._calibration_scores),
                (run.evaluation, self._evaluation_scores),
            )
        )
        return Point(budget, thresholds, *outcomes)

    def points(self, budgets: Sequence[float]) -> list[Point]:
        """Return what each budget buys, without those that buy nothing."""
        found = []
        for budget in budgets:
            try:
                found.append(self.point(budget))
            except InputError:
                continue
        return found

    def first_right(self) -> Outcome:
        """If every picture left where it is first right, or else at the first exit: nothing does better."""
        right = self._run.evaluation.right[self._places]
        return _outcome(right.argmax(0), right, self.costs)

    @cached_property
    def _calibration_scores(self) -> list[Floats]:
        return self._scores(self._run.calibration)

    @cached_property
    def _evaluation_scores(self) -> list[Floats]:
        return self._scores(self._run.evaluation)

    def _scores(self, seen: Seen) -> list[Floats]:
        scores = []
        for gate, place in zip(self.gates, self._places, strict=False):
            score = gate.scores(seen.features[place])
            if self._gate.quantiles:
                known = np.sort(gate.scores(self._run.calibration.features[place]))
                below = np.searchsorted(known, score) / len(known)
                score = np.minimum(GRID[0] + below * (GRID[-1] - GRID[0]), GRID[-1])
            scores.append(score)
        return scores


@dataclass(frozen=True)
class Curve:
    """Value of several exits under every budget, for S seeds."""

    layers: tuple[int, ...]
    deciders: list[Decider]  # S
    points: list[list[Point]]  # of each budget, S

    @classmethod
    def of(cls, runs: Sequence[Run], layers: tuple[int, ...], budgets: Sequence[float]) -> Curve:
        """Exits behind some of the blocks; budgets beyond the first that allows everything add nothing."""
        deciders = [Decider(run, layers) for run in runs]
        most = deciders[0].costs[-1]
        wanted = [budget for budget in budgets if budget < most + budgets[1] - budgets[0]]
        return cls(layers, deciders, list(zip(*(d.points(wanted) for d in deciders), strict=True)))

    @property
    def costs(self) -> list[float]:
        """Operations of a picture that leaves at each exit."""
        return self.deciders[0].costs

    def reaching(self, wanted: float) -> list[Point] | None:
        """The smallest budget with so much accuracy on the pictures that calibrate, if there is one."""
        return next((points for points in self.points if _calibrated(points) >= wanted), None)

    def chosen(self, wanted: float) -> list[Point]:
        """The same, or else the one with the most accuracy there."""
        return self.reaching(wanted) or max(self.points, key=_calibrated)


def _calibrated(points: Sequence[Point]) -> float:
    return float(np.mean([point.calibration.accuracy for point in points]))


@dataclass(frozen=True)
class Quadrants:
    """Compare two on the same pictures (McNemar's exact test)."""

    both: int
    rescue: int  # only the first
    loss: int  # only the second
    neither: int
    p: float


def quadrants(first: Bools, second: Bools) -> Quadrants:
    """Labels of pictures, (n,)."""
    rescue, loss = int((first & ~second).sum()), int((second & ~first).sum())
    return Quadrants(
        int((first & second).sum()), rescue, loss, int((~first & ~second).sum()), mcnemar(rescue, loss)
    )


def mcnemar(rescue: int, loss: int) -> float:
    """The exact test: of those on which two differ, each is as often right, or they are not equal."""
    return float(binomtest(rescue, rescue + loss).pvalue) if rescue + loss else 1.0


def difference(first: Sequence[Bools], second: Sequence[Bools]) -> tuple[float, float]:
    """Return the gain in accuracy of the first over S seeds on the same pictures, and its standard error."""
    gains = (np.array(first, float) - np.array(second, float)).mean(0)
    return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
