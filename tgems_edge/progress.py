"""Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tgems_edge.errors import ImageError
from tgems_edge.printable import printable

__all__ = ["Reporter", "Task", "open_console"]

SECONDS_BETWEEN_LINES = 10.0
MOST_LEFT_OUT = 10  # pictures that are named


class _Console(Console):
    """Console that raises BrokenPipeError; rich would end the process with exit code 1, a finding."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that rich is handling."""
        raise


def open_console(*, stderr: bool) -> Console:
    """Return a console that does not interpret markup; rich respects NO_COLOR and plain terminals."""
    return _Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


class Reporter:
    """Messages and progress of a command on standard error; `quiet` shows warnings only."""

    def __init__(self, *, quiet: bool = False):
        """Open standard error."""
        self.quiet = quiet
        self.console = open_console(stderr=True)
        self._left_out = 0

    def say(self, message: object) -> None:
        """Print one line, unless quiet."""
        if not self.quiet:
            self._print(str(message))

    def warn(self, message: object) -> None:
        """Print one line that the user should not miss, even if quiet."""
        self._print(f"warning: {message}", style="yellow")

    def leave_out(self, error: ImageError) -> None:
        """Warn that a picture is left out; only the first 10 are named."""
        self._left_out += 1
        if self._left_out <= MOST_LEFT_OUT:
            self.warn(f"left out: {error}")
        elif self._left_out == MOST_LEFT_OUT + 1:
            self.warn("left out: more pictures, which are not listed")

    def _print(self, line: str, style: str | None = None) -> None:
        with suppress(OSError, ValueError):  # standard error is closed or full
            self.console.print(printable(line), style=style)

    def task(self, description: str, total: int, *, done: int = 0, unit: str = "") -> Task:
        """Return the progress of long work: `total` steps of a `unit`, `done` of them by an earlier run."""
        return Task(self, description, total, done, unit)


class Task:
    """Progress of one task: steps done, rate and time left.

    Use it as a context manager and call `advance`.
    """

    def __init__(self, reporter: Reporter, description: str, total: int, done: int, unit: str):
        """Take the arguments of `Reporter.task`."""
        self._reporter, self._description, self._unit = reporter, printable(description), unit
        self._total, self._done, self._done_before = total, done, done
        self._started = self._last_line = monotonic()
        self._note = ""
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=reporter.console,
            disable=reporter.quiet or not reporter.console.is_terminal,
        )
        self._id = self._bar.add_task(self._description, total=total, completed=done, status="")

    def __enter__(self) -> Task:
        """Start the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar; without a terminal, print the last line."""
        self._bar.stop()
        if kind is None and not self._reporter.console.is_terminal:
            self._line()

    def advance(self, steps: int, note: str = "") -> None:
        """Count `steps` more as done; show `note` beside them."""
        self._done += steps
        self._note = printable(note)
        self._bar.update(self._id, completed=self._done, status=self._status())
        if not self._reporter.console.is_terminal and monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._line()

    def _rate(self) -> float:
        return (self._done - self._done_before) / max(monotonic() - self._started, 1e-9)

    def _status(self) -> str:
        rate = self._rate()
        shown = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        return f"{shown} {self._unit}/s  {self._note}".rstrip()

    def _line(self) -> None:
        self._last_line = monotonic()
        line = f"{self._description}: {self._done}/{self._total}, {self._status()}"
        if self._rate() > 0 and self._done < self._total:
            line += f", {(self._total - self._done) / self._rate():.0f} s left"
        self._reporter.say(line)
