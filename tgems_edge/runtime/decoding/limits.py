"""Limits on pictures: pixels, bytes and scans of one, and pixels that all threads may hold together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

from tgems_edge.errors import ImageError, InputError

__all__ = ["FILES", "MAX_PIXELS", "PIXELS", "VARIABLE", "Budget", "Limits", "find_limits", "set_limit"]

VARIABLE = "TGEMS_MAX_PIXELS"

# A 50-megapixel camera's. The costliest formats take some 10 bytes a pixel while they are decoded: 0.5 GB.
# The decoder of WebP takes twice as much (benchmarks/results/worst_picture.md).
MAX_PIXELS = 52_000_000
_COUNT_TWICE = ("WEBP",)

# A file of a few pixels may still carry a preview and a profile; beyond that, pixels are stored in 4 bytes.
_BASE_BYTES = 16 * 2**20
_BYTES_PER_PIXEL = 4


@dataclass(frozen=True)
class Limits:
    """Limits of one picture, and of all that are decoded at the same time."""

    pixels: int = MAX_PIXELS  # that are decoded

    @property
    def file_bytes(self) -> int:
        """Bytes of a file, read whole before it is decoded."""
        return _BASE_BYTES + _BYTES_PER_PIXEL * self.pixels

    def count(self, width: int, height: int, format: str | None = None) -> int:
        """Pixels of a picture as they count, in the format of its file.

        Raises:
            ImageError: they are more than the limit.
        """
        counted, remark = width * height, ""
        if format in _COUNT_TWICE:
            counted, remark = 2 * counted, f" of {format}, which count twice,"
        if counted > self.pixels:
            raise ImageError(
                f"{width}x{height} pixels{remark} are more than the limit of {self.pixels:,}, which bounds "
                "memory; scale it down, or raise --max-pixels"
            )
        return counted

    def check_bytes(self, count: int) -> None:
        """Raise ImageError for a file of more bytes."""
        if count > self.file_bytes:
            raise ImageError(
                f"more than {self.file_bytes / 1e6:.0f} MB, the limit for a file of {self.pixels:,} pixels; "
                "scale it down, or raise --max-pixels"
            )


def find_limits(max_pixels: int | None = None) -> Limits:
    """The limits in force: those asked for, else those of `$TGEMS_MAX_PIXELS`, else the default.

    Raises:
        InputError: the variable, or what was asked for, is no positive number.
    """
    said = max_pixels if max_pixels is not None else os.environ.get(VARIABLE) or MAX_PIXELS
    try:
        pixels = int(said)
    except ValueError:
        pixels = 0
    if pixels < 1:
        raise InputError(f"a limit of {said!r} pixels; give --max-pixels or ${VARIABLE} a number from 1 up")
    return Limits(pixels)


def set_limit(max_pixels: int | None) -> None:
    """Make a limit that of this process and of those it starts; None leaves it as it is."""
    if max_pixels is not None:
        os.environ[VARIABLE] = str(find_limits(max_pixels).pixels)


class Budget:
    """Something of which threads together hold at most a capacity; who finds too little left waits."""

    def __init__(self) -> None:
        """Start with nothing held."""
        self._held = 0
        self._changed = Condition()

    @contextmanager
    def hold(self, amount: int, capacity: int) -> Iterator[None]:
        """Hold an amount meanwhile; one beyond the capacity is held alone."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + amount <= capacity)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()


# Whoever waits for pixels holds bytes already, and who holds pixels waits for nothing: none waits for ever.
FILES = Budget()
PIXELS = Budget()
