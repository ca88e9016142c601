"""From a file to the model's pixels: decoding is ours, everything after it is open_clip's.

Decoding turns any picture that Pillow opens into 8-bit RGB, the same way in training, at export and
on the device: EXIF orientation applied, alpha composited on black, 16 bits cut to 8, the first frame
of an animation. From the RGB array on, `to_pixels` equals open_clip's own transform for the encoder
bit by bit; resize mode, interpolation, crop and fill all come from the encoder, never from a default.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tgems_edge.errors import ImageError

__all__ = [
    "Picture",
    "Preprocessing",
    "decode",
    "read_pixels",
    "resampling",
    "to_pixels",
    "to_rgb",
]

Picture = str | Path | bytes | NDArray[Any] | Image.Image

# Pillow's own limit for a decompression bomb: 179 million pixels, 0.5 GB as RGB.
_MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0) or 178_956_970

# Pillow would start Ghostscript for the first, and only recognises the others without decoding them.
_REFUSED_FORMATS = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder expects of its pictures, as open_clip's `preprocess_cfg` states it."""

    size: tuple[int, int]  # (H, W) of the model's input
    resize_mode: Literal["shortest", "longest", "squash"]
    interpolation: Literal["bicubic", "bilinear"]
    fill_color: int  # grey level around a picture that `longest` leaves too small
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def decode(picture: Picture, *, shorter_side: int | None = None) -> Image.Image:
    """Any picture as 8-bit RGB.

    Args:
        picture: a path, the bytes of a file, a Pillow image, or an array of uint8, (H, W, 3) RGB or
            (H, W) grey.
        shorter_side: a JPEG file may be decoded at a half, a quarter or an eighth of its size, as long as
            its shorter side keeps this many pixels; default as it is.

    Raises:
        ImageError: missing, empty, truncated, not a picture, too large, or of an unknown pixel type.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if isinstance(picture, Image.Image):
        return _load(lambda: picture, "the picture")
    if isinstance(picture, bytes):
        return _from_bytes(picture, "the picture", shorter_side)
    path = Path(picture)
    try:
        return _from_bytes(path.read_bytes(), str(path), shorter_side)
    except (FileNotFoundError, ValueError):  # ValueError: a name that no file can have
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: a folder, not a picture") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror})") from None


def _from_bytes(data: bytes, name: str, shorter_side: int | None) -> Image.Image:
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes); copy it again")

    def open_picture() -> Image.Image:
        opened = Image.open(io.BytesIO(data))
        if shorter_side:
            opened.draft(None, (shorter_side, shorter_side))  # does nothing but to JPEGs
        return opened

    return _load(open_picture, name)


def _load(open_picture: Callable[[], Image.Image], name: str) -> Image.Image:
    """Opens and decodes; whatever Pillow raises on the way becomes an ImageError about `name`."""
    try:
        opened = open_picture()
        if opened.format in _REFUSED_FORMATS:
            raise UnidentifiedImageError
        opened.load()
        return to_rgb(opened)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not a picture that Pillow can read; convert it to JPEG or PNG") from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name}: more than {_MAX_PIXELS // 1_000_000} million pixels, which looks like a "
            "decompression bomb; scale it down first"
        ) from None
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
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


def to_rgb(picture: Image.Image) -> Image.Image:
    """A Pillow image of any mode as 8-bit RGB, upright.

    Raises:
        ImageError: a pixel type that has no agreed range (32-bit integers beyond 16 bits, floats).
    """
    if 0 in picture.size:
        raise ImageError(f"{picture.width}x{picture.height}: it has no pixels")
    with contextlib.suppress(Exception):  # a damaged EXIF block must not cost the picture
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode == "F":
        raise ImageError("32-bit float pixels have no agreed range; save it with 8 bits a channel")
    if picture.mode.startswith("I"):
        return _from_deep_grey(np.asarray(picture))
    if picture.mode.endswith(("A", "a")) or "transparency" in picture.info:
        if picture.mode == "La":
            picture = picture.convert("LA")
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture)
    return picture.convert("RGB")


def _from_deep_grey(grey: NDArray[Any]) -> Image.Image:
    """16-bit grey keeps its high byte, as Pillow does itself for 16-bit colour."""
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise ImageError("more than 16 bits a pixel; save it with 8 bits a channel")
    return Image.fromarray((grey.astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")


def to_pixels(picture: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resizes and crops an RGB picture as open_clip's transform does.

    Args:
        picture: RGB, any size.
        preprocessing: of the encoder.

    Returns:
        uint8 (H, W, 3) of the model's size, not yet scaled or normalised: that is in the graph.
    """
    height, width = resized_size(picture, preprocessing)
    if (height, width) != (picture.height, picture.width):
        picture = picture.resize((width, height), _RESAMPLING[resampling(preprocessing)])
    return np.asarray(_crop_or_pad(picture, preprocessing))


