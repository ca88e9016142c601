"""INT8 files of an image tower and its exits, each made in a process of its own whose memory is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from torch import Tensor, nn

from measuring.files import OURS, Model, exit_graph, export_architecture, export_graph
from measuring.machine import int8_target
from measuring.memory import in_own_process, peak_of_file, peak_of_program
from tgems_edge.progress import Reporter
from tgems_export.encoders.encoder import RANDOM, Encoder, load_encoder
from tgems_export.exporting.graph.exit_graph import ExitGraph
from tgems_export.exporting.quantization.recipe import Recipe
from tgems_export.exporting.quantization.search import read_calibrating

__all__ = [
    "AIMED",
    "DYNAMIC",
    "FILES",
    "OTHER_TARGETS",
    "PLAIN_LAST",
    "STATIC",
    "TARGET",
    "Files",
    "Making",
    "make_all",
]

TARGET = int8_target()
OTHER_TARGETS = [target for target in ("generic", "arm64") if target != TARGET]
STATIC, DYNAMIC = "static INT8", "dynamic INT8"
LAYER = 5
AIMED = f"exit {LAYER}"
PLAIN_LAST = f"{AIMED}, plain last block"
DEPTHS = (OURS, "exit 3", "exit 5", "exit 8")

# Of each INT8 file, the one it is made of and how.
FILES: dict[str, tuple[str, Recipe]] = {
    f"{depth}, {kind}": (depth, recipe)
    for depth in DEPTHS
    for kind, recipe in ((DYNAMIC, Recipe(TARGET, None)), (STATIC, Recipe(TARGET)))
}
FILES[f"{PLAIN_LAST}, {STATIC}"] = (PLAIN_LAST, Recipe(TARGET))
FILES |= {f"{AIMED}, {STATIC} for {target}": (AIMED, Recipe(target)) for target in OTHER_TARGETS}

# Makes an INT8 file, without ranges a dynamic one.
MAKE = """
import sys
import numpy as np, onnx
from tgems_edge.progress import Reporter
from tgems_export.exporting.quantization.recipe import Recipe, quantise
from tgems_export.exporting.quantization.search import Quantiser
source, goal, target, ranges, pixels = sys.argv[1:]
model, recipe = onnx.load(source), Recipe(target, ranges or None)
if recipe.ranges is None:
    onnx.save(quantise(model, recipe, {}), goal)
else:
    onnx.save(Quantiser(model, np.load(pixels), Reporter()).make(recipe), goal)
"""


@dataclass(frozen=True)
class Making:
    """The cost of making an INT8 file, from process start to exit."""

    seconds: float
    peak: float  # megabytes


@dataclass(frozen=True)
class Files:
    """All files of an architecture."""

    models: list[Model]
    makings: dict[str, Making]  # of the INT8 files

    def model(self, name: str) -> Model:
        """The file of a name."""
        return next(model for model in self.models if model.name == name)


def make_all(name: str, pictures: Sequence[Path], folder: Path, reporter: Reporter) -> Files:
    """Write all files of an architecture, in fp32 and in INT8.

    Args:
        name: of the architecture.
        pictures: to find ranges on.
        folder: for the files.
        reporter: where progress goes.
    """
    pixels = folder / "pixels.npy"
    models = in_own_process(export_float, name, pictures, pixels, folder)
    sources = {model.name: model for model in models}
    makings = {}
    for title, (source, recipe) in FILES.items():
        reporter.say(f"{name}: making {title}")
        model, makings[title] = make_int8(sources[source], title, recipe, pixels)
        models.append(model)
    return Files(models, makings)


def export_float(name: str, pictures: Sequence[Path], pixels: Path, folder: Path) -> list[Model]:
    """Write the files in fp32, that with a plain last block last, and the pictures as they take them."""
    reporter, encoder = Reporter(), load_encoder(name, RANDOM)
    np.save(pixels, read_calibrating(pictures, encoder.preprocessing, reporter))
    models = export_architecture(name, encoder, folder, reporter)
    reporter.say(f"{name}: exporting {PLAIN_LAST}")
    path = folder / f"{PLAIN_LAST}.onnx"
    export_graph(with_plain_last_block(encoder), encoder, path)
    return [*models, Model.of(PLAIN_LAST, path)]


def make_int8(source: Model, name: str, recipe: Recipe, pixels: Path) -> tuple[Model, Making]:
    """Make an INT8 file beside that in fp32."""
    path, started = source.path.with_name(f"{name}.onnx"), perf_counter()
    peak = peak_of_program(MAKE, source.path, path, recipe.target, recipe.ranges or "", pixels)
    making = Making(perf_counter() - started, peak)
    return Model(name, path, source.operations, peak_of_file(path)), making


class _ClassToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        """(L, B, D) to (B, D)."""
        return tokens[0]


def with_plain_last_block(encoder: Encoder) -> ExitGraph:
    """Return an exit whose last block is like the others, with the class token taken behind it."""
    graph = exit_graph(encoder, LAYER)
    block = encoder.tower.segment(LAYER - 1, LAYER)[0].module
    graph.readouts[0] = nn.Sequential(block, _ClassToken())
    return graph.eval().requires_grad_(False)
