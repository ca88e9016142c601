"""Measurements made before a file was written, and the cost of INT8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Accuracy", "Gate", "Parity", "Quantisation", "Resizing"]


@dataclass(frozen=True)
class Parity:
    """Comparison of the graph with PyTorch, made before the file was written."""

    pictures: int
    of: str  # what they were, in words
    largest_rate_difference: float
    label_agreement: float  # share of equal labels, near-ties included


@dataclass(frozen=True)
class Resizing:
    """Comparison of the graph's resizing with Pillow's; only present where the graph resizes."""

    pictures: int
    pixels_within_1: float  # share of pixels that differ by one grey level at most
    largest_difference: int  # grey levels
    label_agreement: float  # share of labels equal to those after Pillow


@dataclass(frozen=True)
class Accuracy:
    """Measured on labelled images with this file; only present when such images were given."""

    top1: float
    images: int
    data_sha256: str
    calibration_error: float | None  # expected calibration error; None without calibration
    coverage: dict[str, float] | None  # of the threshold sets, for each coverage that was promised
    set_size: dict[str, float] | None  # classes in such a set, on average


@dataclass(frozen=True)
class Gate:
    """An INT8 file against the fp32 graph it was made from, on labelled pictures that made neither."""

    images: int
    data_sha256: str
    accuracy_drop: float  # points
    label_flips: float  # per cent of labels that differ


@dataclass(frozen=True)
class Quantisation:
    """The quantization of an INT8 file, and its cost."""

    scheme: Literal["static", "dynamic"]  # ranges of activations: known beforehand, or found at run time
    target: Literal["generic", "x86-vnni", "x86", "arm64", "tensorrt"]
    ranges: Literal["minmax", "entropy", "percentile"] | None  # how they were cut off; None where dynamic
    images: int  # that they were found on
    equalised: bool  # whether outliers were moved from activations into weights
    kept: tuple[str, ...]  # parts that stayed in floating point because INT8 cost too much there
    gate: Gate | None  # None: not measured

    @property
    def cost(self) -> str:
        """The cost of INT8 against fp32, in words."""
        if self.gate is None:
            return "not measured"
        gain = round(-self.gate.accuracy_drop, 1) + 0.0  # no "-0.0"
        flips = f"{self.gate.label_flips:.1f}% of labels flipped on {self.gate.images} pictures"
        return f"{gain:+.1f} points, {flips}"
