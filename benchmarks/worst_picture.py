"""The costliest pictures that are let through: how much memory and time each format takes at the limit.

    python benchmarks/worst_picture.py

Square pictures with as many pixels as the default limit allows, of every format and pixel type that is costly
to decode. Each is read for a model of 224x224 in a process of its own, with its colour profile converted;
memory is what the process takes beyond its imports (Linux). Five minutes. Expect about 10 bytes a pixel at
most, and up to 17 for WebP, whose pixels count twice against the limit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from math import isqrt
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import typer
from measuring.options import Quick
from measuring.result import save as save_result
from PIL import Image, ImageCms, ImageFile

from tgems_edge.progress import Reporter
from tgems_edge.runtime.decoding.limits import MAX_PIXELS
from tgems_edge.sources.formats import can_decode

SIDE, WEBP_SIDE = isqrt(MAX_PIXELS), isqrt(MAX_PIXELS // 2)  # pixels of WebP count twice
TILE, COARSE = 64, 8  # squares of noise, repeated, and pixels of each

CHILD = """
import json, sys, time
from pathlib import Path
from tgems_edge.model_file.card import Preprocessing
from tgems_edge.runtime.images import read_pixels
def peak():  # of this program: getrusage counts what its parent had
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
wanted = Preprocessing((224, 224), "shortest", "bicubic", 0, (0.0,) * 3, (1.0,) * 3, "srgb")
read_pixels(sys.argv[2], wanted)
before, started = peak(), time.perf_counter()
read_pixels(sys.argv[1], wanted)
seconds = time.perf_counter() - started
print(json.dumps([seconds, peak() - before]))
"""


def draw(mode: str, side: int) -> Image.Image:
    """Soft noise."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    depth = np.uint16 if mode == "I;16" else np.uint8
    tile = np.random.default_rng(0).integers(0, np.iinfo(depth).max, (TILE, TILE, channels), dtype=depth)
    tile = tile.repeat(COARSE, 0).repeat(COARSE, 1)
    repeats = -(-side // len(tile))
    pixels = np.tile(tile, (repeats, repeats, 1))[:side, :side]
    pixels = np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels)
    return Image.fromarray(pixels, None if mode == "I;16" else mode)


def adobe_profile() -> bytes:
    """A profile of sRGB with another first colour."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = data.index(b"rXYZ")
    where = int.from_bytes(data[at + 4 : at + 8], "big") + 8
    data[where : where + 4] = (0x0000_9C18).to_bytes(4, "big")
    return bytes(data)


def turned() -> Image.Exif:
    """The size of a picture that was taken upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


Save = Callable[[Path], None]


def saver(mode: str, side: int = SIDE, **options: object) -> Save:
    """Saves a picture of a mode."""
    return lambda path: draw(mode, side).save(path, **options)


CASES: dict[str, tuple[str, Save]] = {
    "JPEG": (".jpg", saver("RGB", quality=75)),
    "JPEG, turned": (".jpg", saver("RGB", quality=75, exif=turned())),
    "JPEG, progressive": (".jpg", saver("RGB", quality=75, progressive=True, subsampling=0)),
    "JPEG, progressive, turned, profile": (
        ".jpg",
        saver("RGB", quality=75, progressive=True, subsampling=0, exif=turned(), icc_profile=adobe_profile()),
    ),
    "JPEG, CMYK": (".jpg", saver("CMYK", quality=75)),
    "PNG": (".png", saver("RGB", compress_level=1)),
    "PNG, alpha, profile": (".png", saver("RGBA", compress_level=1, icc_profile=adobe_profile())),
    "PNG, 16 bits": (".png", saver("I;16", compress_level=1)),
    "WebP, lossless": (".webp", saver("RGB", WEBP_SIDE, lossless=True, quality=0, method=0)),
    "WebP, lossless, alpha": (".webp", saver("RGBA", WEBP_SIDE, lossless=True, quality=0, method=0)),
    "GIF": (".gif", saver("L")),
    "BMP": (".bmp", saver("RGB")),
    "TIFF": (".tif", saver("RGB", compression="tiff_lzw")),
    "TIFF, turned, alpha": (".tif", saver("RGBA", compression="tiff_lzw", exif=turned())),
    "AVIF": (".avif", saver("RGB", speed=10, quality=50)),
    "HEIC": (".heic", saver("RGB", quality=50)),
}


def measure(path: Path, small: Path) -> tuple[float, int]:
    """Return the seconds and the bytes of memory that reading a picture takes, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(path), str(small)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, taken = json.loads(done.stdout)
    return seconds, taken


def main(quick: Quick = False) -> None:
    """Measure every case; quickly, one of them."""
    ImageFile.MAXBLOCK = 2**27  # Pillow writes a progressive JPEG in one piece
    reporter, rows = Reporter(), []
    with TemporaryDirectory() as folder:
        small = Path(folder) / "small.png"
        Image.new("RGB", (8, 8)).save(small, icc_profile=adobe_profile())
        for name, (suffix, save) in islice(CASES.items(), 1 if quick else None):
            path = Path(folder) / f"picture{suffix}"
            if not can_decode(suffix):
                reporter.say(f"{name}: no decoder here")
                continue
            save(path)
            seconds, taken = measure(path, small)
            size = path.stat().st_size
            rows.append(
                {"picture": name, "file_mb": size / 1e6, "memory_mb": taken / 1e6, "seconds": seconds}
            )
            reporter.say(f"{name}: {taken / 1e6:.0f} MB, {seconds:.1f} s")
            path.unlink()
    facts = {"side": SIDE, "webp_side": WEBP_SIDE, "limit": MAX_PIXELS}
    save_result("worst_picture", {"pictures": rows}, facts, quick=quick)


if __name__ == "__main__":
    typer.run(main)
