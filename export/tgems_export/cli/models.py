"""`tgems-edge models`: list the encoders that can be cut, or the exit points of one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tgems_edge.cli.output import print_json, print_lines
from tgems_edge.cli.tables import aligned

if TYPE_CHECKING:
    from tgems_export.encoders.catalogue import Architecture

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="An encoder, as `--encoder` takes it. Default: list them all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines on standard output.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on standard error but warnings.")
    ] = False,
) -> None:
    """List the encoders that can be cut; of one, its exit points and what each costs.

    Everything is read from configurations: no weights are loaded. Costs are those of the full precision
    tower up to the exit point, for one picture.

    Example: tgems-edge models MobileCLIP2-S0
    """
    from tgems_edge.progress import Reporter
    from tgems_export.encoders.catalogue import list_architectures, read_architecture

    if name is not None:
        architecture = read_architecture(name)
        if as_json:
            print_json(_as_json(architecture))
        else:
            print_lines(_points(architecture))
        return
    for architecture in list_architectures(Reporter(quiet=quiet)):
        if as_json:
            print_json(_as_json(architecture))
        else:
            print_lines([_line(architecture)])


def _as_json(architecture: Architecture) -> dict[str, Any]:
    return dataclasses.asdict(architecture)


def _line(architecture: Architecture) -> str:
    if architecture.reason:
        return f"❌ {architecture.name:<34} {architecture.reason}"
    height, width = architecture.image_size
    operations = (architecture.operations or 0) / 2e9
    return (
        f"✅ {architecture.name:<34} {architecture.blocks:>2} exit points, {height}x{width}, "
        f"{operations:>7.2f} GMAC, {architecture.parameters / 1e6:>7.1f} M parameters"
    )


def _points(architecture: Architecture) -> list[str]:
    rows = [["layer", "block", "width", "positions", "MMAC", "share", "parameters", "pools"]]
    for point in architecture.points:
        rows.append(
            [
                point.name,
                str(point.number),
                str(point.width),
                str(point.positions),
                f"{point.operations / 2e6:.0f}",
                f"{point.operations / (architecture.operations or 1):.0%}",
                f"{point.parameters / 1e6:.2f} M",
                " or ".join(point.pools),
            ]
        )
    height, width = architecture.image_size
    title = f"{architecture.name}: {architecture.kind}, pictures of {height}x{width}"
    return [title, "", *aligned(rows)]
