"""`tgems-edge export`: freeze one exit into one ONNX file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tgems_edge.card import Accuracy
    from tgems_edge.progress import Reporter
    from tgems_export.catalogue import Architecture
    from tgems_export.freeze import Frozen

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def export(
    layer: Annotated[int, typer.Option(help="Block to exit at.")] = 5,
    head: Annotated[
        Path | None,
        typer.Option(metavar="FILE|DIR|NAME", help="From `train`, or demo (the default), or demo-190."),
    ] = None,
    head_kind: Annotated[
        Literal["tgem", "ssa"], typer.Option(help="The kind of head, as for `train`.")
    ] = "tgem",
    classes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Other class names, one a line: new tables, without training."),
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
            metavar="DATA", help="Labelled pictures to fit probabilities, label sets and `unknown` on."
        ),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="The CLIP of the head. Default: the one it was trained on.")
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
        Literal["fp32", "fp16"], typer.Option(help="fp16: half the size, for a Jetson or another GPU.")
    ] = "fp32",
    opset: Annotated[int, typer.Option(help="ONNX operator set.")] = 18,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The model file.")] = Path("model.onnx"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    list_models: Annotated[
        bool, typer.Option("--list-models", help="Which of open_clip's architectures can be cut, and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines on standard output.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on standard error but warnings.")
    ] = False,
) -> None:
    """Freeze one exit into one ONNX file.

    The file holds the image tower up to the block, the Jumper, the class tables and a card that
    describes it. It is compared with PyTorch before it is written; if it differs, nothing is written
    and the exit code is 3.

    Example: tgems-edge export --layer 5 --head heads/ --output model.onnx
    """
    from tgems_edge.progress import Reporter
    from tgems_export.freeze import Form, freeze, load_exit
    from tgems_export.prompts import read_class_file

    reporter = Reporter(quiet=quiet)
    if list_models:
        _list_models(reporter, as_json)
        return
    started = perf_counter()
    names = read_class_file(classes) if classes else None
    exit_ = load_exit(layer, head, encoder, pretrained, names, head_kind)
    form = Form(input=input_, precision=precision, opset=opset)
    frozen = freeze(
        exit_, output, reporter, data=data, calibration=calibration, form=form, overwrite=overwrite
    )
    report = _as_json if as_json else _as_text
    typer.echo(report(frozen, perf_counter() - started))


def _list_models(reporter: Reporter, as_json: bool) -> None:
    from tgems_export.catalogue import list_architectures

    for architecture in list_architectures(reporter):
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(architecture)))
        else:
            typer.echo(_described(architecture))


def _described(architecture: Architecture) -> str:
    if architecture.reason:
        return f"❌ {architecture.name:<34} {architecture.reason}"
    height, width = architecture.image_size
    pools = " or ".join(architecture.pools)
    return (
        f"✅ {architecture.name:<34} {architecture.blocks} blocks, width {architecture.width:>4}, "
        f"{height}x{width}, {architecture.parameters / 1e6:>6.1f} M, exits read {pools}"
    )


def _as_json(frozen: Frozen, seconds: float) -> str:
    card = frozen.card
    return json.dumps(
        {
            "model": str(frozen.path),
            "sha256": card.file_sha256,
            "bytes": frozen.size,
            "seconds": round(seconds, 1),
            "layer": card.layer,
            "classes": card.classes,
            "classes_not_trained": card.classes_not_trained,
            "input": card.input,
            "precision": card.precision,
            "parity": dataclasses.asdict(card.parity),
            "resizing": card.resizing and dataclasses.asdict(card.resizing),
            "temperature": card.temperature,
            "accuracy": card.accuracy and dataclasses.asdict(card.accuracy),
        },
        ensure_ascii=False,
    )


def _as_text(frozen: Frozen, seconds: float) -> str:
    card, parity = frozen.card, frozen.card.parity
    lines = [
        f"✅ {frozen.path}: exit {card.layer} of {card.encoder.name}, {len(card.classes)} classes, "
        f"{card.precision}, {frozen.size / 1e6:.1f} MB, {seconds:.1f} s",
        f"   parity    largest rate difference {parity.largest_rate_difference:.1e}, "
        f"{parity.label_agreement:.1%} equal labels on {parity.pictures} pictures ({parity.of})",
    ]
    if card.resizing:
        lines.append(
            f"   resizing  in the graph: {card.resizing.pixels_within_1:.2%} of pixels within one grey level "
            f"of Pillow's, {card.resizing.label_agreement:.1%} equal labels"
        )
    if card.calibration:
        lines.append(
            f"   calibrated on {card.calibration.images} pictures, temperature {card.temperature:.2f}"
        )
    if card.accuracy:
        lines += _measured(card.accuracy)
    if card.classes_not_trained:
        lines.append(
            f"   untrained {', '.join(card.classes_not_trained)}: names the head never saw; try it on data"
        )
    lines += [
        "next:",
        f"   tgems-edge classify --model {frozen.path} IMAGE",
        f"   python -c \"from tgems_edge import load; print(load('{frozen.path}').classify('IMAGE').label)\"",
    ]
    return "\n".join(lines)


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
