"""`tgems-edge train`: learn the heads of one or more exits."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tgems_edge.cli.model_file import IgnoreIcc, MaxPixels
from tgems_edge.cli.output import print_lines
from tgems_edge.errors import InputError
from tgems_edge.runtime.decoding.limits import set_limit
from tgems_edge.sources.data import (
    read_labelled,
    read_unlabelled,
    refuse_shared,
    refuse_splits,
    report_left_out,
)

if TYPE_CHECKING:
    from tgems_edge.model_file.card import Colour

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Image folder, DATA/<class>/*.jpg.")],
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Exit point: a block of a ViT (5), the end of a stage (5) or a block of it (5.2), or full. "
            "May repeat. Default: 5.",
        ),
    ] = None,
    head_kind: Annotated[
        Literal["tgem", "ssa"],
        typer.Option(help="ssa: the MLP of LRA-EE; no --k, --epochs or --loss, and the pool is the mean."),
    ] = "tgem",
    encoder: Annotated[
        str,
        typer.Option(
            help="A CLIP: see `tgems-edge models`; local-dir:PATH, hf-hub:ORG/NAME, photo or vit-demo."
        ),
    ] = "vit-demo",
    pretrained: Annotated[
        str | None,
        typer.Option(help="Its weights: a tag, a file, TAG:FILE (a file trained like a tag), or random."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Class names, one a line, or folder, tab and name. Default: the folders' names.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Labelled pictures to calibrate with. Default: a tenth of DATA, if that is enough.",
        ),
    ] = None,
    labels: Annotated[
        Literal["folders", "teacher"],
        typer.Option(help="teacher: DATA is unlabelled, the full CLIP's zero-shot answers are the labels."),
    ] = "folders",
    templates: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="Prompts: default, simple, openai, or a file, one a line."),
    ] = "default",
    k: Annotated[
        int | None,
        typer.Option(min=1, help="K, the Jumper's width; at most the activation's. Default: 128, or less."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the pictures. Default: 120.")] = None,
    pool: Annotated[
        Literal["auto", "cls", "mean"],
        typer.Option(help="Class token, mean over the positions, or the better one at each layer."),
    ] = "auto",
    views: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Views of every picture to train on: itself, and random parts of it. Default: 8, and "
            "fewer of many pictures.",
        ),
    ] = None,
    loss: Annotated[
        Literal["tgems", "rate", "cosine", "paper"] | None,
        typer.Option(help="What to train with. Default: tgems, which is the method."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps; runs the encoder.")] = "auto",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the head files.")] = Path("heads"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace heads that were trained otherwise.")
    ] = False,
    ignore_icc: IgnoreIcc = False,
    max_pixels: MaxPixels = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on standard error but warnings.")
    ] = False,
) -> None:
    """Learn the heads of one or more exits, on your pictures: T-GEM and Jumper, or SSA.

    The encoder runs over the pictures once; what it says is cached. Interrupted work goes on where it
    stopped. Ends with the head files' names on standard output.

    Example: tgems-edge train pictures/ --layer 3 --layer 5 --encoder ViT-B-32 --pretrained openai
    """
    from tgems_edge.progress import Reporter
    from tgems_export.encoders.devices import choose_device
    from tgems_export.encoders.encoder import load_encoder
    from tgems_export.encoders.prompts import load_templates, read_class_file
    from tgems_export.heads.learning import TrainingSettings, default_views, train_heads
    from tgems_export.heads.registry import KINDS
    from tgems_export.storage.outputs import check_output_folder

    kind = KINDS[head_kind]
    options: dict[str, Any] = {"k": k, "epochs": epochs, "loss": loss}
    options = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name not in kind.settings.options:
            owner = next(other.title for other in KINDS.values() if name in other.settings.options)
            raise InputError(f"--{name}: of a {owner} only; leave it out with{kind.option}")
    check_output_folder(out)
    set_limit(max_pixels)
    reporter = Reporter(quiet=quiet)
    listed = read_class_file(classes) if classes else None
    if labels == "teacher":
        if listed is None:
            raise InputError("--labels teacher: unlabelled pictures have no names; give --classes FILE")
        refuse_splits(data)
        folder, names = read_unlabelled(data), listed.names
    else:
        folder = read_labelled(data, listed.names, listed.folders) if listed else read_labelled(data)
        names = folder.classes
    report_left_out(folder, reporter)
    calibrating = None
    if calibration:
        calibrating = read_labelled(calibration).labelled_as(names)
        report_left_out(calibrating, reporter)
        refuse_shared(calibrating, folder.digests, f"those to train on in {data}")
    colour: Colour | None = None if ignore_icc else "srgb"
    clip = load_encoder(encoder, pretrained, device=choose_device(device), colour=colour)
    settings = TrainingSettings(
        layers=tuple(dict.fromkeys(clip.point(name).number for name in layer or ["5"])),
        classes=names,
        templates=load_templates(templates),
        labels=labels,
        pool=pool,
        views=views or default_views(len(folder.names)),
        head=kind.make_settings(seed=seed, **options),
    )
    print_lines(
        train_heads(clip, folder, settings, out, reporter, calibration=calibrating, overwrite=overwrite)
    )
    last = clip.tower.at(settings.layers[-1]).name
    command = f"tgems-edge export --layer {last}{kind.option} --head {shlex.quote(str(out))}"
    reporter.say(f"next: {command}")
