"""Calls that may never come back: made in another thread, so that whoever asked can stop waiting.

Python handles Ctrl-C in the main thread, and there only between its own instructions: while a library
computes, it waits. So the library computes elsewhere.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

__all__ = ["Overdue", "call", "call_beside", "is_any_left"]

GRACE = 1.0  # seconds that a call gets to end when it is told to

T = TypeVar("T")


class Overdue(Exception):
    """A call did not come back in time."""


class _Worker:
    """A thread that makes one call after the other."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self.outcomes: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        # A daemon: the interpreter does not wait for a call that never comes back.
        self.thread = threading.Thread(target=self._serve, name="tgems-edge", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            self.outcomes.put(_outcome(self.calls.get()))


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return function(), None
    except BaseException as error:
        return None, error


_idle: list[_Worker] = []  # to start a thread takes as long as a small model
_left: list[_Worker] = []  # at calls that did not end when they were told to


def call(function: Callable[[], T], timeout: float | None, stop: Callable[[], object]) -> T:
    """Calls a function in another thread; Ctrl-C and a timeout end the wait for it.

    Args:
        function: to call.
        timeout: seconds; None waits until it is interrupted.
        stop: tells the function to end.

    Raises:
        Overdue: it did not come back in time.
    """
    worker = _start(function)
    try:
        value, error = worker.outcomes.get(timeout=timeout)
    except BaseException as interruption:
        _left.append(worker)
        stop()
        with contextlib.suppress(Empty):
            worker.outcomes.get(timeout=GRACE)
            _left.remove(worker)
            _idle.append(worker)
        if isinstance(interruption, Empty):
            raise Overdue from None
        raise
    _idle.append(worker)
    if error is not None:
        raise error
    result: T = value
    return result


def call_beside(function: Callable[[], object], other: Callable[[], object]) -> None:
    """Calls a function, and another one meanwhile in another thread; what the other raises goes first."""
    worker = _start(other)
    try:
        function()
    finally:
        _, error = worker.outcomes.get()
        _idle.append(worker)
        if error is not None:
            raise error


def _start(function: Callable[[], Any]) -> _Worker:
    worker = _idle.pop() if _idle else _Worker()
    if not worker.thread.is_alive():  # after a fork no other thread is
        worker = _Worker()
    worker.calls.put(function)
    return worker


def is_any_left() -> bool:
    """Whether a call goes on that nobody waits for, so that the process should end without its clean-up."""
    return bool(_left)
