"""Small evaluators: each yields names and numbers.

B pictures with labels (B,), C classes, rates (B, C) or anything else of which the smallest is the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from tgems_edge.maths.metrics import calibration_error, reliability, top_accuracy
from tgems_edge.maths.rates import posterior
from tgems_edge.maths.sets import COVERAGES, DEFAULT_COVERAGE, METHODS, hold, label_sets
from tgems_export.calibration import Fitted, calibrate

__all__ = ["Value", "measure_answers", "measure_certainty", "right_answers", "which_are_right"]

Value = float | str | list[float] | list[list[float]] | list[str]

TOPS = (1, 2, 3)
KNOWN_ACCEPTED = 0.95  # of FPR95


def measure_answers(rates: NDArray[np.floating], labels: NDArray[np.int64]) -> Iterator[tuple[str, Value]]:
    """Top-1 to 3, and which answers are right."""
    for top in TOPS:
        yield f"top{top}", top_accuracy(rates, labels, top)
    yield "right", which_are_right(rates.argmin(1) == labels)


def which_are_right(right: NDArray[np.bool_]) -> str:
    """One bit a picture, as hexadecimal digits."""
    return np.packbits(right).tobytes().hex()


def right_answers(text: str, pictures: int) -> NDArray[np.bool_]:
    """Read what `which_are_right` wrote."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=pictures).astype(bool)


def measure_certainty(
    calibration_rates: NDArray[np.floating],
    calibration_labels: NDArray[np.int64],
    rates: NDArray[np.floating],
    labels: NDArray[np.int64],
    unknown_rates: Mapping[str, NDArray[np.floating]],
    k: int,
) -> Iterator[tuple[str, Value]]:
    """Temperature, label sets and "none of these": fitted on some pictures, measured on others."""
    fitted = calibrate(calibration_rates, calibration_labels, k)
    yield "temperature", fitted.temperature
    for when, temperature in (("before", 1.0), ("after", fitted.temperature)):
        probabilities = posterior(rates.astype(np.float64), k, temperature)
        yield f"calibration error {when}", calibration_error(probabilities, labels)
        bins = reliability(probabilities, labels)
        yield f"reliability {when}", [[b.pictures, b.confidence, b.accuracy] for b in bins]
    yield from _measure_sets(fitted, probabilities, labels)
    yield from _measure_rejection(fitted, rates, unknown_rates, k)


def _measure_sets(
    fitted: Fitted, probabilities: NDArray[np.floating], labels: NDArray[np.int64]
) -> Iterator[tuple[str, Value]]:
    for method in METHODS:
        bounds = fitted.conformal if method == "threshold" else fitted.conformal_adaptive
        for coverage in COVERAGES:
            sets = label_sets(probabilities, bounds[coverage], method)
            covered = hold(sets, labels)
            yield f"{method} {coverage} coverage", float(covered.mean())
            yield f"{method} {coverage} size", float(sets.sum(1).mean())
            if float(coverage) == DEFAULT_COVERAGE:
                of_class = [covered[labels == label] for label in range(probabilities.shape[1])]
                yield f"{method} {coverage} by class", [float(share.mean()) for share in of_class]


def _measure_rejection(
    fitted: Fitted,
    rates: NDArray[np.floating],
    unknown_rates: Mapping[str, NDArray[np.floating]],
    k: int,
) -> Iterator[tuple[str, Value]]:
    """Shares that are rejected; and how well two scores tell known pictures from unknown ones.

    The scores: surprisal, the smallest rate; and doubt, one minus the largest probability, the baseline of
    Hendrycks and Gimpel 2017.
    """
    for reject, bound in fitted.rejection.items():
        yield f"rejected {reject} known", float((rates.min(1) > bound).mean())
    for what, unknown in unknown_rates.items():
        for reject, bound in fitted.rejection.items():
            yield f"rejected {reject} {what}", float((unknown.min(1) > bound).mean())
        scores = {
            "surprisal": (rates.min(1), unknown.min(1)),
            "doubt": tuple(
                1 - posterior(r.astype(np.float64), k, fitted.temperature).max(1) for r in (rates, unknown)
            ),
        }
        for name, (of_known, of_unknown) in scores.items():
            is_unknown = np.repeat([0, 1], [len(of_known), len(of_unknown)])
            both = np.concatenate([of_known, of_unknown])
            yield f"{name} auroc {what}", float(roc_auc_score(is_unknown, both))
            yield f"{name} fpr95 {what}", _fpr95(of_known, of_unknown)


def _fpr95(known: NDArray[np.floating], unknown: NDArray[np.floating]) -> float:
    """The share of unknown pictures that pass where 95 % of the known ones do."""
    return float((unknown <= np.quantile(known, KNOWN_ACCEPTED, method="higher")).mean())
