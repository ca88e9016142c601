"""Export the full image tower of an encoder with the workstation package.

    python -m tgems_edge.bench.make_tower full ViT-B-32 full.onnx

`bench --against full` runs the same command in a child process, so that torch takes no memory in the
measuring one. A board without the workstation package takes the file: `bench --against full.onnx`.
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
PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")  # not a path, a prefix with a colon, or an option

app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _root() -> None:
    """Make the files that `tgems-edge bench` compares model files with."""


@app.command(FULL)
def full(
    encoder: Annotated[str, typer.Argument(help="Encoder: an open_clip name, local-dir:FOLDER, or demo.")],
    output: Annotated[Path, typer.Argument(help="File to write. An existing file is replaced.")],
) -> None:
    """Export the full image tower of an encoder with torch.onnx."""
    exporters = list(entry_points(group=ENTRY_POINTS, name=FULL))
    if not exporters:
        raise MissingDependency("the workstation package is not installed: pip install 'tgems-edge[export]'")
    exporters[0].load()(encoder, output)


def check_encoder_name(encoder: str) -> None:
    """Check that an encoder named only by the card of a model file can be an open_clip architecture.

    A card may come from a stranger, who could name a folder or a repository of their own.

    Raises:
        InputError: the name is something else; the message has the command that makes the tower anyway.
    """
    if PLAIN_NAME.fullmatch(encoder):
        return
    line = shlex.join(["python", "-m", __name__, FULL, encoder, "full.onnx"])
    if not line.isprintable():
        raise InputError(
            "--against full: the model's card has an encoder name that cannot be right; export it again"
        )
    raise InputError(
        f"--against full: the model's card names the encoder {encoder}, which is not part of open_clip and "
        f"is not loaded automatically; if you trust it: {line}, then --against full.onnx"
    )


def make_tower(encoder: str, output: Path) -> None:
    """Write the full tower of an encoder to a file, in a child process.

    Raises:
        InputError: the workstation package is not installed, or cannot export the tower.
    """
    command = child_command("tgems_edge.bench.make_tower", FULL, encoder, str(output))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = done.stderr.strip().splitlines() or [f"the export ended with exit code {done.returncode}"]
        raise InputError(
            f"--against full: {errors[-1].removeprefix('error: ')} (or give --against the file of a tower "
            "that another machine exported)"
        )


if __name__ == "__main__":
    run(app, f"python -m {__spec__.name}")
