"""Ranges of the activations around products on real pictures, and where to cut them off.

    minmax       everything that was seen
    percentile   all but a hundredth of a per cent at either end
    entropy      the cut that changes the distribution least: the smallest Kullback-Leibler divergence
                 between what was seen and its 256 levels (Migacz, TensorRT, GTC 2017)

One pass over the pictures, a few at a time; what stays of each tensor is a histogram, and the largest
magnitude or the mean of each of its channels. So the memory does not grow with the pictures, nor the time
with the methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Task
from tgems_export.threads import in_order, open_on_one_thread

__all__ = ["METHODS", "Range", "RangeMethod", "Seen", "observe", "with_outputs"]

RangeMethod = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[RangeMethod, ...] = ("minmax", "entropy", "percentile")

BINS = 8192  # of a histogram, at least half of which its values span
LEVELS = 256
TAIL = 1e-4  # that a percentile cuts off at either end
CUTS = 64  # that entropy tries

Range = tuple[float, float]


@dataclass
class Seen:
    """Values that a tensor took: a histogram between -limit and limit, which doubles when it is exceeded."""

    limit: float = 1e-6
    low: float = np.inf
    high: float = -np.inf
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    largest: NDArray[np.float32] | None = None  # (D,) magnitude of each channel
    total: NDArray[np.float64] | None = None  # (C,) of the means of maps (B, C, H, W)
    maps: int = 0

    @property
    def means(self) -> NDArray[np.float64] | None:
        """Mean of each channel (C,) of a map, None for another tensor."""
        return None if self.total is None else self.total / self.maps

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values (..., D), or those of maps (B, C, H, W)."""
        if values.ndim == 4:
            total = values.mean((2, 3), dtype=np.float64).sum(0)
            self.total = total if self.total is None else self.total + total
            self.maps += len(values)
        rows = values.reshape(-1, values.shape[-1])
        largest = np.abs(rows).max(0)
        self.largest = largest if self.largest is None else np.maximum(self.largest, largest)
        self.low, self.high = min(self.low, float(rows.min())), max(self.high, float(rows.max()))
        while self.limit < largest.max():
            self._double()
        counted = rows[rows != 0]  # zero is a level of every range, so it has no part in choosing one
        bins = ((counted + self.limit) * (BINS / (2 * self.limit))).astype(np.int32)
        self.counts += np.bincount(bins.clip(0, BINS - 1), minlength=BINS)

    def _double(self) -> None:
        """Double the limit: pairs of bins become one, in the middle."""
        self.limit *= 2
        merged = self.counts.reshape(-1, 2).sum(1)
        self.counts = np.pad(merged, BINS // 4)

    def range(self, method: RangeMethod) -> Range:
        """Return the range to keep, which holds zero."""
        if not self.counts.any():
            return 0.0, 0.0
        if method == "minmax":
            low, high = self.low, self.high
        elif method == "percentile":
            below = np.cumsum(self.counts) / self.counts.sum()
            edges = np.linspace(-self.limit, self.limit, BINS + 1)
            low, high = edges[np.searchsorted(below, TAIL)], edges[np.searchsorted(below, 1 - TAIL) + 1]
        else:
            cut = self._entropy_cut()
            low, high = -cut, cut
        return min(0.0, float(max(low, self.low))), max(0.0, float(min(high, self.high)))

    def _entropy_cut(self) -> float:
        """Return the magnitude to cut at."""
        half = BINS // 2
        magnitudes = self.counts[half:] + self.counts[half - 1 :: -1]  # of 0 to the limit
        used = int(np.flatnonzero(magnitudes)[-1]) + 1
        candidates = np.unique(np.linspace(min(LEVELS // 2, used), used, CUTS).astype(int))
        best = min(candidates, key=lambda kept: _divergence(magnitudes, int(kept)))
        return float(best) / half * self.limit


def _divergence(magnitudes: NDArray[np.int64], kept: int) -> float:
    """Return the KL divergence of the first `kept` bins, the last with all beyond it, from their levels."""
    clipped = magnitudes[:kept].astype(np.float64)
    own = clipped.copy()
    clipped[-1] += magnitudes[kept:].sum()
    level = np.arange(kept) * (LEVELS // 2) // kept
    filled = own > 0
    totals, members = np.bincount(level, own), np.bincount(level, filled)
    spread = np.where(filled, (totals / np.maximum(members, 1))[level], 0.0)
    p, q = clipped / clipped.sum(), spread / spread.sum() if spread.sum() else spread
    both = (p > 0) & (q > 0)
    missing = p[(p > 0) & (q == 0)].sum()  # outliers where nothing was: an infinite price, made finite
    return float((p[both] * np.log(p[both] / q[both])).sum() + 1e3 * missing)


def observe(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[NDArray[np.uint8]], task: Task
) -> dict[str, Seen]:
    """Run pictures through a graph and count what some of its tensors take.

    Args:
        model: takes `pixels`.
        tensors: names within it, float.
        batches: uint8 (B, H, W, 3) each.
        task: advances by a picture.
    """
    wanted = sorted(set(tensors))
    session = open_on_one_thread(with_outputs(model, wanted))
    seen = {name: Seen() for name in wanted}
    # One at a time: all activations of a large tower are a few hundred MB.
    pictures = ({INPUT: picture[None]} for pixels in batches for picture in pixels)
    for found in in_order(partial(session.run, wanted), pictures):
        for name, values in zip(wanted, found, strict=True):
            seen[name].add(values)
        task.advance(1)
    return seen


def with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """Serialise the graph, with some of its tensors as outputs."""
    outputs = list(model.graph.output)
    known = {value.name for value in outputs}
    for name in tensors:
        if name not in known:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    try:
        return bytes(model.SerializeToString())
    finally:
        del model.graph.output[len(outputs) :]
