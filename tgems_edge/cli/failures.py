"""What a command that fails says, and the exit code it ends with."""

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
CRASHED = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 and the signal, as shells count: SIGINT
READER_GONE = 141  # SIGPIPE

CLICK_ERROR: Any = typer.BadParameter.__mro__[2]  # click's own, or that of typer's copy of click
NAMES_OF_OURS = {"tgems_edge", "tgems_export"}


class OneLineErrors(TyperGroup):
    """A group of commands whose errors are one line each, with their exit codes."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the arguments; those of a command are read when the group is invoked."""
        with _one_line():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; whatever it raises ends the process with one line."""
        with _one_line():
            return super().invoke(ctx)


def run(app: typer.Typer, program: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command line of `OneLineErrors`; end the process with its exit code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' warnings are for developers: python -W default
        logging.lastResort = logging.NullHandler()  # and so is what they log
        warnings.simplefilter("always", PictureWarning)
        warnings.showwarning = _show_warning
    stdout_closed = sys.stdout is None
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name the terminal cannot show must not end the work
            stream.reconfigure(errors="backslashreplace")
    if stdout_closed:  # before any work, whose result would be lost
        report_error(CLOSED)
        sys.exit(BAD_INPUT)
    try:
        app(args=None if arguments is None else list(arguments), prog_name=program)
    except SystemExit as ending:
        _leave_what_does_not_end(ending)
        raise
    finally:
        _drop_unwritten()


def _leave_what_does_not_end(ending: SystemExit) -> None:
    """End the process at once where a graph still runs: to clean up below it would crash."""
    background = sys.modules.get("tgems_edge.background")  # not loaded: nothing ran
    if background and background.is_any_left():
        _drop_unwritten()
        os._exit(ending.code if isinstance(ending.code, int) else 0)


def _show_warning(message: object, *where: Any, **more: Any) -> None:
    """Print a warning about a picture on one line; there are no others where this is used."""
    print_note(f"warning: {message}")


def _open_standard_streams() -> None:
    """Open what the caller closed as /dev/null, or the next file would become the standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one


def _drop_unwritten() -> None:
    """Forget what a full disk or a gone reader did not take; Python would complain of it at exit."""
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
    """Turn what is raised inside into one line on standard error and an exit code."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except CLICK_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # prints the help
            raise
        context = getattr(error, "ctx", None)
        see = f"; see `{context.command_path} --help`" if context else ""
        report_error(" ".join(error.format_message().split()).rstrip(".") + see)
        raise typer.Exit(BAD_INPUT) from None
    except BrokenPipeError:  # `| head` has read enough
        raise typer.Exit(READER_GONE) from None
    except KeyboardInterrupt:
        report_error("interrupted; what was finished is kept")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        message, code = _explain(error)
        report_error(message)
        raise typer.Exit(code) from None


def _explain(error: Exception) -> tuple[str, int]:
    """A line about an error, and the exit code."""
    if isinstance(error, TgemsError):
        return str(error), error.exit_code
    reason = " ".join(str(error).split())  # libraries write several lines
    if isinstance(error, ImportError) and not _is_ours(error.name):
        return _missing(error, reason), MissingDependency.exit_code
    if isinstance(error, OSError):
        # A file's name as it is: `printable` shows what is in it.
        where = "" if error.filename is None else f"{_as_text(error.filename)}: "
        return f"{where}{error.strerror or reason or type(error).__name__}", BAD_INPUT
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        said = f" ({reason})" if reason else ""
        return f"out of memory{said}; close other programs, or give it less at a time", BAD_INPUT
    return _unexpected(error, reason), CRASHED


def _missing(error: ImportError, reason: str) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"this command needs {error.name}, which is not installed: pip install 'tgems-edge[export]'"
    return f"{error.name or 'a package'} cannot be imported ({reason}); install it again"


def _is_ours(module: str | None) -> bool:
    """Whether a module of ours that is imported from another is meant: then it is our mistake."""
    package, _, rest = (module or "").partition(".")
    return package in NAMES_OF_OURS and bool(rest) and sys.modules.get(package) is not None


def _unexpected(error: Exception, reason: str) -> str:
    """What a mistake of ours says; TGEMS_DEBUG=1 prints where it happened before that."""
    if os.environ.get("TGEMS_DEBUG") == "1":
        for line in "".join(traceback.format_exception(error)).splitlines():
            print_note(line)
        asked = "please report it with the lines above"
    else:
        asked = "please report it with what TGEMS_DEBUG=1 prints"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if NAMES_OF_OURS & set(Path(frame.filename).parts)] or frames
    where = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
    return f"unexpected {type(error).__name__}{where}{f': {reason}' if reason else ''}; {asked}"


def _as_text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else str(name)
