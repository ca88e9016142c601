"""Gates: fit them, choose thresholds under a budget, and drop exits that are not worth having.

All of it is LRA-EE (arXiv 2605.26415). Eq. 4, on which `graph` acts: a picture leaves if

    sigmoid(w . (confidence, margin, spread) + b) >= threshold

where w and b are a logistic regression of whether it should. The spread is in squared activations and would
alone saturate the sigmoid, so the three are standardised. Every threshold is one of a grid, and all of them
are chosen together: the most right answers that the budget of operations allows. Eq. 5 and 6 tell which exits
quantisation has spoilt:

    INR = || E_x z ||^2 / Var_x(eps),  eps = z_int8 - z_fp32;  dropped if INR < 1/2 mean INR

n pictures, C classes, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from tgems_edge.errors import InputError

__all__ = [
    "GRID",
    "GateFit",
    "check_budget",
    "choose_thresholds",
    "drop_noisy",
    "exits_taken",
    "features",
    "fit_gate",
    "fold_threshold",
    "inr",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

GRID = np.linspace(0.20, 0.92, 25).round(2)
EVERYTHING, NOTHING = 0.0, 1.0  # thresholds at which all pictures leave, and none
CANDIDATES = np.array([EVERYTHING, *GRID, NOTHING])

RIDGE = 1e-4  # on weights, of a mean loss: where a line separates the pictures, it has no other minimum
RESOLUTION = 1e-6  # of the graph's fp32: what varies by a smaller part of its mean is constant
EXACT_GATES = 3  # up to which all combinations are tried
STARTS = 5
ROUNDING = 1e-9  # of a sum of operations
DROPPED_BELOW = 0.5  # of the mean INR

_Choice = tuple[int, float, tuple[int, ...]]  # right answers, minus the operations, rows of CANDIDATES


@dataclass(frozen=True)
class GateFit:
    """The gate of an exit: weights of standardised features."""

    weights: Floats  # (3,) w
    bias: float  # b
    mean: Floats  # (3,) of the features
    scale: Floats  # (3,) their standard deviations

    def scores(self, features: Floats) -> Floats:
        """Return the score (n,) of features (n, 3) for the threshold; below 1, whatever is rounded."""
        score = expit((features - self.mean) / self.scale @ self.weights + self.bias)
        return np.minimum(score, np.nextafter(NOTHING, 0))

    def raw(self) -> tuple[Floats, float]:
        """w (3,) and b of eq. 4 in the units of the features."""
        weight = self.weights / self.scale
        return weight, float(self.bias - weight @ self.mean)


def fold_threshold(weight: ArrayLike, bias: float, threshold: float) -> tuple[Floats, float]:
    """Weight (3,) and bias whose sum is negative below the threshold.

    Args:
        weight: (3,) w of eq. 4, in the units of the features.
        bias: b.
        threshold: from 0, at which all pictures leave, to 1, at which none does.

    Raises:
        ValueError: a threshold outside 0 to 1.
    """
    if not EVERYTHING <= threshold <= NOTHING:
        raise ValueError(f"a threshold of {threshold:g}, outside 0 to 1")
    if threshold in (EVERYTHING, NOTHING):
        return np.zeros(3), -threshold
    return np.asarray(weight, np.float64), bias - math.log(threshold / (1 - threshold))


def features(probabilities: NDArray[np.floating], spread: NDArray[np.floating]) -> Floats:
    """Return the features of a gate, (n, 3): confidence, margin, spread.

    Args:
        probabilities: (n, C), C >= 2.
        spread: (n,) mean squared distances of the patch tokens from their mean.
    """
    second, best = np.partition(probabilities.astype(np.float64), -2, axis=1)[:, -2:].T
    return np.stack([best, best - second, spread], axis=1)


def fit_gate(features: Floats, target: Bools) -> GateFit:
    """The gate of eq. 4 by logistic regression, whose cross-entropy is convex and so has one minimum.

    Args:
        features: (n, 3) as `features` gives them.
        target: (n,) whether each picture should leave here; in the paper, whether it is right here.
    """
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > RESOLUTION * np.abs(mean), scale, 1.0)
    inputs = np.column_stack([(features - mean) / scale, np.ones(len(features))])
    signs = np.where(target, 1.0, -1.0)

    def loss(weights: Floats) -> tuple[float, Floats]:
        agreement = signs * (inputs @ weights)
        slope = -(signs * expit(-agreement)) @ inputs / len(inputs)
        value = -log_expit(agreement).mean() + RIDGE / 2 * weights @ weights
        return float(value), slope + RIDGE * weights

    *weights, bias = minimize(loss, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-7}).x
    return GateFit(np.array(weights), float(bias), mean, scale)


def exits_taken(go_on: Sequence[Bools]) -> NDArray[np.int64]:
    """Return the exit that each picture leaves at, (n,), counted from 0.

    Args:
        go_on: (n,) for each exit but the last, whether its gate lets pictures go on.
    """
    return np.logical_and.accumulate(go_on).sum(0)


def check_budget(first: float, budget: float) -> None:
    """Raises InputError for a budget below what the first exit takes, both in the full tower's operations."""
    if budget < first:
        least = math.ceil(first * 1000) / 1000
        raise InputError(
            f"--budget {budget:g}: even if every picture left at the first exit, it would take {first:.3f} "
            f"of the full tower's operations; {least:g} is the smallest"
        )


