"""Cost of INT8 at every exit: accuracy, label flips, size, and the effect of parts kept in fp32.

    python benchmarks/int8_accuracy.py CALIBRATION EVALUATION [--heads demo-190] [--layers 3,5,8,12]

Ranges, recipe and parts in fp32 are chosen on CALIBRATION alone, EVALUATION only measures; both are image
folders of classes. Twenty minutes on one core for all twelve exits. Expect early exits to lose about a point
and late ones nothing that can be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from measuring.files import OPSET
from measuring.options import Quick
from measuring.pictures import paths_of, read_all
from measuring.result import save
from numpy.typing import NDArray

from tgems_edge.errors import AccuracyError
from tgems_edge.progress import Reporter
from tgems_edge.sources.data import read_labelled
from tgems_export.encoders.encoder import Encoder, load_encoder
from tgems_export.encoders.prompts import class_embeddings, encode_prompts
from tgems_export.exporting.exits import DEMO_HEADS, DEMO_HEADS_190
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.exporting.quantization.recipe import Recipe, Target
from tgems_export.exporting.quantization.search import Limits, Quantiser, answers, read_calibrating
from tgems_export.heads.file import head_file, load_head

HEADS = {"demo": DEMO_HEADS, "demo-190": DEMO_HEADS_190}
RESULTS = {"demo": "int8_accuracy", "demo-190": "int8_accuracy_190"}
TARGETS: tuple[Target, ...] = ("generic", "x86-vnni")


@dataclass(frozen=True)
class Cost:
    """Cost of one INT8 file of an exit, beside fp32."""

    recipe: Recipe
    drop: float  # of accuracy, a share
    error: float  # standard error of the drop: of all pictures, those gained and those lost vary
    flips: float  # share of labels that differ
    size: float  # of the file, as a share


@dataclass(frozen=True)
class ExitCosts:
    """All INT8 files of an exit."""

    layer: int
    pool: str
    accuracy: float  # of fp32
    static: dict[Target, Cost]
    dynamic: Cost
    flips: float  # share, of static INT8 for `generic` on the pictures that calibrate
    mixed: Cost | None  # with parts in fp32; None where half of the parts would not do


@dataclass(frozen=True)
class Pictures:
    """The pictures that choose and those that measure."""

    calibration: NDArray[np.uint8]  # (n, H, W, 3)
    pixels: NDArray[np.uint8]  # (B, H, W, 3)
    labels: NDArray[np.int64]  # (B,)


def measure_exit(
    encoder: Encoder, heads: Path, layer: int, classes: Sequence[str], pictures: Pictures, reporter: Reporter
) -> ExitCosts:
    """Make every INT8 file of an exit and compare it with fp32.

    Args:
        encoder: the demo CLIP.
        heads: folder of head files.
        layer: block, counted from 1.
        classes: names in the order of the labels.
        pictures: to choose and to measure on.
        reporter: where progress goes.
    """
    head, card = load_head(head_file(heads, layer), encoder)
    text = class_embeddings(encode_prompts(encoder, classes, card.templates))
    graph = ExitGraph(encoder, [Cut(layer, card.pool, head)], text)
    model = to_onnx(graph, encoder.preprocessing.size, OPSET)
    labels = pictures.labels
    exact = answers(model, pictures.pixels)[0].argmin(1)
    quantiser = Quantiser(model, pictures.calibration, reporter)

    def cost(recipe: Recipe) -> Cost:
        int8 = quantiser.make(recipe)
        found = answers(int8, pictures.pixels)[0].argmin(1)
        lost, gained = ((a == labels) & (b != labels) for a, b in ((exact, found), (found, exact)))
        return Cost(
            recipe,
            drop=(int(lost.sum()) - int(gained.sum())) / len(labels),
            error=float(np.sqrt(lost.sum() + gained.sum())) / len(labels),
            flips=int((exact != found).sum()) / len(labels),
            size=int8.ByteSize() / model.ByteSize(),
        )

    best = {target: quantiser.best(target) for target in TARGETS}
    static = {target: cost(recipe) for target, recipe in best.items()}
    try:
        recipe = quantiser.keep_costly_parts(best["generic"], Limits())
        mixed = cost(recipe) if recipe.kept else static["generic"]
    except AccuracyError as error:
        reporter.say(str(error))
        mixed = None
    return ExitCosts(
        layer=layer,
        pool=card.pool,
        accuracy=float((exact == labels).mean()),
        static=static,
        dynamic=cost(Recipe("generic", None)),
        flips=quantiser.difference(quantiser.make(best["generic"])).label_flips / 100,
        mixed=mixed,
    )


def main(
    calibration: Annotated[Path, typer.Argument(help="Image folder to choose on.")],
    evaluation: Annotated[Path, typer.Argument(help="Image folder to measure on.")],
    heads: Annotated[Literal["demo", "demo-190"], typer.Option(help="Of ten names, or of 190.")] = "demo",
    layers: Annotated[str, typer.Option(help="Exits, such as 3,5,8. Default: all.")] = "",
    quick: Quick = False,
) -> None:
    """Measure INT8 at every exit; quickly, at the first."""
    reporter = Reporter()
    encoder = load_encoder()
    chosen = [int(layer) for layer in layers.split(",")] if layers else range(1, encoder.blocks + 1)
    shown, unseen = read_labelled(calibration), read_labelled(evaluation)
    pictures = Pictures(
        calibration=read_calibrating(paths_of(shown), encoder.preprocessing, reporter),
        pixels=read_all(unseen, encoder.preprocessing),
        labels=unseen.labels,
    )
    costs = []
    for layer in chosen[: 1 if quick else None]:
        reporter.say(f"exit {layer}")
        costs.append(measure_exit(encoder, HEADS[heads], layer, unseen.classes, pictures, reporter))
        reporter.say(str(costs[-1]))
    facts = {
        "heads": heads,
        "pictures": len(pictures.pixels),
        "calibration_pictures": len(pictures.calibration),
        "label_flips": Limits().label_flips / 100,
    }
    save(RESULTS[heads], {"exits": exit_rows(costs)}, facts, quick=quick)


def cost_cells(cost: Cost | None) -> dict[str, object] | None:
    """Figures of one INT8 file."""
    if cost is None:
        return None
    return {
        "recipe": f"{cost.recipe.ranges}{', equalised' if cost.recipe.equalised else ''}",
        "in_fp32": ", ".join(cost.recipe.kept) or "nothing",
        "loss": cost.drop,
        "error": cost.error,
        "flips": cost.flips,
        "size": cost.size,
    }


def exit_rows(costs: Sequence[ExitCosts]) -> list[dict[str, object]]:
    """One row for each exit."""
    return [
        {
            "exit": one.layer,
            "pool": one.pool,
            "fp32": one.accuracy,
            **{target.replace("-", "_"): cost_cells(cost) for target, cost in one.static.items()},
            "dynamic": cost_cells(one.dynamic),
            "calibration_flips": one.flips,
            "mixed": cost_cells(one.mixed),
        }
        for one in costs
    ]


if __name__ == "__main__":
    typer.run(main)
