"""The pictures that are labelled while it is measured: drawn from a seed, or a user's own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from PIL import Image

from tgems_edge.bench.report import Pictures
from tgems_edge.errors import DataError, ImageError
from tgems_edge.model_file.card import noise_pixels
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import decode
from tgems_edge.sources.folders import find_pictures

__all__ = ["Album", "draw_album", "find_album"]

DRAWN = 8
SIZE = 640, 480  # of a usual camera
COARSE, FINE, GRAIN = 40, 4, 0.15  # pixels, and the share of the fine ones: a JPEG as large as a photograph's
QUALITY = 90


class Album:
    """Picture files in an order that mixes them, from the beginning again when all were taken.

    A file is decoded when it is first taken, so that one that cannot be read is left out and disturbs no
    measurement.
    """

    def __init__(self, paths: Sequence[Path], *, drawn: bool, reporter: Reporter):
        """Files, at least one."""
        self._remaining = list(paths)
        random.Random(0).shuffle(self._remaining)
        self._drawn, self._reporter = drawn, reporter
        self._next = 0
        self._sizes: dict[Path, tuple[int, int]] = {}  # bytes and pixels of those that were taken
        self.unreadable = 0

    def take(self, count: int) -> list[Path]:
        """The next `count` pictures.

        Raises:
            DataError: none of them can be read.
        """
        taken: list[Path] = []
        while len(taken) < count:
            if not self._remaining:
                raise DataError("none of the pictures can be read; copy them again")
            self._next %= len(self._remaining)
            path = self._remaining[self._next]
            if path in self._sizes or self._can_be_read(path):
                taken.append(path)
                self._next += 1
            else:
                self._remaining.remove(path)
        return taken

    def _can_be_read(self, path: Path) -> bool:
        try:
            picture = decode(path)
        except ImageError as error:
            self.unreadable += 1
            self._reporter.leave_out(error)
            return False
        self._sizes[path] = path.stat().st_size, picture.width * picture.height
        return True

    def facts(self) -> Pictures:
        """Of the pictures that were taken so far."""
        sizes, pixels = zip(*self._sizes.values(), strict=True)
        return Pictures("drawn" if self._drawn else "folder", len(sizes), fmean(sizes), fmean(pixels) / 1e6)


def draw_album(folder: Path, reporter: Reporter) -> Album:
    """Writes pictures that are the same everywhere: JPEG files of 640x480."""
    for number in range(DRAWN):
        _draw(number).save(folder / f"{number}.jpg", quality=QUALITY)
    return Album(sorted(folder.glob("*.jpg")), drawn=True, reporter=reporter)


def _draw(number: int) -> Image.Image:
    """Large shapes with a little grain."""
    width, height = SIZE

    def noise(size: int) -> Image.Image:
        drawn = Image.fromarray(noise_pixels(f"bench {number}", (height // size, width // size)))
        return drawn.resize(SIZE, Image.Resampling.BICUBIC)

    return Image.blend(noise(COARSE), noise(FINE), GRAIN)


def find_album(folder: Path, reporter: Reporter) -> Album:
    """All pictures under a folder.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give --pictures a folder with pictures of yours")
    found = find_pictures(folder)
    if not found.paths:
        raise DataError(f"{folder}: a folder without pictures{found.left_out.hint}")
    if found.left_out.matters:
        reporter.warn(f"{folder}: left out: {found.left_out}")
    return Album(found.paths, drawn=False, reporter=reporter)
