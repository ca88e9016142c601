"""Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Reporter", "Task"]

SECONDS_BETWEEN_LINES = 10.0


class Reporter:
    """Where a command says what it does. `quiet` silences everything but warnings."""

    def __init__(self, *, quiet: bool = False):
        """Writes to standard error; rich honours NO_COLOR and terminals without colours."""
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, message: str) -> None:
        """One line about what happened."""
        if not self.quiet:
            self.console.print(message, markup=False)

    def warn(self, message: str) -> None:
        """One line the user should not miss, quiet or not."""
        self.console.print(f"warning: {message}", markup=False, style="yellow")

    def task(self, description: str, total: int, *, done: int = 0, unit: str = "") -> Task:
        """A piece of long work with `total` steps of a `unit`, `done` of which an earlier run did."""
        return Task(self, description, total, done, unit)


class Task:
    """Shows done and total, rate and time left; use as a context manager and call `advance`."""

    def __init__(self, reporter: Reporter, description: str, total: int, done: int, unit: str):
        """See `Reporter.task`."""
        self._reporter, self._description, self._unit = reporter, description, unit
        self._total, self._done, self._done_before = total, done, done
        self._started = self._last_line = monotonic()
        self._note = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=reporter.console,
            disable=reporter.quiet or not reporter.console.is_terminal,
        )
        self._id = self._bar.add_task(description, total=total, completed=done, status="")

    def __enter__(self) -> Task:
        """Starts the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the bar; elsewhere than on a terminal prints the last line."""
        self._bar.stop()
        if kind is None and not self._reporter.console.is_terminal:
            self._line()

    def advance(self, steps: int, note: str = "") -> None:
        """Counts `steps` more as done; `note` is what is worth seeing meanwhile."""
        self._done += steps
        self._note = note
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
