"""Work whose results do not depend on the number of cores: each piece on one thread, several pieces at once.

A product that is shared out among threads is summed in another order, so its last bits depend on how many
there are; and a model file holds what was computed when it was made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from threadpoolctl import threadpool_limits

from tgems_edge.runtime.session import choose_threads, open_session

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["in_order", "one_thread", "open_on_one_thread"]

MOST_WORKERS = 8  # each has the activations of a tower in memory

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch and the linear algebra of numpy on one thread, and then on as many as before."""
    threads = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def open_on_one_thread(model: bytes) -> onnxruntime.InferenceSession:
    """Opens a serialised graph for `in_order`."""
    return open_session(model, threads=1)


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield the results of a function for each item, computed several at once, in the order of the items.

    Not many items are taken ahead, so they may be large.
    """
    workers = min(choose_threads(None), MOST_WORKERS)
    # Asked for its threads, torch takes over in a new thread what `one_thread` set.
    with ThreadPoolExecutor(workers, initializer=torch.get_num_threads) as pool:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
