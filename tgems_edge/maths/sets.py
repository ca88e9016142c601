r"""Label sets with a coverage guarantee: split conformal prediction on the posterior.

p (B, C) is the posterior of the class-rates. A score s_c is large for a class that fits badly:

    threshold   s_c = 1 - p_c, and 0 for the best class           (Sadinle, Lei and Wasserman 2019)
    adaptive    s_c = sum of p over the classes ahead of c        (Romano, Sesia and Candes 2020)

With n calibration pictures, q is the ceil((n + 1) coverage)-th smallest score of their true classes, and
the set of a picture holds every class with s_c <= q. Whatever the model, the set of a new picture of the
same kind holds its true class with a probability of at least `coverage`, and at most 1 / (n + 1) more where
scores have no ties. That is a promise over all pictures, not for each class.

The best class has a score of 0, so a set is never empty; where the model is right more often than
`coverage`, sets are single classes and cover more than they promise. Threshold sets are the smallest on
average; adaptive sets are smaller for easy pictures and larger for hard ones.

The same quantile of the smallest rate R = min_c R_c, the *surprisal* of a picture, tells what is unlike
anything known: a share of `reject` of known pictures, at most, lies beyond it. Where a file has several
exits, R counts from what a usual picture costs at its exit, because their rates do not compare.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COVERAGES",
    "DEFAULT_COVERAGE",
    "LEAST_PICTURES",
    "METHODS",
    "REJECTS",
    "SetMethod",
    "hold",
    "label_sets",
    "quantile",
    "rank",
    "set_scores",
]

SetMethod = Literal["threshold", "adaptive"]
METHODS: tuple[SetMethod, ...] = ("threshold", "adaptive")

COVERAGES = ("0.8", "0.9", "0.95", "0.99")  # as they stand in the card
DEFAULT_COVERAGE = 0.9
REJECTS = ("0.2", "0.1", "0.05", "0.01")  # their complements
LEAST_PICTURES = 99  # fewer have no 0.99 quantile


def set_scores(probabilities: NDArray[Any], method: SetMethod) -> NDArray[np.float64]:
    """Return how badly each class fits: scores s (B, C) of the posterior (B, C), between 0 and 1."""
    p = probabilities.astype(np.float64)
    if method == "threshold":
        scores = 1 - p
        scores[np.arange(len(p)), p.argmax(1)] = 0
        return scores
    order = np.argsort(-p, axis=1, kind="stable")
    ordered = np.take_along_axis(p, order, 1)
    ahead = np.cumsum(ordered, 1) - ordered
    scores = np.empty_like(p)
    np.put_along_axis(scores, order, ahead, 1)
    return scores


def rank(count: int, level: float) -> int:
    """Return which of `count` ordered scores is the quantile, from 1; `count` + 1 for too few."""
    return math.ceil((count + 1) * level - 1e-9)  # 100 * 0.99 is a hair above 99 in binary


def quantile(scores: NDArray[Any], level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores of calibration pictures.

    Raises:
        ValueError: too few scores for this level.
    """
    place = rank(len(scores), level)
    if place > len(scores):
        raise ValueError(f"{len(scores)} scores have no {level} quantile")
    return float(np.sort(scores)[place - 1])


def label_sets(probabilities: NDArray[Any], bound: float, method: SetMethod) -> NDArray[np.bool_]:
    """Return the classes in the set of each picture.

    Args:
        probabilities: (B, C) posterior.
        bound: q, from `quantile` of the scores of the same method.
        method: see the module.

    Returns:
        (B, C); the best class of each picture is always in, because no quantile is below 0.
    """
    members: NDArray[np.bool_] = set_scores(probabilities, method) <= bound
    return members


def hold(members: NDArray[np.bool_], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the set of each picture, a row of (B, C), holds its class (B,)."""
    held: NDArray[np.bool_] = members[np.arange(len(labels)), labels]
    return held
