"""The one time that the pictures of an export are decoded.

Of each labelled picture stays what the graph takes, in a temporary file, since there may be many. Of those
that are compared with PyTorch, the rates that PyTorch gives stay as well, so nobody needs the picture again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tgems_edge.errors import DataError, ImageError
from tgems_edge.progress import Reporter
from tgems_edge.runtime.decoding import decoded
from tgems_edge.runtime.decoding.contents import source_name
from tgems_edge.runtime.images import to_pixels
from tgems_export.exporting.exits import Exit
from tgems_export.exporting.picture_sets import PictureSet, PictureSets
from tgems_export.threads import in_order

__all__ = ["Compared", "ReadPictures", "ReadSet", "Resize", "read_pictures"]

COMPARED_PICTURES = 1000  # at most, of those given: PyTorch runs over them too; shared by the exits
BATCH = 7  # of PyTorch's

Resize = Callable[[Image.Image], NDArray[np.uint8]]  # a picture to pixels (H, W, 3), as the file does it


@dataclass(frozen=True)
class ReadSet:
    """n pictures of a set that could be read, as the graph takes them."""

    pictures: PictureSet
    pixels: NDArray[np.uint8]  # (n, H, W, 3)
    varied: NDArray[np.bool_]  # (n,) which are of more than one colour


@dataclass(frozen=True)
class Compared:
    """m pictures, and what PyTorch says of them."""

    of: str  # what they are, in words
    pixels: NDArray[np.uint8]  # (m, H, W, 3) as Pillow resizes
    references: list[NDArray[np.float32]]  # (m, C) rates, for each exit


@dataclass(frozen=True)
class ReadPictures:
    """All that an export keeps of its pictures."""

    calibration: ReadSet | None = None
    measuring: ReadSet | None = None
    compared: Compared | None = None


@dataclass(frozen=True)
class _Picture:
    """The pixels of one picture, and what a comparison needs."""

    pixels: NDArray[np.uint8]  # (H, W, 3) as the file resizes
    varied: bool
    pillows: NDArray[np.uint8]  # (H, W, 3) as Pillow resizes
    image: Tensor | None  # (3, H, W) as open_clip's own transform has it


def read_pictures(
    exits: Sequence[Exit], sets: PictureSets, resize: Resize | None, reporter: Reporter
) -> ReadPictures:
    """Decodes every labelled picture once.

    Args:
        exits: of the file, whose heads PyTorch runs.
        sets: see `PictureSets`; those without labels are read by who finds the ranges of INT8.
        resize: how the file resizes, if it does; else Pillow does it.
        reporter: where progress goes, and what cannot be read.

    Raises:
        DataError: no picture of a set can be read.
    """
    compared = sets.measuring or sets.calibration
    if compared is None:
        return ReadPictures()
    step = -(-len(compared.paths) * len(exits) // COMPARED_PICTURES)
    pillows: list[NDArray[np.uint8]] = []
    read: dict[int, ReadSet] = {}
    chosen = [pictures for pictures in (sets.calibration, sets.measuring) if pictures]

    def images() -> Iterator[Tensor]:
        """Batches for PyTorch, of pictures that are read meanwhile."""
        pending: list[Tensor] = []
        with reporter.task("reading pictures", sum(len(s.members) for s in chosen), unit="pictures") as task:
            for pictures in chosen:
                every = step if pictures is compared else 0
                reading = _Reading(exits[0], pictures)
                for picture in reading.run(every, resize, reporter):
                    task.advance(1)
                    if picture and picture.image is not None:
                        pillows.append(picture.pillows)
                        pending.append(picture.image)
                    if len(pending) == BATCH:
                        yield torch.stack(pending)
                        pending.clear()
                read[id(pictures)] = reading.result
        if pending:
            yield torch.stack(pending)

    def reference(batch: Tensor) -> list[NDArray[np.float32]]:
        return [_rates(exit_, batch) for exit_ in exits]

    references = list(in_order(reference, images()))
    found = None
    if references:
        of = "of --data" if sets.measuring else "of --calibration"
        columns = [np.concatenate(column) for column in zip(*references, strict=True)]
        found = Compared(of, np.stack(pillows), columns)
    calibration, measuring = (read.get(id(pictures)) for pictures in (sets.calibration, sets.measuring))
    return ReadPictures(calibration, measuring, found)


def _rates(exit_: Exit, images: Tensor) -> NDArray[np.float32]:
    activation = exit_.encoder.exit_activation(images, exit_.card.layer, exit_.card.pool)
    rates: NDArray[np.float32] = exit_.head.rates(activation, exit_.text).numpy()
    return rates


class _Reading:
    """Reads one picture set into a temporary file."""

    result: ReadSet  # once `run` has come to its end

    def __init__(self, exit_: Exit, pictures: PictureSet):
        self._encoder = exit_.encoder
        self._pictures = pictures

    def run(self, every: int, resize: Resize | None, reporter: Reporter) -> Iterator[_Picture | None]:
        """Each picture in turn, None for an unreadable one; every so many with an image, with 0 none.

        Raises:
            DataError: none can be read.
        """
        paths, colour = self._pictures.paths, self._encoder.colour
        readable, varied = [], []

        def read(position: int) -> _Picture | ImageError:
            is_compared = bool(every) and position % every == 0
            try:
                with decoded(paths[position], shorter_side=None, colour=colour, max_pixels=None) as picture:
                    try:
                        return self._keep(picture, is_compared, resize)
                    except ImageError as error:
                        return ImageError(f"{source_name(paths[position])}: {error}")
            except ImageError as error:
                return error

        with tempfile.TemporaryFile() as file:
            for position, found in enumerate(in_order(read, range(len(paths)))):
                if isinstance(found, ImageError):
                    reporter.leave_out(found)
                    yield None
                    continue
                file.write(found.pixels.tobytes())
                readable.append(position)
                varied.append(found.varied)
                yield found
            if not readable:
                raise DataError(f"{self._pictures.folder.root}: none of its pictures can be read")
            file.flush()
            shape = (len(readable), *self._encoder.preprocessing.size, 3)
            pixels = np.memmap(file, np.uint8, "r", shape=shape)  # outlives the file's own handle
        self.result = ReadSet(self._pictures.only(np.array(readable)), pixels, np.array(varied))

    def _keep(self, picture: Image.Image, is_compared: bool, resize: Resize | None) -> _Picture:
        pillows = to_pixels(picture, self._encoder.preprocessing)
        extremes: Any = picture.getextrema()  # of the picture itself: its padding may be of another colour
        return _Picture(
            pixels=resize(picture) if resize else pillows,
            varied=any(low < high for low, high in extremes),
            pillows=pillows,
            image=self._encoder.reference_transform(picture) if is_compared else None,
        )
