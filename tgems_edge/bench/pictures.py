"""Pictures to label during a measurement: drawn from a seed, or the user's own."""

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

__all__ = ["PictureCycle", "draw_pictures", "pictures_from_folder"]

DRAWN = 8  # pictures
SIZE = 640, 480  # pixels; a common camera resolution
# Pixels per step of the coarse and of the fine noise, and the weight of the fine noise: a JPEG of this noise
# has as many bytes as a photograph.
COARSE, FINE, GRAIN = 40, 4, 0.15
QUALITY = 90


class PictureCycle:
    """Picture files in shuffled order, starting over when all were taken.

    A file is decoded when it is first taken: one that cannot be read is left out before it is measured.
    """

    def __init__(self, paths: Sequence[Path], *, drawn: bool, reporter: Reporter):
        """Take at least one file."""
        self._remaining = list(paths)
        random.Random(0).shuffle(self._remaining)
        self._drawn, self._reporter = drawn, reporter
        self._next = 0
        self._sizes: dict[Path, tuple[int, int]] = {}  # bytes and pixels of those that were taken
        self.unreadable = 0

    def take(self, count: int) -> list[Path]:
        """Return the next `count` pictures.

        Raises:
            DataError: none of the files can be read.
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
        """Return the number and the mean size of the pictures taken so far."""
        sizes, pixels = zip(*self._sizes.values(), strict=True)
        return Pictures("drawn" if self._drawn else "folder", len(sizes), fmean(sizes), fmean(pixels) / 1e6)


def draw_pictures(folder: Path, reporter: Reporter) -> PictureCycle:
    """Write JPEG files of 640x480 pixels, the same on every machine, into a folder."""
    for number in range(DRAWN):
        _draw(number).save(folder / f"{number}.jpg", quality=QUALITY)
    return PictureCycle(sorted(folder.glob("*.jpg")), drawn=True, reporter=reporter)


def _draw(number: int) -> Image.Image:
    """Return a picture of large shapes with a little grain."""
    width, height = SIZE

    def noise(step: int) -> Image.Image:
        drawn = Image.fromarray(noise_pixels(f"bench {number}", (height // step, width // step)))
        return drawn.resize(SIZE, Image.Resampling.BICUBIC)

    return Image.blend(noise(COARSE), noise(FINE), GRAIN)


def pictures_from_folder(folder: Path, reporter: Reporter) -> PictureCycle:
    """Return all pictures below a folder.

    Raises:
        DataError: the folder does not exist, or has no pictures.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give --pictures a folder of pictures")
    found = find_pictures(folder)
    if not found.paths:
        raise DataError(f"{folder}: a folder without pictures{found.left_out.hint}")
    if found.left_out.matters:
        reporter.warn(f"{folder}: left out: {found.left_out}")
    return PictureCycle(found.paths, drawn=False, reporter=reporter)
