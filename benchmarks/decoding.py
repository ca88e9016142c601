"""Large photographs decoded at reduced scale (`--fast-decode`): how much sooner, and what it changes.

    python benchmarks/decoding.py [photos/]

JPEGs of 12 megapixels, drawn from seeds with detail of every size as photographs have it, or a folder of
your own. Each is decoded, resized and cropped in both ways, in turn, for the size of the built-in model and
for that of most CLIPs; the built-in model says what the difference does to its answers. A minute or two.
Expect a fifth of the time, and no other label.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import numpy as np
import typer
from measuring.options import Quick
from measuring.result import save
from numpy.typing import NDArray
from PIL import Image

from tgems_edge.model_file.card import Preprocessing
from tgems_edge.model_file.default import built_in_model
from tgems_edge.progress import Reporter
from tgems_edge.runtime.classifier import Classifier, load
from tgems_edge.runtime.images import read_pixels
from tgems_edge.sources.folders import find_pictures

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


def size_rows(readings: dict[str, list[Reading]]) -> list[dict[str, object]]:
    """One row for each size of a model: medians over the pictures."""
    return [
        {
            "size": name,
            "whole_ms": 1000 * median(r.seconds_whole for r in found),
            "reduced_ms": 1000 * median(r.seconds_reduced for r in found),
            "faster": median(r.seconds_whole / r.seconds_reduced for r in found),
            "difference": median(r.difference for r in found),
        }
        for name, found in readings.items()
    ]


def answer_facts(classifier: Classifier, readings: list[Reading]) -> dict[str, object]:
    """Compare labels and rates of the built-in model at reduced scale."""
    rates = [classifier.run([getattr(r, way) for r in readings]).rates for way in ("whole", "reduced")]
    moved = np.abs(rates[0] - rates[1]).max(1)
    best, second = np.sort(rates[0], 1)[:, :2].T
    return {
        "pictures": len(readings),
        "rounds": ROUNDS,
        "flipped": int((rates[0].argmin(1) != rates[1].argmin(1)).sum()),
        "moved_median": float(np.median(moved)),
        "moved_most": float(moved.max()),
        "lead_median": float(np.median(second - best)),
    }


def main(
    photos: Annotated[Path | None, typer.Argument(help="Folder of photographs. Default: drawn ones.")] = None,
    quick: Quick = False,
) -> None:
    """Measure both ways to decode; quickly, one photograph."""
    classifier = load(built_in_model())
    own = classifier.card.preprocessing
    sizes = {"64×64, built-in": own, "224×224": replace(own, size=CLIP_SIZE)}
    readings: dict[str, list[Reading]] = {name: [] for name in sizes}
    reporter = Reporter()
    for number, file in enumerate(islice(photographs(photos), 1 if quick else None), 1):
        for name, preprocessing in sizes.items():
            readings[name].append(read_both(file, preprocessing))
        reporter.say(f"read {number}")
    facts = answer_facts(classifier, readings[next(iter(sizes))])
    facts["of"] = f"pictures of {photos.name}/" if photos else f"drawn JPEGs of {SIZE[0]}×{SIZE[1]}"
    save("decoding", {"sizes": size_rows(readings)}, facts, quick=quick)


if __name__ == "__main__":
    typer.run(main)
