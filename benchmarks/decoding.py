"""Large photographs decoded at reduced scale (`--fast-decode`): how much sooner, and what it changes.

    python benchmarks/decoding.py [photos/]

JPEGs of 12 megapixels, drawn from seeds with detail of every size as photographs have it, or a folder of
your own. Each is decoded, resized and cropped in both ways, in turn, for the size of the built-in model and
for that of most CLIPs; the built-in model says what the difference does to its answers. A minute or two.
Writes benchmarks/results/decoding.md.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from report import write_report

from tgems_edge.folders import find_pictures
from tgems_edge.images import Preprocessing, read_pixels
from tgems_edge.model import Classifier, built_in_model, load
from tgems_edge.progress import Reporter

DRAWN = 24
SIZE = (4000, 3000)  # width and height of what is drawn
QUALITY = 95  # files of 3.5 MB, as those of a telephone
CLIP_SIZE = (224, 224)
ROUNDS = 5  # the fastest of which counts


@dataclass(frozen=True)
class Reading:
    """One picture in both ways."""

    whole: NDArray[np.uint8]  # (H, W, 3), of the model's size
    reduced: NDArray[np.uint8]  # the same
    seconds_whole: float
    seconds_reduced: float

    @property
    def difference(self) -> float:
        """Grey levels, on average."""
        return float(np.abs(self.whole.astype(int) - self.reduced).mean())


def draw_photograph(seed: int) -> bytes:
    """A JPEG of noise that is stronger the coarser it is."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    picture = np.full((height, width, 3), 128, np.float32)
    for cells in (3, 6, 12, 24, 48, 96, 192, 384, 768, 1536, 3072):
        noise = rng.integers(0, 256, (cells * height // width + 1, cells, 3), dtype=np.uint8)
        enlarged = Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)
        picture += (np.asarray(enlarged, np.float32) - 128) / cells**0.4
    file = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def photographs(folder: Path | None) -> Iterator[bytes]:
    """Files of a folder, or drawn ones, one at a time: together they would fill the memory."""
    if folder:
        yield from (path.read_bytes() for path in find_pictures(folder).paths)
    else:
        yield from map(draw_photograph, range(DRAWN))


def read_both(file: bytes, preprocessing: Preprocessing) -> Reading:
    """Reads a picture in both ways, in turn."""
    pixels, seconds = {}, {True: [], False: []}
    for _ in range(ROUNDS):
        for fast in (False, True):
            started = perf_counter()
            pixels[fast] = read_pixels(file, preprocessing, fast_decode=fast)
            seconds[fast].append(perf_counter() - started)
    return Reading(pixels[False], pixels[True], min(seconds[False]), min(seconds[True]))


def report(classifier: Classifier, readings: dict[str, list[Reading]], of: str) -> None:
    """Writes the table, with what the built-in model says about its own pixels."""
    rows = []
    for name, found in readings.items():
        whole, reduced = (
            1000 * median(times)
            for times in ([r.seconds_whole for r in found], [r.seconds_reduced for r in found])
        )
        faster = median(r.seconds_whole / r.seconds_reduced for r in found)
        difference = median(r.difference for r in found)
        rows.append([name, f"{whole:.0f}", f"{reduced:.0f}", f"{faster:.1f}", f"{difference:.2f}"])
    own = readings[next(iter(readings))]
    rates = [classifier.run([getattr(r, way) for r in own])[0] for way in ("whole", "reduced")]
    moved = np.abs(rates[0] - rates[1]).max(1)
    best, second = np.sort(rates[0], 1)[:, :2].T
    flipped = int((rates[0].argmin(1) != rates[1].argmin(1)).sum())
    write_report(
        "decoding",
        "Large photographs at reduced scale",
        "python benchmarks/decoding.py",
        f"{len(own)} {of}. Times are from the bytes of a file to the model's pixels, the least of {ROUNDS}, "
        "median over the pictures. Of the built-in model's labels, "
        f"{flipped} of {len(own)} differ; a picture's rates move by {np.median(moved):.3f} at the median and "
        f"{moved.max():.3f} at most, where the best rate leads by {np.median(second - best):.3f} at the "
        "median.",
        ["model's size", "ms, whole", "ms, reduced", "times faster", "difference of a pixel, grey levels"],
        rows,
    )


def main(
    photos: Annotated[Path | None, typer.Argument(help="Folder of photographs. Default: drawn ones.")] = None,
) -> None:
    """Measure both ways to decode."""
    classifier = load(built_in_model())
    own = classifier.card.preprocessing
    sizes = {"64×64, built-in": own, "224×224": replace(own, size=CLIP_SIZE)}
    readings: dict[str, list[Reading]] = {name: [] for name in sizes}
    reporter = Reporter()
    for number, file in enumerate(photographs(photos), 1):
        for name, preprocessing in sizes.items():
            readings[name].append(read_both(file, preprocessing))
        reporter.say(f"read {number}")
    of = f"pictures of {photos.name}/" if photos else f"drawn JPEGs of {SIZE[0]}×{SIZE[1]}"
    report(classifier, readings, of)


if __name__ == "__main__":
    typer.run(main)