def choose_thresholds(
    scores: Sequence[Floats], correct: Sequence[Bools], operations: Sequence[float], budget: float
) -> list[float]:
    """The thresholds with the most right answers within the budget; of equals, those with fewest operations.

    Besides the grid's, each gate may have the thresholds 0 and 1, at which all pictures leave and none. So
    the budget can be met whenever the first exit meets it, and an exit that helps nobody is passed by. Of up
    to three gates all combinations are tried; of more, pairs are improved in turn, from several starts, until
    no pair can be.

    Args:
        scores: (n,) in [0, 1), for each exit but the last.
        correct: (n,) for each exit, which pictures it has right.
        operations: of a picture that leaves at each exit; they increase.
        budget: most operations of a mean picture, in the same unit.

    Raises:
        InputError: the budget is below what the first exit takes.
    """
    check_budget(operations[0], budget)
    leaves = [score >= CANDIDATES[:, None] for score in scores]

    def best(tried: Sequence[NDArray[np.intp]]) -> _Choice:
        chosen = [leave[rows] for leave, rows in zip(leaves, tried, strict=True)]
        right, took, place = _best(chosen, correct, operations, budget)
        return right, -took, tuple(int(rows[at]) for rows, at in zip(tried, place, strict=True))

    every = np.arange(len(CANDIDATES))
    if len(leaves) <= EXACT_GATES:
        *_, rows = best([every] * len(leaves))
    else:
        starts = np.linspace(0, len(every) - 1, STARTS).round().astype(int)
        *_, rows = max(_improved(best, every, [start] * len(leaves)) for start in starts)
    return [float(CANDIDATES[row]) for row in rows]


def _improved(
    best: Callable[[Sequence[NDArray[np.intp]]], _Choice], every: NDArray[np.intp], start: Sequence[int]
) -> _Choice:
    """The choice that no other choice at two gates improves; the first pair can always meet the budget."""
    previous: _Choice | None = None
    found: _Choice = (0, 0.0, tuple(start))
    while found != previous:
        previous = found
        for pair in combinations(range(len(start)), 2):
            found = best([every if gate in pair else every[[row]] for gate, row in enumerate(found[2])])
    return found


def _best(
    leaves: Sequence[Bools], correct: Sequence[Bools], operations: Sequence[float], budget: float
) -> tuple[int, float, tuple[np.intp, ...]]:
    """Return the right answers, the operations and the choices of all combinations.

    Combinations are multiplied out gate by gate, S of them so far; a product of matrices then counts, for
    each of them and each choice at the next gate, who leaves there.

    Args:
        leaves: (m, n) for each gate, who leaves if they come there, with each of m choices.
        correct: see `choose_thresholds`.
        operations: see there.
        budget: see there.
    """
    pictures = len(correct[0])
    coming = np.ones((1, pictures), np.float32)  # (S, n)
    right, took = np.zeros((1, 1)), np.zeros((1, 1))  # (S, 1)
    for gate, leave in enumerate(leaves):
        right = right + _count(coming, leave & correct[gate])  # (S, m)
        took = took + operations[gate] * _count(coming, leave)
        if gate == len(leaves) - 1:
            right = right + _count(coming, ~leave & correct[-1])
            took = took + operations[-1] * _count(coming, ~leave)
        else:
            coming = (coming[:, None] * ~leave).reshape(-1, pictures)
            right, took = right.reshape(-1, 1), took.reshape(-1, 1)
    order = np.lexsort((took.ravel(), -right.ravel()))
    affordable = took.ravel() <= budget * pictures * (1 + ROUNDING)
    first = order[affordable[order]][0]
    place = np.unravel_index(first, [len(leave) for leave in leaves])
    return int(right.flat[first]), float(took.flat[first]), place


def _count(coming: NDArray[np.float32], which: Bools) -> Floats:
    """Count those that come, (S, n), among these, (m, n): (S, m), exact below 2^24 pictures."""
    return (coming @ which.T.astype(np.float32)).astype(np.float64)


def inr(clean: Sequence[NDArray[np.floating]], noisy: Sequence[NDArray[np.floating]]) -> Floats:
    """Information-to-noise ratio of each exit (eq. 5): its mean activation against what quantisation adds.

    Args:
        clean: (n, D) activations of each exit in floating point.
        noisy: (n, D) the same in INT8.
    """
    ratios = []
    for exact, quantised in zip(clean, noisy, strict=True):
        signal = np.square(exact.mean(0, dtype=np.float64)).sum()
        noise = (quantised.astype(np.float64) - exact).var(0).sum()
        ratios.append(signal / noise)
    return np.array(ratios)


def drop_noisy(ratios: ArrayLike) -> Bools:
    """Return the exits that eq. 6 drops; never the last, which takes what is left."""
    ratios = np.asarray(ratios, np.float64)
    noisy: Bools = ratios < DROPPED_BELOW * ratios.mean()
    noisy[-1] = False
    return noisy
