"""The recipe that changes the answers least, and the parts to keep in fp32 where even that is too much.

All of it is chosen on pictures that calibrate: ranges on one half of them, recipe and parts on the other. The
pictures that measure only decide whether the file is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from tgems_edge.errors import AccuracyError, DataError, ImageError
from tgems_edge.model_file.card import Preprocessing
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import decode, to_pixels
from tgems_export.exporting.quantization.equalisation import can_equalise, equalise
from tgems_export.exporting.quantization.products import find_products
from tgems_export.exporting.quantization.ranges import METHODS, Seen, observe
from tgems_export.exporting.quantization.recipe import Recipe, Target, quantise
from tgems_export.threads import in_order, open_on_one_thread

__all__ = [
    "LEAST_PICTURES",
    "Difference",
    "Limits",
    "Quantiser",
    "answers",
    "batches",
    "check_different",
    "choose_calibrating",
    "compare",
    "read_calibrating",
]

T = TypeVar("T")

LEAST_PICTURES = 32  # that differ; fewer say little about the range of anything
OBSERVED = 256  # pictures whose ranges are taken: more change nothing that can be measured
COMPARED = 1000  # that recipes are compared on
RANKED = 32_000  # that the error of parts is measured on, all parts together
BATCH = 16


@dataclass(frozen=True)
class Limits:
    """Limits of what INT8 may cost."""

    accuracy_drop: float = 0.5  # points
    label_flips: float = 2.0  # per cent of labels that differ from fp32


def choose_calibrating(pictures: Sequence[T]) -> list[T]:
    """Return at most OBSERVED + COMPARED pictures, evenly spread."""
    step = max(1, -(-len(pictures) // (OBSERVED + COMPARED)))
    return list(pictures[::step])


def check_different(pixels: NDArray[np.uint8], varied: NDArray[np.bool_]) -> None:
    """Check that pictures can show what activations take.

    Args:
        pixels: (n, H, W, 3).
        varied: (n,) which are of more than one colour.

    Raises:
        DataError: too few of them differ and show anything.
    """
    different = {picture.tobytes() for picture in pixels[varied]}
    if len(different) < LEAST_PICTURES:
        raise DataError(
            f"{len(different)} pictures that differ and are not of one colour; INT8 needs at least "
            f"{LEAST_PICTURES} to find the ranges of its activations: give more --calibration, or "
            "--precision int8-dynamic, which needs none"
        )


def read_calibrating(
    paths: Sequence[Path], preprocessing: Preprocessing, reporter: Reporter
) -> NDArray[np.uint8]:
    """Return pictures as the graph takes them, (n, H, W, 3), n at most OBSERVED + COMPARED, evenly spread.

    Raises:
        DataError: too few of them can be read, differ and show anything.
    """
    chosen = choose_calibrating(paths)
    read, varied = [], []
    with reporter.task("reading pictures", len(chosen), unit="pictures") as task:
        for path in chosen:
            task.advance(1)
            try:
                picture = decode(path, colour=preprocessing.colour)
                read.append(to_pixels(picture, preprocessing))
            except ImageError as error:
                reporter.leave_out(error)
                continue
            extremes: Any = (
                picture.getextrema()
            )  # of the picture itself: its padding may be of another colour
            varied.append(any(low < high for low, high in extremes))
    pixels = np.stack(read) if read else np.empty((0, *preprocessing.size, 3), np.uint8)
    check_different(pixels, np.array(varied, bool))
    return pixels


class Quantiser:
    """Quantization of one graph with many recipes; what the pictures say is found once."""

    def __init__(self, model: onnx.ModelProto, pixels: NDArray[np.uint8], reporter: Reporter):
        """Prepare a graph in fp32, with pictures (n, H, W, 3) that calibrate."""
        self._reporter = reporter
        self._graphs = {False: model}
        self._seen: dict[bool, dict[str, Seen]] = {}
        share = min(len(pixels) // 2, OBSERVED)
        chosen = np.zeros(len(pixels), bool)
        chosen[np.linspace(0, len(pixels) - 1, share).astype(int)] = True  # classes may come in order
        self._observed, self._compared = pixels[chosen], pixels[~chosen][:COMPARED]
        self.reference = answers(model, self._compared)

    @property
    def observed(self) -> int:
        """Number of pictures that gave the ranges."""
        return len(self._observed)

    def make(self, recipe: Recipe) -> onnx.ModelProto:
        """Return the graph in INT8."""
        if recipe.ranges is None:
            return quantise(self._graphs[False], recipe, {})
        seen = self._see(equalised=recipe.equalised)
        ranges = {name: tensor.range(recipe.ranges) for name, tensor in seen.items()}
        means = {name: tensor.means for name, tensor in seen.items() if tensor.means is not None}
        return quantise(self._graphs[recipe.equalised], recipe, ranges, means)

    def _see(self, *, equalised: bool) -> dict[str, Seen]:
        if equalised not in self._seen:
            if equalised:
                self._graphs[True] = equalise(self._graphs[False], self._see(equalised=False))
            model = self._graphs[equalised]
            names = [name for product in find_products(model) for name in product.activations]
            with self._reporter.task("finding ranges", len(self._observed), unit="pictures") as task:
                self._seen[equalised] = observe(model, names, batches(self._observed), task)
        return self._seen[equalised]

    def difference(self, model: onnx.ModelProto) -> Difference:
        """Compare the answers of an INT8 graph with those of the one in fp32."""
        return compare(self.reference, answers(model, self._compared))

    def best(self, target: Target) -> Recipe:
        """Return the recipe with the smallest error: each way to cut ranges, and the best one equalised."""
        candidates = [Recipe(target, method) for method in METHODS]
        errors = {recipe: self.difference(self.make(recipe)).error for recipe in candidates}
        best = min(candidates, key=errors.__getitem__)
        if can_equalise(self._graphs[False]):
            equalised = dataclasses.replace(best, equalised=True)
            errors[equalised] = self.difference(self.make(equalised)).error
            best = min(best, equalised, key=errors.__getitem__)
        for recipe, error in errors.items():
            title = f"{recipe.ranges}{', equalised' if recipe.equalised else ''}"
            self._reporter.say(f"ranges by {title}: {error:.2%} error in the rates")
        return best

    def part_errors(self, recipe: Recipe) -> dict[str, float]:
        """Return the error of each part of the tower when it alone is INT8, the largest first."""
        parts = list(dict.fromkeys(product.part for product in find_products(self._graphs[False])))
        chosen = slice(max(RANKED // len(parts), LEAST_PICTURES))
        pixels, reference = self._compared[chosen], [rates[chosen] for rates in self.reference]
        errors = {}
        with self._reporter.task("finding what costs most", len(parts), unit="parts") as task:
            for part in parts:
                others = tuple(other for other in parts if other != part)
                alone = self.make(dataclasses.replace(recipe, kept=others))
                errors[part] = compare(reference, answers(alone, pixels)).error
                task.advance(1, part)
        return dict(sorted(errors.items(), key=lambda item: item[1], reverse=True))

    def keep_costly_parts(self, recipe: Recipe, limits: Limits) -> Recipe:
        """Return the recipe with as few parts in fp32, of those that cost most, as keep label flips low.

        Raises:
            AccuracyError: half of the parts would not do.
        """
        flips = self.difference(self.make(recipe)).label_flips
        ranked: list[str] = []
        while flips > limits.label_flips:
            ranked = ranked or list(self.part_errors(recipe))
            count = max(1, 2 * len(recipe.kept))
            if count > len(ranked) // 2:
                raise AccuracyError(
                    f"INT8 changes {flips:.1f}% of the labels of pictures that calibrate, and "
                    f"--max-label-flips is {limits.label_flips:g}, with {_listed(recipe.kept)} in fp32 "
                    "already; give the --target it is for, another --layer or a higher limit"
                )
            self._reporter.say(
                f"{flips:.1f}% of labels differ, more than {limits.label_flips:g}; most of it comes from "
                f"{_listed(ranked[:count])}: kept in fp32"
            )
            recipe = dataclasses.replace(recipe, kept=tuple(ranked[:count]))
            flips = self.difference(self.make(recipe)).label_flips
        return recipe


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts) or "nothing"


@dataclass(frozen=True)
class Difference:
    """Difference of two graphs on the same pictures."""

    error: float  # mean squared difference of rates between classes, as a share of their variance
    label_flips: float  # per cent, in the mean of the exits


def compare(reference: list[NDArray[np.float32]], other: list[NDArray[np.float32]]) -> Difference:
    """Compare rates (n, C) of every exit, less what is common to all classes, which decides nothing."""
    errors, flips = [], []
    for one, two in zip(reference, other, strict=True):
        first, second = one - one.mean(1, keepdims=True), two - two.mean(1, keepdims=True)
        errors.append(float(((first - second) ** 2).mean() / max((first**2).mean(), 1e-30)))
        flips.append(100 * float((one.argmin(1) != two.argmin(1)).mean()))
    return Difference(float(np.mean(errors)), float(np.mean(flips)))


def answers(model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return the rates (n, C) of every exit of a graph."""
    names = [value.name for value in model.graph.output if value.name.startswith("rates")]
    session = open_on_one_thread(model.SerializeToString())
    runs = in_order(partial(session.run, names), ({INPUT: batch} for batch in batches(pixels)))
    return [np.concatenate(column) for column in zip(*runs, strict=True)]


def batches(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Split pictures (n, H, W, 3), a few at a time."""
    return (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
