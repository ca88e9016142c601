"""What INT8 costs at every exit: accuracy, labels that change, size, and what sparing parts gives back.

    python benchmarks/int8_accuracy.py CALIBRATION EVALUATION [--heads demo-190] [--layers 3,5,8,12]

Ranges, recipe and spared parts are chosen on CALIBRATION alone, EVALUATION only measures; both are image
folders of classes. Twenty minutes on one core for all twelve exits. Writes
benchmarks/results/int8_accuracy.md, with the heads of 190 names int8_accuracy_190.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from report import table, write_report

from tgems_edge.data import ImageFolder, read_labelled
from tgems_edge.errors import AccuracyError
from tgems_edge.images import Preprocessing, read_pixels
from tgems_edge.progress import Reporter
from tgems_export.encoders.encoder import Encoder, load_encoder
from tgems_export.encoders.prompts import class_embeddings, encode_prompts
from tgems_export.exporting.freeze import DEMO_HEADS, DEMO_HEADS_190
from tgems_export.exporting.graph.exit_graph import ExitGraph
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.exporting.quantization.recipe import Recipe, Target
from tgems_export.exporting.quantization.search import Limits, Quantiser, answers, read_calibrating
from tgems_export.heads.file import head_file, load_head

HEADS = {"demo": DEMO_HEADS, "demo-190": DEMO_HEADS_190}
REPORTS = {"demo": "int8_accuracy", "demo-190": "int8_accuracy_190"}
TARGETS: tuple[Target, ...] = ("generic", "x86-vnni")
OPSET = 18
AIM = 0.5  # points that static INT8 may lose at any exit


@dataclass(frozen=True)
class Cost:
    """What one INT8 file of an exit costs, beside fp32."""

    recipe: Recipe
    drop: float  # points
    error: float  # standard error of the drop: of all pictures, those gained and those lost vary
    flips: float  # per cent
    size: float  # of the file, as a share


@dataclass(frozen=True)
class ExitCosts:
    """All INT8 files of an exit."""

    layer: int
    pool: str
    accuracy: float  # of fp32
    static: dict[Target, Cost]
    dynamic: Cost
    flips: float  # per cent, of static INT8 for `generic` on the pictures that calibrate
    spared: Cost | None  # with parts in fp32; None where half of the parts would not do


def measure_exit(
    model: onnx.ModelProto,
    calibration: NDArray[np.uint8],
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    reporter: Reporter,
) -> tuple[float, dict[Target, Cost], Cost, float, Cost | None]:
    """Accuracy of an exit in fp32, and its `ExitCosts` from `static` on.

    Args:
        model: the exit in fp32.
        calibration: pictures (n, H, W, 3) that choose.
        pixels: those that measure.
        labels: of these.
        reporter: where progress goes.
    """
    exact = answers(model, pixels)[0].argmin(1)
    quantiser = Quantiser(model, calibration, reporter)

    def cost(recipe: Recipe) -> Cost:
        int8 = quantiser.make(recipe)
        found = answers(int8, pixels)[0].argmin(1)
        lost, gained = ((a == labels) & (b != labels) for a, b in ((exact, found), (found, exact)))
        return Cost(
            recipe,
            drop=100 * (int(lost.sum()) - int(gained.sum())) / len(labels),
            error=100 * float(np.sqrt(lost.sum() + gained.sum())) / len(labels),
            flips=100 * int((exact != found).sum()) / len(labels),
            size=int8.ByteSize() / model.ByteSize(),
        )

    best = {target: quantiser.best(target) for target in TARGETS}
    static = {target: cost(recipe) for target, recipe in best.items()}
    flips = quantiser.difference(quantiser.make(best["generic"])).label_flips
    try:
        recipe = quantiser.spare(best["generic"], Limits())
        spared = cost(recipe) if recipe.kept else static["generic"]
    except AccuracyError as error:
        reporter.say(str(error))
        spared = None
    return float((exact == labels).mean()), static, cost(Recipe("generic", None)), flips, spared


def measure(
    encoder: Encoder,
    heads: Path,
    layer: int,
    classes: Sequence[str],
    measure_graph: Callable[[onnx.ModelProto], tuple[float, dict[Target, Cost], Cost, float, Cost | None]],
) -> ExitCosts:
    """The costs of the exit behind a block."""
    head, card = load_head(head_file(heads, layer), encoder)
    text = class_embeddings(encode_prompts(encoder, classes, card.templates))
    graph = ExitGraph(encoder, layer, card.pool, head, text)
    return ExitCosts(layer, card.pool, *measure_graph(to_onnx(graph, encoder.preprocessing.size, OPSET)))


def main(
    calibration: Annotated[Path, typer.Argument(help="Image folder to choose on.")],
    evaluation: Annotated[Path, typer.Argument(help="Image folder to measure on.")],
    heads: Annotated[Literal["demo", "demo-190"], typer.Option(help="Of ten names, or of 190.")] = "demo",
    layers: Annotated[str, typer.Option(help="Exits, such as 3,5,8. Default: all.")] = "",
) -> None:
    """Measure INT8 at every exit."""
    reporter = Reporter()
    encoder = load_encoder()
    chosen = [int(layer) for layer in layers.split(",")] if layers else range(1, encoder.blocks + 1)
    shown, unseen = read_labelled(calibration), read_labelled(evaluation)
    calibrating = read_calibrating(_paths(shown), encoder.preprocessing, reporter)
    pixels = _read(unseen, encoder.preprocessing)
    costs = []
    for layer in chosen:
        reporter.say(f"exit {layer}")
        costs.append(
            measure(
                encoder,
                HEADS[heads],
                layer,
                unseen.classes,
                lambda model: measure_exit(model, calibrating, pixels, unseen.labels, reporter),
            )
        )
        reporter.say(str(costs[-1]))
    write(costs, heads, f"{calibration.name} {evaluation.name}", layers, len(calibrating), len(pixels))


def _paths(folder: ImageFolder) -> list[Path]:
    return [folder.path(index) for index in range(len(folder.names))]


def _read(folder: ImageFolder, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return np.stack([read_pixels(path, preprocessing) for path in _paths(folder)])


def write(
    costs: Sequence[ExitCosts], heads: str, folders: str, layers: str, calibrating: int, measuring: int
) -> None:
    """Writes the report."""
    options = ("" if heads == "demo" else f" --heads {heads}") + (f" --layers {layers}" if layers else "")
    limits = Limits()
    write_report(
        REPORTS[heads],
        "What INT8 costs at every exit",
        f"python benchmarks/int8_accuracy.py {folders}{options}",
        f"Top-1 in per cent on {measuring} pictures that neither trained nor chose anything, and how many "
        "points of it INT8 loses (negative: wins), with the standard error of that difference; flips are "
        "labels that differ from fp32, in per cent. Static INT8 with the best of four recipes (ranges by "
        f"minmax, entropy or percentile, and the best one equalised), chosen on {calibrating} others; "
        "dynamic INT8 needs none. Nothing is spared.\n\n" + _verdict(costs),
        [
            "exit",
            "pool",
            "fp32",
            *(f"{target}: {what}" for target in TARGETS for what in ("recipe", "loses", "flips")),
            "dynamic: loses",
            "flips",
            "size",
        ],
        [
            [
                one.layer,
                one.pool,
                f"{100 * one.accuracy:.1f}",
                *(
                    cell
                    for cost in one.static.values()
                    for cell in (_recipe(cost.recipe), _loss(cost), f"{cost.flips:.1f}")
                ),
                _loss(one.dynamic),
                f"{one.dynamic.flips:.1f}",
                f"{one.static['generic'].size:.0%}",
            ]
            for one in costs
        ],
        "## With parts in fp32\n\n"
        "`export --mixed auto` for generic, on labelled pictures: while more than "
        f"{limits.label_flips:g} % of labels flip on the pictures that calibrate, parts that cost most "
        "stay in fp32, up to half of them; then nothing is written, and the exit code is 4.\n\n"
        + table(
            ["exit", "flips where it calibrates", "in fp32", "loses", "flips", "size"],
            [[one.layer, f"{one.flips:.1f}", *_spared(one)] for one in costs],
        ),
    )


def _verdict(costs: Sequence[ExitCosts]) -> str:
    """Whether the aim is met, for each kind of INT8."""
    kinds: dict[str, list[tuple[int, Cost]]] = {
        **{f"static, {target}": [(one.layer, one.static[target]) for one in costs] for target in TARGETS},
        "dynamic": [(one.layer, one.dynamic) for one in costs],
    }
    lines = []
    for kind, found in kinds.items():
        layer, worst = max(found, key=lambda pair: pair[1].drop)
        met = "met" if worst.drop <= AIM else "missed"
        beyond = [str(number) for number, cost in found if cost.drop > AIM]
        where = f" at {', '.join(beyond)}" if beyond else ""
        lines.append(f"- {kind}: {met}{where}; most is lost at exit {layer}, {_loss(worst)} points")
    return f"Aim: no exit loses more than {AIM} points.\n\n" + "\n".join(lines)


def _recipe(recipe: Recipe) -> str:
    return f"{recipe.ranges}{', equalised' if recipe.equalised else ''}"


def _loss(cost: Cost) -> str:
    return f"{cost.drop + 0.0:.1f} ± {cost.error:.1f}"


def _spared(one: ExitCosts) -> list[str]:
    if one.spared is None:
        return ["half would not do: refused", "", "", ""]
    kept = ", ".join(one.spared.recipe.kept) or "nothing"
    return [kept, _loss(one.spared), f"{one.spared.flips:.1f}", f"{one.spared.size:.0%}"]


if __name__ == "__main__":
    typer.run(main)
