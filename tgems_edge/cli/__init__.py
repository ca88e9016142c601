"""The `tgems-edge` command.

Each command is a module with its own Typer app. It is imported when the command runs or for `--help`, so that
`classify` starts without importing the others. The workstation package adds its commands through the
entry-point group `tgems_edge.commands`; their modules import torch only when they run.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer

from tgems_edge import __version__
from tgems_edge.cli.failures import OneLineErrors, run
from tgems_edge.cli.output import print_lines, report_error
from tgems_edge.errors import MissingDependency

__all__ = ["OneLineErrors", "app", "main", "report_error", "run"]

DEVICE_COMMANDS = {
    "classify": "tgems_edge.cli.classify",
    "evaluate": "tgems_edge.cli.evaluate",
    "inspect": "tgems_edge.cli.inspect",
    "verify": "tgems_edge.cli.verify",
    "doctor": "tgems_edge.cli.doctor",
    "bench": "tgems_edge.cli.bench",
}
WORKSTATION_COMMANDS = ("train", "export", "study", "models")  # of the distribution tgems-export
ENTRY_POINTS = "tgems_edge.commands"


class _LazyCommands(OneLineErrors):
    """Group of commands that are imported on demand."""

    def list_commands(self, ctx: Any) -> list[str]:
        # A container image for a device may have the entry points without the workstation package.
        commands = _workstation_commands().items()
        installed = [name for name, module in commands if find_spec(module.partition(".")[0])]
        return [*installed, *DEVICE_COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = DEVICE_COMMANDS.get(cmd_name) or _workstation_commands().get(cmd_name)
        if module is None and cmd_name in WORKSTATION_COMMANDS:
            raise MissingDependency(f"{cmd_name} runs on a workstation: pip install 'tgems-edge[export]'")
        if module is None:
            return None
        command = typer.main.get_command(import_module(module).app)
        command.name = cmd_name
        return command


def _workstation_commands() -> dict[str, str]:
    from importlib.metadata import entry_points  # takes 0.1 s, which `classify` does not need

    return {entry.name: entry.value for entry in sorted(entry_points(group=ENTRY_POINTS))}


app = typer.Typer(
    cls=_LazyCommands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        print_lines([f"tgems-edge {__version__}"])
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Make one small ONNX file from a CLIP and a list of class names, and run it on a device.

    Workstation: train, export, study, models. Device: classify, evaluate, inspect, verify, doctor, bench.
    Each has its own --help.

    Exit codes: 0 done, 1 finding (such as a picture that could not be read), 2 bad input or usage, or a
    machine that lacks a package, memory or disk, 3 parity failed, 4 accuracy gate failed, 70 internal error
    (TGEMS_DEBUG=1 prints the traceback), 130 interrupted, 141 the reader of the output closed it.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    run(app, "tgems-edge", arguments)
