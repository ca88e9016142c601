"""`tgems-edge study`: measure the method on your pictures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tgems_edge.cli.model_file import IgnoreIcc, MaxPixels
from tgems_edge.cli.output import print_lines
from tgems_edge.runtime.decoding.limits import set_limit

if TYPE_CHECKING:
    from tgems_edge.model_file.card import Colour
    from tgems_export.study.report import Report

UNRECORDED = {"overwrite", "quiet", "max_pixels"}  # change no figure
OF_NOISE = {"data", "noise", "encoder", "pretrained", "out", "ignore_icc", *UNRECORDED}

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def study(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Image folder, DATA/<class>/*.jpg.")],
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Same classes, to calibrate on. Default: a fifth of DATA."),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Same classes, to measure on. Default: a fifth of DATA."),
    ] = None,
    new_names: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Labelled pictures of other classes: unseen names, and unknowns."),
    ] = None,
    others: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures that show none of the classes.")
    ] = None,
    layer: Annotated[
        str, typer.Option(metavar="NAME", help="Exit point to change one factor at a time around.")
    ] = "5",
    encoder: Annotated[str, typer.Option(help="A CLIP, as for `train`.")] = "vit-demo",
    pretrained: Annotated[str | None, typer.Option(help="Its weights, as for `train`.")] = None,
    templates: Annotated[str, typer.Option(metavar="NAME|FILE", help="Prompts, as for `train`.")] = "default",
    k: Annotated[int, typer.Option(min=1, help="K, the Jumper's width; at most the encoder's.")] = 128,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures, for each head.")] = 120,
    seeds: Annotated[int, typer.Option(min=2, help="Heads of each kind, to see the spread.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps; runs the encoder.")] = "auto",
    noise: Annotated[
        bool, typer.Option("--noise", help="Only what INT8 does to every block; labels have no part in it.")
    ] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the report.")] = Path("study"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another study.")] = False,
    ignore_icc: IgnoreIcc = False,
    max_pixels: MaxPixels = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on standard error but warnings.")
    ] = False,
) -> None:
    """Measure the method: every layer, its rivals, how sure it is.

    Trains heads for every layer and both pools, holds them against sampling, closed-form classifiers and
    the full CLIP, changes one factor at a time, and calibrates. Writes one report: study.html, study.md
    with plots, and study.json. Each picture has one purpose: DATA trains; without --calibration and
    --evaluation, a fifth of it calibrates and a fifth measures. Interrupted work goes on where it stopped.

    With --noise, DATA may be any folder of pictures, and the report is noise.md, noise.svg and noise.json:
    how far each way to make INT8 takes the tokens behind every block from those in fp32.

    Example: tgems-edge study pictures/ --epochs 30 --out study/
    """
    from tgems_edge.progress import Reporter
    from tgems_export.encoders.devices import choose_device
    from tgems_export.encoders.encoder import load_encoder
    from tgems_export.encoders.prompts import load_templates
    from tgems_export.storage.outputs import check_output_folder
    from tgems_export.study.material import Folders
    from tgems_export.study.plan import Plan
    from tgems_export.study.report import make_report
    from tgems_export.study.reporting.noise_report import make_noise_report

    check_output_folder(out)
    set_limit(max_pixels)
    reporter = Reporter(quiet=quiet)
    colour: Colour | None = None if ignore_icc else "srgb"
    if noise:
        _refuse_all_but_noise(context)
        clip = load_encoder(encoder, pretrained, colour=colour)
        command = _typed(context)
        _show(make_noise_report(clip, data, out, reporter, command=command, overwrite=overwrite))
        return
    clip = load_encoder(encoder, pretrained, device=choose_device(device), colour=colour)
    folders = Folders(data, calibration, evaluation, new_names, others)
    plan = Plan(k=k, epochs=epochs, seeds=seeds, layer=clip.point(layer).number)
    report = make_report(
        clip,
        folders,
        load_templates(templates),
        plan,
        out,
        reporter,
        command=_typed(context),
        overwrite=overwrite,
    )
    _show(report)


def _refuse_all_but_noise(context: typer.Context) -> None:
    from tgems_edge.errors import InputError

    if others := [parameter.opts[0] for parameter in _given(context) if parameter.name not in OF_NOISE]:
        raise InputError(f"{others[0]}: has no part in --noise; leave it out")


def _show(report: Report) -> None:
    print_lines([*report.summary.split("\n"), *report.files])


def _given(context: typer.Context) -> list[Any]:
    """Return the options that differ from their defaults."""
    return [p for p in context.command.params if context.params[str(p.name)] != p.default]


def _typed(context: typer.Context) -> str:
    """The command line, less what is as usual and what changes no figure."""
    words = ["tgems-edge", "study"]
    for parameter in _given(context):
        value = context.params[str(parameter.name)]
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif parameter.name not in UNRECORDED:
            words += [parameter.opts[0]] if value is True else [parameter.opts[0], str(value)]
    return shlex.join(words)
