"""How answers say that they may be wrong: label sets of a coverage, and `unknown`."""

from __future__ import annotations

from dataclasses import dataclass

from tgems_edge.maths.sets import DEFAULT_COVERAGE, SetMethod
from tgems_edge.model_file.card import Card

__all__ = ["NO_DOUBT", "Doubt", "choose_doubt"]


@dataclass(frozen=True)
class Doubt:
    """What answers carry beside their best class."""

    coverage: float | None = None  # of the label sets; None without them
    method: SetMethod = "threshold"
    reject: float | None = None  # share of known pictures that may be called unknown; None: nothing is


NO_DOUBT = Doubt()


def choose_doubt(
    card: Card,
    coverage: float | None = None,
    method: SetMethod | None = None,
    reject: float | None = None,
) -> Doubt:
    """Return what was asked for; where no coverage was, a calibrated file has the default one.

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
    return Doubt(coverage, method, reject)
