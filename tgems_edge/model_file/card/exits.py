"""The exits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tgems_edge.model_file.card.require import require

__all__ = ["Dynamic", "DynamicExit", "validate_exits"]


@dataclass(frozen=True)
class DynamicExit:
    """One of the exits of a dynamic file (LRA-EE, arXiv 2605.26415, eq. 4).

    A picture leaves here if sigmoid(w . (confidence, margin, spread) + bias) >= threshold. The spread is the
    mean squared distance of the patch tokens from their mean.
    """

    layer: int
    k: int
    pool: Literal["cls", "mean"]
    temperature: float  # T of its posterior
    surprise: float  # the smallest rate of a median calibration picture; `unknown` looks at what exceeds it
    weights: tuple[float, float, float] | None  # w; None for the last exit, which everything leaves
    bias: float | None
    threshold: float | None
    operations: int  # floating-point, for one picture that leaves here, gates and heads included
    share: float  # of the calibration pictures that left here


@dataclass(frozen=True)
class Dynamic:
    """How a file with several exits decides."""

    budget: float  # operations of a mean picture, as a share of the full tower's: what was asked for
    operations: float  # the same, as it came out on the calibration pictures
    exits: tuple[DynamicExit, ...]  # in their order, the last of which takes what is left
    dropped: dict[str, str]  # exits that were asked for and are not there, and why


def validate_exits(exits: Sequence[DynamicExit]) -> None:
    """Raises ModelFileError for exits that contradict each other."""
    *gated, last = exits
    layers, operations = [exit.layer for exit in exits], [exit.operations for exit in exits]
    thresholds = [exit.threshold for exit in gated if exit.threshold is not None]
    require(_grow(layers), "exits that are not in their order")
    require(_grow(operations), "exits that do not cost more than those before")
    require(all(exit.k >= 1 for exit in exits), "an exit with a K below 1")
    require(all(exit.temperature > 0 for exit in exits), "an exit with a temperature that is not positive")
    require(all(None not in _gate(exit) for exit in gated), "an exit before the last without a whole gate")
    require(set(_gate(last)) == {None}, "a gate at its last exit, which takes what is left")
    require(all(0 <= threshold <= 1 for threshold in thresholds), "a threshold outside 0 to 1")
    shares = [exit.share for exit in exits]
    whole = min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6
    require(whole, "shares of its exits that do not add up to 1")


def _gate(exit: DynamicExit) -> tuple[object, ...]:
    return exit.weights, exit.bias, exit.threshold


def _grow(numbers: Sequence[int]) -> bool:
    """Whether they begin above 0 and each is larger than the one before."""
    return all(before < after for before, after in zip([0, *numbers], numbers, strict=False))
