"""Settings of how answers state their uncertainty: label sets of a coverage, and `unknown`."""

from __future__ import annotations

from dataclasses import dataclass

from tgems_edge.maths.sets import DEFAULT_COVERAGE, SetMethod
from tgems_edge.model_file.card import Card

__all__ = ["NO_SETS", "Uncertainty", "choose_uncertainty"]


@dataclass(frozen=True)
class Uncertainty:
    """Settings of label sets and of `unknown`."""

    coverage: float | None = None  # of the label sets; None without them
    method: SetMethod = "threshold"
    reject: float | None = None  # share of known pictures that may be called unknown; None: nothing is


NO_SETS = Uncertainty()


def choose_uncertainty(
    card: Card,
    coverage: float | None = None,
    method: SetMethod | None = None,
    reject: float | None = None,
) -> Uncertainty:
    """Return the chosen settings; a calibrated file gets label sets by default.

    Args:
        card: of the file that answers.
        coverage: of the label sets.
        method: of the label sets.
        reject: share of known pictures that may be called unknown.

    Raises:
        InputError: the file has no calibration, or none for this coverage or share.
    """
    if reject is not None:
        card.rejection_bound(reject)
    if coverage is None and (card.calibration or method):
        coverage = DEFAULT_COVERAGE
    method = method or "threshold"
    if coverage is not None:
        card.set_bound(coverage, method)
    return Uncertainty(coverage, method, reject)
