"""Has the full image tower of an encoder made, by the workstation side.

    python -m tgems_edge.bench.make_tower full ViT-B-32 full.onnx

`bench --against full` runs the same, in a process of its own so that torch takes no memory here. A board
without the workstation side takes the file instead: `bench --against full.onnx`.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from tgems_edge.children import child_command
from tgems_edge.cli import OneLineErrors, run
from tgems_edge.errors import InputError, MissingDependency

__all__ = ["check_encoder_name", "make_tower"]

ENTRY_POINTS = "tgems_edge.towers"
FULL = "full"
PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")  # neither a path, a prefix with a colon, nor an option

app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _root() -> None:
    """Make what files are held against."""


@app.command(FULL)
def full(
    encoder: Annotated[str, typer.Argument(help="An open_clip name, local-dir:FOLDER, or demo.")],
    output: Annotated[Path, typer.Argument(help="The file to write; one that exists is replaced.")],
) -> None:
    """The full image tower of an encoder, as torch.onnx exports it."""
    makers = list(entry_points(group=ENTRY_POINTS, name=FULL))
    if not makers:
        raise MissingDependency("the workstation side is not installed: pip install 'tgems-edge[export]'")
    makers[0].load()(encoder, output)


def check_encoder_name(encoder: str) -> None:
    """Refuses what only the card of a model file names, unless it can be an architecture of open_clip.

    A card that names a folder or a repository could name one that its author prepared.

    Raises:
        InputError: the message has what to type to make the tower after all.
    """
    if PLAIN_NAME.fullmatch(encoder):
        return
    line = shlex.join(["python", "-m", __name__, FULL, encoder, "full.onnx"])
    if not line.isprintable():
        raise InputError(
            "--against full: the encoder that the model's card names cannot be one; export it again"
        )
    raise InputError(
        f"--against full: the model's card names {encoder}, which does not come with open_clip and is not "
        f"loaded on a file's word; if you trust it: {line}, then --against full.onnx"
    )


def make_tower(encoder: str, output: Path) -> None:
    """Writes the full tower of an encoder, in a process of its own.

    Raises:
        InputError: the workstation side is not installed, or cannot make it.
    """
    command = child_command("tgems_edge.bench.make_tower", FULL, encoder, str(output))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        raise InputError(
            f"--against full: {said[-1].removeprefix('error: ')} (or give --against the file of a tower that "
            "another machine made)"
        )


if __name__ == "__main__":
    run(app, f"python -m {__spec__.name}")
