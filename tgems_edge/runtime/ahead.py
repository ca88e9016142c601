"""Work ahead: the next items are worked on in a thread while the caller is busy with those before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["map_ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Generator[Result, None, None]:
    """`map`, with up to `count` results made beyond the one that was asked for.

    The function runs in one thread, items are taken in the caller's. What the function raises comes when its
    result would have. Close the iterator to end the thread early: it finishes the item it is at and no other.
    """
    remaining = iter(items)
    thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        coming = deque(thread.submit(function, item) for item in islice(remaining, count))
        while coming:
            result = coming.popleft().result()
            coming.extend(thread.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        thread.shutdown(cancel_futures=True)
