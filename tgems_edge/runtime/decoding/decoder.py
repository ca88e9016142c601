"""Any picture as upright 8-bit RGB, within limits; Pillow decodes what was let through."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from tgems_edge.errors import ImageError, PictureWarning
from tgems_edge.model_file.card.preprocessing import Colour
from tgems_edge.runtime.decoding.contents import Source, file_bytes, source_name
from tgems_edge.runtime.decoding.exif import is_plausible, orientation
from tgems_edge.runtime.decoding.jpeg import read_jpeg
from tgems_edge.runtime.decoding.limits import PIXELS, Limits, find_limits
from tgems_edge.runtime.decoding.png import bit_depth, without_metadata
from tgems_edge.runtime.decoding.rgb import TRANSPOSE, to_rgb
from tgems_edge.runtime.decoding.signatures import identify, stated_size
from tgems_edge.sources.formats import decoded_formats

__all__ = ["Picture", "decode", "decoded"]

Picture = Source | NDArray[Any] | Image.Image

_BITS_PER_SAMPLE = 258  # of TIFF

_PLUGINS = {
    "AVIF": "AvifImagePlugin",
    "BMP": "BmpImagePlugin",
    "GIF": "GifImagePlugin",
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "PPM": "PpmImagePlugin",
    "TIFF": "TiffImagePlugin",
    "WEBP": "WebPImagePlugin",
}


def decode(
    picture: Picture,
    *,
    shorter_side: int | None = None,
    colour: Colour | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """Any picture as 8-bit RGB.

    Args:
        picture: a path, the bytes of a file, an open binary file, a Pillow image, or an array of uint8,
            (H, W, 3) RGB or (H, W) grey.
        shorter_side: a JPEG file may be decoded at a half, a quarter or an eighth of its size, as long as
            its shorter side keeps this many pixels; default as it is.
        colour: `srgb` converts pictures with a colour profile to sRGB; by default profiles are ignored.
        max_pixels: more are refused, and larger files than they explain; default `$TGEMS_MAX_PIXELS`, else
            52 million.

    Raises:
        ImageError: missing, empty, truncated, not a picture, too large, or of an unknown pixel type.
        InputError: a limit that is no positive number.

    Warns:
        PictureWarning: it was read, and something about it is worth knowing.
    """
    with decoded(picture, shorter_side=shorter_side, colour=colour, max_pixels=max_pixels) as rgb:
        return rgb


@contextmanager
def decoded(
    picture: Picture, *, shorter_side: int | None, colour: Colour | None, max_pixels: int | None
) -> Iterator[Image.Image]:
    """`decode`, whose picture counts as held in memory until the context ends."""
    limits = find_limits(max_pixels)
    name = source_name(picture)
    notes: list[str] = []
    with ExitStack() as held:
        with _one_line(name):
            if isinstance(picture, np.ndarray):
                rgb = _from_array(picture)
            elif isinstance(picture, Image.Image):
                rgb = _from_pillow(picture, colour, limits, held, notes.append)
            else:
                data = held.enter_context(file_bytes(picture, limits))
                rgb = _from_file(data, name, shorter_side, colour, limits, held, notes.append)
        for note in notes:
            warnings.warn(f"{name}: {note}", PictureWarning, stacklevel=4)
        yield rgb


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Whatever Pillow raises becomes an ImageError about `name`."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not a picture that Pillow can read; convert it to JPEG or PNG") from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name}: more pixels than Pillow decodes in this format; scale it down first"
        ) from None
    except MemoryError:
        raise ImageError(f"{name}: too large for this machine's memory; scale it down first") from None
    except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
        raise ImageError(f"{name}: damaged or cut short ({error}); copy or save it again") from None


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ImageError(
            f"an array of {array.dtype} {array.shape}: expected uint8 (H, W, 3) RGB or (H, W) grey"
        )
    if 0 in array.shape:
        raise ImageError(f"an array of shape {array.shape} has no pixels")
    return Image.fromarray(array).convert("RGB")


def _from_pillow(
    picture: Image.Image, colour: Colour | None, limits: Limits, held: ExitStack, note: Callable[[str], None]
) -> Image.Image:
    if picture.format not in (None, "MPO", *decoded_formats()):
        raise ImageError(f"{picture.format} is not read here; give its pixels, as .convert('RGB')")
    _hold(picture.width, picture.height, limits, held)
    picture.load()
    with contextlib.suppress(Exception):  # a damaged EXIF block must not cost the picture
        picture = ImageOps.exif_transpose(picture)
    return to_rgb(picture, note, srgb=colour == "srgb")


def _from_file(
    data: bytes,
    name: str,
    shorter_side: int | None,
    colour: Colour | None,
    limits: Limits,
    held: ExitStack,
    note: Callable[[str], None],
) -> Image.Image:
    format = identify(data, name)
    alternative = None  # the same file with other data where some may be missing
    has_profile = False
    if format == "JPEG" and (jpeg := read_jpeg(data)):
        jpeg.check_scans()
        data, has_profile = jpeg.data, jpeg.has_profile
        for remark in jpeg.notes:
            note(remark)
        if not jpeg.has_end:
            data, alternative = jpeg.completed()
    elif format == "TIFF" and not is_plausible(data):
        raise ImageError(
            "damaged or made to fill the memory: its directory points at more than the file holds"
        )
    if size := stated_size(data, format):
        _hold(*size, limits, held, format)
    picture = _open(data, format, note)
    if shorter_side:
        picture.draft(None, (shorter_side, shorter_side))  # does nothing but to JPEGs
    if not size:
        _hold(picture.width, picture.height, limits, held)
    picture.load()
    if alternative:
        other = _open(alternative, format, note)
        if shorter_side:
            other.draft(None, (shorter_side, shorter_side))
        if ImageChops.difference(picture, other).getbbox():
            raise ImageError("damaged or cut short (its data end early); copy or save it again")
        note("its end mark is missing, and nothing else; was it copied whole?")
    if colour and has_profile and picture.info.get("icc_profile") is None:
        note("its colour profile was ignored: parts of it are missing")
    deep = format == "PNG" and bit_depth(data) == 16
    if format == "TIFF":
        deep = 16 in getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    elif (stored := orientation(picture.info)) in TRANSPOSE:  # Pillow turns TIFFs itself
        picture = picture.transpose(TRANSPOSE[stored])
    return to_rgb(picture, note, srgb=colour == "srgb", deep=deep)


def _hold(width: int, height: int, limits: Limits, held: ExitStack, format: str | None = None) -> None:
    """Waits until other threads leave room for a picture; it counts as held until the end."""
    if 0 in (width, height):
        raise ImageError(f"{width}x{height}: it has no pixels")
    held.enter_context(PIXELS.hold(limits.count(width, height, format), limits.pixels))


def _open(data: bytes, format: str, note: Callable[[str], None]) -> Image.Image:
    """Pillow's description of a file before it decodes it."""
    try:
        return _start(data, format)
    except ValueError:
        if format != "PNG":
            raise
        picture = _start(without_metadata(data), format)
        note("its texts or its colour profile are too large and were left out")
        return picture


def _start(data: bytes, format: str) -> Image.Image:
    """Open a file as `Image.open` does, but as one format, without trying others.

    Nor does it load their decoders, or apply a limit of pixels that is one for the whole process.
    """
    if format not in Image.OPEN:
        import_module(f"PIL.{_PLUGINS[format]}")
    factory, _ = Image.OPEN[format]
    return factory(io.BytesIO(data), "")
