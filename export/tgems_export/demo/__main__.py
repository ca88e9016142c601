"""`python -m tgems_export.demo`: make the demo CLIP, and unpack its pictures for what is made from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from tgems_edge.cli import OneLineErrors, run
from tgems_edge.cli.output import print_lines
from tgems_edge.progress import Reporter
from tgems_export.demo.packs import read_pack, read_training_packs, unpack

app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=__doc__,
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on standard error but warnings.")]


@app.command("pretrain")
def pretrain_command(
    packs: Annotated[Path, typer.Argument(metavar="PACKS", help="Folder of the training packs.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The open_clip folder to write.")] = Path(
        "demo-clip"
    ),
    recipe: Annotated[
        Literal["accelerator", "cpu"], typer.Option(help="cpu: a smaller tower, 75 minutes on two cores.")
    ] = "accelerator",
    start_from: Annotated[
        Path | None, typer.Option(metavar="DIR", help="An open_clip folder to begin with.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Pictures a step; default the recipe's.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes; default the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and changes.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Quiet = False,
) -> None:
    """Train the demo CLIP on CIFAR-10 and Tiny-ImageNet. An interrupted run goes on where it stopped.

    Example: python -m tgems_export.demo pretrain packs/ --out build/demo-clip
    """
    from tgems_export.demo.pictures import read_pictures
    from tgems_export.demo.pretraining import RECIPES, pretrain
    from tgems_export.encoders.devices import choose_device

    reporter = Reporter(quiet=quiet)
    settings = dataclasses.replace(RECIPES[recipe], seed=seed)
    settings = dataclasses.replace(settings, batch=batch or settings.batch, epochs=epochs or settings.epochs)
    chosen = choose_device(device)
    pictures = read_pictures(read_training_packs(packs), reporter)
    print_lines([pretrain(pictures, settings, out, reporter, device=chosen, start_from=start_from)])


@app.command("unpack")
def unpack_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Image folder to write, OUT/<class>/*.jpg.")],
    packs: Annotated[list[Path], typer.Argument(metavar="PACK...", help="Packs of pictures (.npz).")],
    per_class: Annotated[
        int | None, typer.Option(min=1, help="At most so many pictures of a class. Default: all.")
    ] = None,
    seen_only: Annotated[
        bool, typer.Option("--seen-only", help="Leave out the classes kept for testing.")
    ] = False,
    without: Annotated[
        list[Path] | None,
        typer.Option(metavar="PACK", help="Leave out the pictures that this pack holds too; may repeat."),
    ] = None,
) -> None:
    """Write packs as one image folder.

    Example: python -m tgems_export.demo unpack build/train packs/cifar10_train_jpeg.npz
    """
    written = unpack(
        tuple(map(read_pack, packs)),
        out,
        per_class=per_class,
        seen_only=seen_only,
        without=tuple(map(read_pack, without or ())),
    )
    print_lines([f"{written} pictures in {out}"])


if __name__ == "__main__":
    run(app, "python -m tgems_export.demo")
