"""Metrics of a model on labelled pictures, in numpy.

B pictures with labels (B,), C classes, rates (B, C), probabilities (B, C).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgems_edge.maths.rates import top_k
from tgems_edge.maths.sets import rank

__all__ = [
    "ReliabilityBin",
    "bin_confidence",
    "calibration_error",
    "count_confusions",
    "coverage_interval",
    "mean_gap",
    "reliability",
    "top_accuracy",
]

BINS = 15  # as in Guo et al. 2017, so that figures compare


def top_accuracy(rates: NDArray[Any], labels: NDArray[np.int64], k: int = 1) -> float:
    """Share of pictures whose label is among the k smallest rates."""
    return float((top_k(rates, k) == labels[:, None]).any(1).mean())


@dataclass(frozen=True)
class ReliabilityBin:
    """The pictures whose best class has a probability in one interval."""

    pictures: int
    confidence: float  # their mean probability
    accuracy: float  # the share of them that is right


def bin_confidence(confidence: NDArray[Any], right: NDArray[np.bool_]) -> list[ReliabilityBin]:
    """Confidence (B,) against accuracy in 15 intervals of equal width; empty ones are left out.

    Args:
        confidence: probabilities of the best classes.
        right: whether those are the true ones.
    """
    interval = np.minimum((confidence * BINS).astype(int), BINS - 1)
    members = [interval == number for number in range(BINS)]
    return [
        ReliabilityBin(int(m.sum()), float(confidence[m].mean()), float(right[m].mean()))
        for m in members
        if m.any()
    ]


def reliability(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> list[ReliabilityBin]:
    """`bin_confidence` of probabilities (B, C)."""
    return bin_confidence(probabilities.max(1), probabilities.argmax(1) == labels)


def mean_gap(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error (Guo et al. 2017): mean |confidence - accuracy| over the pictures' bins."""
    gaps = sum(abs(b.confidence - b.accuracy) * b.pictures for b in bins)
    return gaps / sum(b.pictures for b in bins)


def calibration_error(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """`mean_gap` of probabilities (B, C)."""
    return mean_gap(reliability(probabilities, labels))


def count_confusions(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the pairs of a class and another that it was taken for.

    Pairs that did not occur are left out: of thousands of classes, a matrix of all would not fit in memory.

    Returns:
        (P, 3) true class, the other class, and pictures; the most frequent first, then in order of the
        classes.
    """
    wrong = answers != labels
    pairs = np.stack([labels[wrong], answers[wrong]], axis=1)
    pairs, pictures = np.unique(pairs, axis=0, return_counts=True)
    counts = np.column_stack([pairs, pictures]).astype(np.int64)
    return counts[np.argsort(-pictures, kind="stable")]


def coverage_interval(calibrated: int, measured: int, coverage: float) -> tuple[float, float]:
    """Return the 95 % interval of the measured coverage of split conformal sets.

    Calibration pictures are drawn, and so are those that measure: the covered ones are beta-binomial,
    m draws with a share of Beta(r, n + 1 - r), r = ceil((n + 1) coverage) (Angelopoulos and Bates 2021,
    section 3.2).

    Args:
        calibrated: n, pictures the quantile comes from.
        measured: m, pictures that measure.
        coverage: what was promised.
    """
    a = rank(calibrated, coverage)
    b = calibrated + 1 - a

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    log_pmf = [
        -math.log(measured + 1)
        - log_beta(hits + 1, measured - hits + 1)
        + log_beta(hits + a, measured - hits + b)
        - log_beta(a, b)
        for hits in range(measured + 1)
    ]
    cumulative = np.cumsum(np.exp(log_pmf))
    low = int(np.searchsorted(cumulative, 0.025))
    high = int(np.searchsorted(cumulative, 0.975))
    return low / measured, min(high, measured) / measured
