"""Error messages and exit codes of commands that fail."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from tgems_edge.cli.output import CLOSED, print_note, report_error
from tgems_edge.errors import MissingDependency, PictureWarning, TgemsError

__all__ = ["OneLineErrors", "run"]

BAD_INPUT = 2
INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as in shells
READER_GONE = 141  # 128 + SIGPIPE

CLICK_ERROR: Any = typer.BadParameter.__mro__[2]  # ClickException, of click or of typer's copy of it
OUR_PACKAGES = {"tgems_edge", "tgems_export"}


class OneLineErrors(TyperGroup):
    """Group of commands that print each error on one line and end with its exit code."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the arguments of the group; `invoke` parses those of a command."""
        with _one_line():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an exception becomes one line and an exit code."""
        with _one_line():
            return super().invoke(ctx)


def run(app: typer.Typer, program: str, arguments: Sequence[str] | None = None) -> None:
    """Run the command line of a `OneLineErrors` app and end the process with its exit code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # warnings of libraries are for developers: python -W default
        logging.lastResort = logging.NullHandler()  # and so is what they log
        warnings.simplefilter("always", PictureWarning)
        warnings.showwarning = _show_warning
    stdout_closed = sys.stdout is None
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal cannot encode is printed with escapes instead of raising an error.
            stream.reconfigure(errors="backslashreplace")
    if stdout_closed:  # checked before any work, because its result would be lost
        report_error(CLOSED)
        sys.exit(BAD_INPUT)
    try:
        app(args=None if arguments is None else list(arguments), prog_name=program)
    except SystemExit as ending:
        _exit_if_graph_runs(ending)
        raise
    finally:
        _discard_unwritten()


def _exit_if_graph_runs(ending: SystemExit) -> None:
    """End the process without cleaning up if a graph still runs, because cleaning up would crash it."""
    background = sys.modules.get("tgems_edge.runtime.background")  # not imported if no graph ran
    if background and background.is_any_left():
        _discard_unwritten()
        os._exit(ending.code if isinstance(ending.code, int) else 0)


def _show_warning(message: object, *where: Any, **more: Any) -> None:
    """Print a warning about a picture on one line; all other warnings are filtered out."""
    print_note(f"warning: {message}")


def _open_standard_streams() -> None:
    """Open closed standard streams as /dev/null, or the next opened file would take their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


def _discard_unwritten() -> None:
    """Discard output that a full disk or a closed pipe did not take; Python would report it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn exceptions into one line on standard error and an exit code."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except CLICK_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click prints the help
            raise
        context = getattr(error, "ctx", None)
        see = f"; see `{context.command_path} --help`" if context else ""
        report_error(" ".join(error.format_message().split()).rstrip(".") + see)
        raise typer.Exit(BAD_INPUT) from None
    except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
        raise typer.Exit(READER_GONE) from None
    except KeyboardInterrupt:
        report_error("interrupted; finished results are kept")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        message, code = _explain(error)
        report_error(message)
        raise typer.Exit(code) from None


def _explain(error: Exception) -> tuple[str, int]:
    """Return one line about an error, and the exit code."""
    if isinstance(error, TgemsError):
        return str(error), error.exit_code
    reason = " ".join(str(error).split())  # messages of libraries may have several lines
    if isinstance(error, ImportError) and not _is_ours(error.name):
        return _explain_import(error, reason), MissingDependency.exit_code
    if isinstance(error, OSError):
        # The name is not escaped here: `report_error` makes it printable.
        where = "" if error.filename is None else f"{_as_text(error.filename)}: "
        return f"{where}{error.strerror or reason or type(error).__name__}", BAD_INPUT
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, for a GPU
        details = f" ({reason})" if reason else ""
        return f"out of memory{details}; end other programs, or use a smaller batch or file", BAD_INPUT
    return _explain_internal(error, reason), INTERNAL_ERROR


def _explain_import(error: ImportError, reason: str) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"this command needs {error.name}, which is not installed: pip install 'tgems-edge[export]'"
    return f"{error.name or 'a package'} cannot be imported ({reason}); install it again"


def _is_ours(module: str | None) -> bool:
    """Return whether a module belongs to an installed package of ours: its absence is an internal error."""
    package, _, rest = (module or "").partition(".")
    return package in OUR_PACKAGES and bool(rest) and sys.modules.get(package) is not None


def _explain_internal(error: Exception, reason: str) -> str:
    """Return the message of an internal error; with TGEMS_DEBUG=1, print the traceback first."""
    if os.environ.get("TGEMS_DEBUG") == "1":
        for line in "".join(traceback.format_exception(error)).splitlines():
            print_note(line)
        request = "please report it with the lines above"
    else:
        request = "please report it with the output under TGEMS_DEBUG=1"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if OUR_PACKAGES & set(Path(frame.filename).parts)] or frames
    where = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
    return f"unexpected {type(error).__name__}{where}{f': {reason}' if reason else ''}; {request}"


def _as_text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else str(name)
