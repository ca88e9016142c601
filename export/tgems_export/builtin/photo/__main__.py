"""`python -m tgems_export.builtin.photo`: make the encoder `photo`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from tgems_edge.cli import OneLineErrors, run
from tgems_edge.cli.output import print_lines
from tgems_edge.progress import Reporter

app = typer.Typer(
    cls=OneLineErrors, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


@app.command()
def photo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The open_clip folder to write.")] = Path("photo"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; default the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and order.")] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on standard error but warnings.")
    ] = False,
) -> None:
    """Make the encoder `photo`. An interrupted run goes on where it stopped.

    Example: python -m tgems_export.builtin.photo --out build/photo
    """
    from tgems_export.builtin.photo.recipe import make_photo
    from tgems_export.builtin.photo.training import Settings

    settings = Settings(seed=seed)
    settings = dataclasses.replace(settings, steps=steps or settings.steps)
    print_lines([make_photo(out, settings, Reporter(quiet=quiet))])


if __name__ == "__main__":
    run(app, "python -m tgems_export.builtin.photo")
