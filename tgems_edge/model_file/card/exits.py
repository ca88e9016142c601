"""The exits of a file: where its tower is cut, what stands behind, and which pictures leave there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tgems_edge.model_file.card.require import require

__all__ = ["Dynamic", "Exit", "ExitCalibration", "ExitGate", "HeadKind", "validate_exits"]

HeadKind = Literal["tgem", "ssa", "zero-shot"]


@dataclass(frozen=True)
class ExitGate:
    """Which pictures leave at an exit (LRA-EE, arXiv 2605.26415, eq. 4).

    A picture leaves if sigmoid(weights . (confidence, margin, spread) + bias) >= threshold. The spread is the
    mean squared distance of the patch tokens from their mean.
    """

    weights: tuple[float, float, float]
    bias: float
    threshold: float


@dataclass(frozen=True)
class ExitCalibration:
    """What the calibration pictures say of one exit."""

    temperature: float  # T of its posterior
    surprise: float  # rates are counted from it where those of several exits are compared; 0 of a single exit
    share: float  # of the calibration pictures that left here


@dataclass(frozen=True)
class Exit:
    """One place where the tower is cut, and what answers there."""

    layer: int  # the block, counted from 1
    k: int  # K, the width in which the head compares: of the Jumper's output, or E of an SSA head
    pool: Literal["cls", "mean", "embedding"]  # what the head reads: class token, mean, joint embedding
    head_kind: HeadKind
    operations: int | None  # floating-point, for one picture that leaves here; None in files that do not say
    gate: ExitGate | None  # None at the last exit, which everything leaves
    calibration: ExitCalibration | None
    name: str | None = None  # of the exit point where it is not the number: `5.2`, or `full`

    @property
    def title(self) -> str:
        """The name of the exit point, as `--layer` takes it."""
        return self.name or str(self.layer)

    @property
    def temperature(self) -> float:
        """T of the posterior; 1 without calibration."""
        return self.calibration.temperature if self.calibration else 1.0


@dataclass(frozen=True)
class Dynamic:
    """What several exits in one file were chosen for."""

    budget: float  # operations of a mean picture, as a share of the full tower's: what was asked for
    full_operations: int  # of the full tower, for one picture
    dropped: dict[str, str]  # exits that were asked for and are not there, and why


def validate_exits(exits: Sequence[Exit]) -> None:
    """Checks the exits of a card, each for itself and all beside each other.

    Raises:
        ModelFileError: what is wrong with them.
    """
    require(len(exits) >= 1, "no exit")
    *gated, last = exits
    fitted = [exit.calibration for exit in exits if exit.calibration]
    require(all(exit.k >= 1 and exit.layer >= 1 for exit in exits), "an exit with a layer or a K below 1")
    require(_grow([exit.layer for exit in exits]), "exits that are not in their order")
    require(all(exit.gate for exit in gated), "an exit before the last without a gate")
    require(last.gate is None, "a gate at its last exit, which takes what is left")
    thresholds = [exit.gate.threshold for exit in gated if exit.gate]
    require(all(0 <= threshold <= 1 for threshold in thresholds), "a threshold outside 0 to 1")
    operations = [exit.operations for exit in exits]
    known = [count for count in operations if count is not None]
    require(known == operations or not gated, "several exits, one of which does not say its operations")
    require(_grow(known), "exits that do not cost more than those before")
    require(len(fitted) in (0, len(exits)), "half a calibration")
    require(all(part.temperature > 0 for part in fitted), "an exit with a temperature that is not positive")
    if fitted:
        shares = [part.share for part in fitted]
        whole = min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6
        require(whole, "shares of its exits that do not add up to 1")


def _grow(numbers: Sequence[int]) -> bool:
    """Whether they begin above 0 and each is larger than the one before."""
    return all(before < after for before, after in zip([0, *numbers], numbers, strict=False))
