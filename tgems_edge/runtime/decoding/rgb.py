"""Convert the pixels of a file, whatever their type, to 8-bit RGB."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tgems_edge.errors import ImageError

if TYPE_CHECKING:
    from tgems_edge.runtime.decoding.colour import Converter

__all__ = ["TRANSPOSE", "describe_depth", "to_rgb"]

TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_STRIP = 2**20  # pixels that are converted at a time: what lies between is as small
_DEEPEST_CAMERA = 14  # bits; more of them unused are an accident of how a picture was stored


def to_rgb(
    picture: Image.Image, note: Callable[[str], None], *, srgb: bool = False, deep: bool = False
) -> Image.Image:
    """A loaded picture of any mode as 8-bit RGB.

    Alpha is composited on black, 16 bits keep their high byte.

    Args:
        picture: as Pillow decoded it.
        note: called with what is worth a warning.
        srgb: converts colours with a profile to sRGB; otherwise profiles are ignored.
        deep: the file has 16 bits a channel, of which Pillow left 8.

    Raises:
        ImageError: a pixel type that has no agreed range (32-bit integers beyond 16 bits, floats).
    """
    if picture.mode == "F":
        raise ImageError("32-bit float pixels have no agreed range; save it with 8 bits a channel")
    is_grey = picture.mode.startswith("I")
    if is_grey:
        describe_depth(_deep_maximum(picture), 0, note)
    elif deep:
        describe_depth(max(high for _, high in _extrema(picture)), 8, note)
    convert = _find_converter(picture, note) if srgb and picture.info.get("icc_profile") else None
    if picture.mode == "RGB" and "transparency" not in picture.info and convert is None:
        return picture
    step = max(1, _STRIP // picture.width)
    if picture.height <= step:
        return _convert(picture, convert)
    result = Image.new("RGB", picture.size)
    for top in range(0, picture.height, step):
        strip = picture.crop((0, top, picture.width, min(top + step, picture.height)))
        result.paste(_convert(strip, convert), (0, top))
    return result


def _convert(picture: Image.Image, convert: Converter | None) -> Image.Image:
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if not _has_alpha(picture):
        return convert(_plain(picture)) if convert else picture.convert("RGB")
    if picture.mode == "La":
        picture = picture.convert("LA")
    shown = picture.convert("RGBA")
    if convert:
        alpha = shown.getchannel("A")
        shown = convert(_plain(picture))
        shown.putalpha(alpha)
    black = Image.new("RGBA", shown.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, shown).convert("RGB")


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode.endswith(("A", "a")) or "transparency" in picture.info


def _plain(picture: Image.Image) -> Image.Image:
    """Colours alone, in the mode that a profile describes."""
    mode = _described_mode(picture)
    return picture if picture.mode == mode else picture.convert("RGBA").convert(mode)


def _described_mode(picture: Image.Image) -> str:
    if picture.mode in ("L", "LA", "La") or picture.mode.startswith("I"):
        return "L"
    return "CMYK" if picture.mode == "CMYK" else "RGB"


def _find_converter(picture: Image.Image, note: Callable[[str], None]) -> Converter | None:
    if picture.mode == "1":
        return None
    try:
        from tgems_edge.runtime.decoding.colour import (  # most pictures need it not
            ProfileIgnored,
            find_converter,
        )
    except ImportError:
        note("its colour profile was ignored: this Pillow was built without LittleCMS")
        return None
    try:
        return find_converter(picture.info["icc_profile"], _described_mode(picture))
    except ProfileIgnored as error:
        note(f"its colour profile was ignored: {error}")
        return None


def describe_depth(highest: int, cut: int, note: Callable[[str], None]) -> None:
    """Notes that a 16-bit picture uses so few of its bits that it comes out nearly black.

    Args:
        highest: value of any pixel.
        cut: bits below it that the decoder dropped.
        note: called with the words.
    """
    used = highest.bit_length() + cut
    if cut < used <= _DEEPEST_CAMERA:
        note(
            f"uses only the lower {used} of 16 bits, so it is nearly black; multiply it by {2 ** (16 - used)}"
        )


def _deep_maximum(picture: Image.Image) -> int:
    grey: NDArray[Any] = np.asarray(picture)
    lowest, highest = int(grey.min()), int(grey.max())
    if lowest < 0 or highest > 0xFFFF:
        raise ImageError("more than 16 bits a pixel; save it with 8 bits a channel")
    return highest


def _extrema(picture: Image.Image) -> list[tuple[int, int]]:
    found: Any = picture.getextrema()
    channels = list(found) if isinstance(found[0], tuple) else [found]
    return channels[:-1] if picture.mode.endswith("A") else channels
