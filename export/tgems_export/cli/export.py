"""`tgems-edge export`: write exits into one ONNX file."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tgems_edge.cli.model_file import IgnoreIcc, MaxPixels
from tgems_edge.cli.output import print_json, print_lines
from tgems_edge.errors import InputError
from tgems_edge.printable import shortened
from tgems_edge.runtime.decoding.limits import set_limit

if TYPE_CHECKING:
    from tgems_edge.model_file.card import Accuracy, Card, Dynamic, Quantisation
    from tgems_export.exporting.sealing import ModelFile

MOST_CLASSES = 20  # that are named

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def export(
    layer: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Exit point: a block of a ViT (5), the end of a stage (5) or a block of it (5.2), or full.",
        ),
    ] = "5",
    head: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR|NAME", help="From `train`, or one that ships: photo, demo or demo-190."
        ),
    ] = None,
    head_kind: Annotated[
        Literal["tgem", "ssa"], typer.Option(help="The kind of head, as for `train`.")
    ] = "tgem",
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Other class names, one a line: new tables, without training. Where folders of DATA have "
            "other names: folder, tab, name.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Labelled pictures to measure on; without --calibration, half of them calibrate.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Labelled pictures to fit probabilities, label sets and `unknown` on, and to find the "
            "ranges of INT8; for these alone, any pictures.",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="The CLIP of the head. Default: the one its card names, if built in or open_clip's by a tag."
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(help="Its weights, as for `train`. Without --encoder: those of the head."),
    ] = None,
    input_: Annotated[
        Literal["pixels", "image"],
        typer.Option("--input", help="image: the graph takes any picture and resizes it itself."),
    ] = "pixels",
    precision: Annotated[
        Literal["fp32", "fp16", "int8", "int8-dynamic"],
        typer.Option(
            help="fp16: half the size, for a Jetson or another GPU. int8: a quarter, for every CPU; needs "
            "pictures. int8-dynamic: without pictures."
        ),
    ] = "fp32",
    target: Annotated[
        Literal["generic", "x86-vnni", "x86", "arm64", "tensorrt"],
        typer.Option(help="The processor INT8 is for; generic is right on all of them."),
    ] = "generic",
    max_accuracy_drop: Annotated[
        float, typer.Option(metavar="POINTS", help="What INT8 may cost on --data, else exit code 4.")
    ] = 0.5,
    max_label_flips: Annotated[
        float, typer.Option(metavar="PERCENT", help="How many labels INT8 may change on --data.")
    ] = 2.0,
    mixed: Annotated[
        Literal["auto", "none"],
        typer.Option(help="auto: blocks that INT8 costs most stay in fp32 where a limit is exceeded."),
    ] = "auto",
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Several exits in one file; easy pictures leave early.")
    ] = False,
    exits: Annotated[
        str | None, typer.Option(metavar="LAYERS", help="With --dynamic: its exits, such as 3,5,8.")
    ] = None,
    budget: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="With --dynamic: operations of a mean picture, as a share of the full tower's.",
        ),
    ] = 0.6,
    no_if: Annotated[
        bool,
        typer.Option("--no-if", help="With --dynamic: compute every exit, for providers that skip branches."),
    ] = False,
    opset: Annotated[int, typer.Option(help="ONNX operator set.")] = 18,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The model file.")] = Path("model.onnx"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines on standard output.")] = False,
    ignore_icc: IgnoreIcc = False,
    max_pixels: MaxPixels = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on standard error but warnings.")
    ] = False,
) -> None:
    """Export one exit, or several, as one ONNX file.

    The file holds the image tower up to the block, the head, the class tables and a card that
    describes it. It is compared with PyTorch before it is written; if it differs, nothing is written
    and the exit code is 3. INT8 is compared with fp32; if it costs more than it may, it is 4.

    Example: tgems-edge export --layer 5 --head heads/ --output model.onnx
    """
    from tgems_edge.progress import Reporter
    from tgems_export.encoders.prompts import read_class_file
    from tgems_export.exporting.pipeline import export_model
    from tgems_export.exporting.quantization.search import Limits
    from tgems_export.exporting.settings import (
        DynamicSettings,
        ExitSettings,
        ExportSettings,
        GraphSettings,
        Int8Settings,
        PictureSettings,
    )

    set_limit(max_pixels)
    reporter = Reporter(quiet=quiet)
    started = perf_counter()
    listed = read_class_file(classes) if classes else None
    if exits and not dynamic:
        raise InputError("--exits: only with --dynamic; one exit is --layer")
    layers = _read_exits(exits) if dynamic else (layer,)
    _check_range("--max-accuracy-drop", max_accuracy_drop, 100)
    _check_range("--max-label-flips", max_label_flips, 100)
    _check_range("--budget", budget, 1)
    settings = ExportSettings(
        output,
        overwrite,
        ExitSettings(
            layers, head, head_kind, encoder, pretrained, listed.names if listed else None, ignore_icc
        ),
        PictureSettings(data, calibration, listed.folders if listed else None),
        GraphSettings(input_, precision, opset),
        Int8Settings(target, Limits(max_accuracy_drop, max_label_flips), mixed == "auto"),
        DynamicSettings(budget, nested=not no_if),
    )
    file = export_model(settings, reporter)
    seconds = perf_counter() - started
    if as_json:
        print_json(_as_json(file, seconds))
    else:
        print_lines(_as_lines(file, seconds))


def _check_range(option: str, value: float, most: int) -> None:
    if not 0 <= value <= most:  # nan is in no range
        raise InputError(f"{option} {value:g}: give a number from 0 to {most}")


def _read_exits(text: str | None) -> tuple[str, ...]:
    """Split `3,5,8` into its layers."""
    layers = [part.strip() for part in (text or "").split(",")]
    if len(layers) < 2 or not all(layers):
        raise InputError(f"--exits {text or 'is missing'}: give two or more layers, such as --exits 3,5,8")
    return tuple(layers)


def _as_json(file: ModelFile, seconds: float) -> dict[str, Any]:
    card = file.card
    return {
        "model": str(file.path),
        "sha256": card.file_sha256,
        "bytes": file.size,
        "seconds": round(seconds, 1),
        "layer": card.last_exit.layer,
        "layer_name": card.last_exit.title,
        "classes": card.classes,
        "classes_not_trained": card.classes_not_trained,
        "input": card.input,
        "colour": card.preprocessing.colour,
        "precision": card.precision,
        "exits": card.exit_layers,
        "quantisation": card.quantisation and dataclasses.asdict(card.quantisation),
        "dynamic": _dynamic_as_json(card),
        "parity": dataclasses.asdict(card.parity),
        "resizing": card.resizing and dataclasses.asdict(card.resizing),
        "temperature": card.last_exit.temperature if card.calibration else None,
        "accuracy": card.accuracy and dataclasses.asdict(card.accuracy),
    }


def _as_lines(file: ModelFile, seconds: float) -> list[str]:
    from tgems_export.encoders.encoder import RESEARCH_ONLY

    card, parity = file.card, file.card.parity
    lines = [
        f"✅ {file.path}: {card.description}, {file.size / 1e6:.1f} MB, {seconds:.1f} s",
        f"   parity    largest rate difference {parity.largest_rate_difference:.1e}, "
        f"{parity.label_agreement:.1%} equal labels on {parity.pictures} pictures ({parity.of})",
    ]
    if card.quantisation:
        lines += _quantised(card.quantisation)
    if card.dynamic:
        lines.append(_dynamic(card, card.dynamic))
    if card.resizing:
        lines.append(
            f"   resizing  in the graph: {card.resizing.pixels_within_1:.2%} of pixels within one grey level "
            f"of Pillow's, {card.resizing.label_agreement:.1%} equal labels"
        )
    if card.calibration:
        lines.append(
            f"   calibrated on {card.calibration.images} pictures, "
            f"temperature {card.last_exit.temperature:.2f}"
        )
    if card.accuracy:
        lines += _measured(card.accuracy)
    if card.classes_not_trained:
        names = shortened(card.classes_not_trained, MOST_CLASSES)
        zero_shot = card.last_exit.head_kind == "zero-shot"
        advice = (
            "the text tower never saw; train a head for them"
            if zero_shot
            else "the head never saw; try it on data"
        )
        lines.append(f"   untrained {names}: names {advice}")
    if RESEARCH_ONLY in (terms := card.licence["weights"]):
        lines.append(f"   licence   {terms}")
    lines += [
        "next:",
        f"   tgems-edge classify --model {shlex.quote(str(file.path))} IMAGE",
        f"   python -c \"from tgems_edge import load; print(load('{file.path}').classify('IMAGE').label)\"",
    ]
    return lines


def _quantised(made: Quantisation) -> list[str]:
    how = "ranges found at run time"
    if made.ranges:
        equalised = ", outliers moved into weights" if made.equalised else ""
        how = f"{made.ranges} ranges of {made.images} pictures{equalised}"
    kept = f"; in fp32: {', '.join(made.kept)}" if made.kept else ""
    lines = [f"   int8      for {made.target}, {how}{kept}"]
    if made.gate:
        gained = round(-made.gate.accuracy_drop, 1) + 0.0  # which makes 0.0 of -0.0
        lines.append(
            f"   gate      {gained:+.1f} points against fp32 and {made.gate.label_flips:.1f}% of labels "
            f"flipped on {made.gate.images} pictures"
        )
    else:
        lines.append("   gate      not measured: it takes 1000 labelled pictures that did not calibrate")
    return lines


def _dynamic_as_json(card: Card) -> dict[str, Any] | None:
    """Return the budget of a dynamic file, what it came to, and its exits; None for a static file."""
    if card.dynamic is None:
        return None
    exits = [dataclasses.asdict(exit_) for exit_ in card.exits]
    return {**dataclasses.asdict(card.dynamic), "operations": card.mean_operations, "exits": exits}


def _dynamic(card: Card, made: Dynamic) -> str:
    shares = ", ".join(
        f"{exit_.calibration.share:.0%} at {exit_.title}" for exit_ in card.exits if exit_.calibration
    )
    took = f"{card.mean_operations:.1%} of the full tower's operations (budget {made.budget:.0%})"
    return f"   exits     {shares} of the pictures that calibrate; a mean one takes {took}"


def _measured(accuracy: Accuracy) -> list[str]:
    lines = [f"   accuracy  {accuracy.top1:.1%} on {accuracy.images} pictures that did not calibrate it"]
    if accuracy.calibration_error is not None:
        lines[0] += f", calibration error {accuracy.calibration_error:.1%}"
    if accuracy.coverage and accuracy.set_size:
        sets = (
            f"{covered:.1%} covered (promised {float(promised):.0%}) by {accuracy.set_size[promised]:.1f}"
            for promised, covered in accuracy.coverage.items()
        )
        lines.append(f"   sets      {', '.join(sets)} classes")
    return lines