def read_pixels(
    picture: Picture, preprocessing: Preprocessing, *, resize: bool = True, fast_decode: bool = False
) -> NDArray[np.uint8]:
    """`decode` and `to_pixels` in one; an ImageError names the file.

    Args:
        picture: see `decode`.
        preprocessing: of the encoder.
        resize: False leaves resizing and cropping to the graph, and only refuses what it could not do.
        fast_decode: large JPEG files at reduced scale, which changes pixels a little.
    """
    # Twice the model's size leaves the last resizing, which is the encoder's own, something to average. As
    # the shorter side is meant, that holds however the picture is turned, squashed or cropped afterwards.
    shorter_side = 2 * max(preprocessing.size) if fast_decode else None
    try:
        decoded = decode(picture, shorter_side=shorter_side)
        if resize:
            return to_pixels(decoded, preprocessing)
        resized_size(decoded, preprocessing)
        return np.asarray(decoded)
    except ImageError as error:
        if isinstance(picture, str | Path) and str(picture) not in str(error):
            raise ImageError(f"{picture}: {error}") from None
        raise


def resized_size(picture: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    """(H, W) of a picture before cropping.

    Raises:
        ImageError: so long and thin a picture that resizing would fill the memory.
    """
    height, width = _resized_size(picture.height, picture.width, preprocessing)
    if height * width > _MAX_PIXELS:
        raise ImageError(
            f"a picture of {picture.width}x{picture.height} is too long and thin to be resized to "
            f"{width}x{height}; crop it first"
        )
    return height, width


def _resized_size(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """The roundings are those of torchvision and open_clip."""
    target_height, target_width = preprocessing.size
    if preprocessing.resize_mode == "squash":
        return target_height, target_width
    if preprocessing.resize_mode == "shortest" and target_height == target_width:
        short, long = sorted((height, width))
        scaled = int(target_height * long / short)
        return (target_height, scaled) if height <= width else (scaled, target_height)
    larger = preprocessing.resize_mode == "longest"
    ratio = (max if larger else min)(height / target_height, width / target_width)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def resampling(preprocessing: Preprocessing) -> Literal["bicubic", "bilinear"]:
    """open_clip resizes the shortest edge to a size that is not square bicubically, whatever it is told."""
    if preprocessing.resize_mode == "shortest" and preprocessing.size[0] != preprocessing.size[1]:
        return "bicubic"
    return preprocessing.interpolation


def _crop_or_pad(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    height, width = preprocessing.size
    if (picture.height, picture.width) == (height, width):
        return picture
    missing_height, missing_width = max(0, height - picture.height), max(0, width - picture.width)
    if missing_height or missing_width:
        padded_size = (picture.width + missing_width, picture.height + missing_height)
        padded = Image.new("RGB", padded_size, (preprocessing.fill_color,) * 3)
        padded.paste(picture, (missing_width // 2, missing_height // 2))
        picture = padded
    top = round((picture.height - height) / 2)
    left = round((picture.width - width) / 2)
    return picture.crop((left, top, left + width, top + height))
