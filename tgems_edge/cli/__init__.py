"""The `tgems-edge` command.

Each command is a module with a Typer app of its own, imported when it is asked for (or for `--help`),
so that `classify` starts without paying for the others. Commands of the workstation are attached
through the entry-point group `tgems_edge.commands`; their modules import torch only when they run.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperGroup

from tgems_edge import __version__
from tgems_edge.errors import MissingDependency, PictureWarning, TgemsError

__all__ = ["OneLineErrors", "app", "main", "report_error"]

DEVICE_COMMANDS = {
    "classify": "tgems_edge.cli.classify",
    "evaluate": "tgems_edge.cli.evaluate",
    "inspect": "tgems_edge.cli.inspect",
    "verify": "tgems_edge.cli.verify",
    "doctor": "tgems_edge.cli.doctor",
    "bench": "tgems_edge.cli.bench",
}
ENTRY_POINTS = "tgems_edge.commands"

BAD_INPUT = 2
INTERRUPTED = 130


class OneLineErrors(TyperGroup):
    """A group of commands whose errors are one line each, with their exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; what it raises on purpose ends the process with one line."""
        try:
            return super().invoke(ctx)
        except TgemsError as error:
            _fail(str(error), error.exit_code)
        except ModuleNotFoundError as error:
            _fail(str(_missing(error)), MissingDependency.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted; what was finished is kept", INTERRUPTED)
        except BrokenPipeError:
            raise  # the reader of our output went away: Typer ends quietly
        except OSError as error:
            where = "" if error.filename is None else f"{error.filename}: "
            _fail(f"{where}{error.strerror or error}", BAD_INPUT)


class _LazyCommands(OneLineErrors):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: Any) -> list[str]:
        # An image for a device may leave the workstation's package out.
        attached = _workstation_commands().items()
        installed = [name for name, module in attached if find_spec(module.partition(".")[0])]
        return [*installed, *DEVICE_COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = DEVICE_COMMANDS.get(cmd_name) or _workstation_commands().get(cmd_name)
        if module is None:
            return None
        command = typer.main.get_command(import_module(module).app)
        command.name = cmd_name
        return command


def _workstation_commands() -> dict[str, str]:
    from importlib.metadata import entry_points  # 0.1 s that `classify` does not need

    return {entry.name: entry.value for entry in sorted(entry_points(group=ENTRY_POINTS))}


def _missing(error: ModuleNotFoundError) -> MissingDependency:
    return MissingDependency(
        f"this command needs {error.name}, which is not installed: pip install 'tgems-edge[export]'"
    )


def report_error(message: object) -> None:
    """An error on standard error, on one line whatever names are in it."""
    typer.echo("error: " + " ".join(str(message).split()), err=True)


def _show_warning(message: object, *where: Any, **more: Any) -> None:
    """A warning about a picture on one line; there are no others where this is used."""
    typer.echo("warning: " + " ".join(str(message).split()), err=True)


def _fail(message: str, exit_code: int) -> None:
    report_error(message)
    raise typer.Exit(exit_code)


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
        typer.echo(f"tgems-edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    """One small ONNX file from a CLIP and a list of class names.

    Workstation: train, export, study. Device: classify, evaluate, inspect, verify, doctor, bench. Each
    explains itself with --help.

    Exit codes: 0 done, 1 finding (such as a picture that could not be read), 2 bad input or usage,
    3 parity failed, 4 accuracy gate failed.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; ends the process with its exit code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' warnings are for developers: python -W default
        warnings.simplefilter("always", PictureWarning)
        warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name the terminal cannot show must not end the work
            stream.reconfigure(errors="backslashreplace")
    app(args=None if arguments is None else list(arguments), prog_name="tgems-edge")
