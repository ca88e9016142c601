"""Turn RGB into the model's pixels, exactly as open_clip's own transform does.

`decoding` turns any picture into 8-bit RGB. From there on, `to_pixels` equals open_clip's transform for the
encoder bit by bit; resize mode, interpolation, crop and fill all come from the encoder, never from a default.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tgems_edge.errors import ImageError
from tgems_edge.model_file.card.preprocessing import Preprocessing, resampling
from tgems_edge.runtime.decoding import Picture, decode, decoded
from tgems_edge.runtime.decoding.contents import source_name
from tgems_edge.runtime.decoding.limits import find_limits

__all__ = [
    "Picture",
    "decode",
    "read_pixels",
    "to_pixels",
]

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def to_pixels(
    picture: Image.Image, preprocessing: Preprocessing, *, max_pixels: int | None = None
) -> NDArray[np.uint8]:
    """Resizes and crops an RGB picture as open_clip's transform does.

    Args:
        picture: RGB, any size.
        preprocessing: of the encoder.
        max_pixels: see `decode`; of the picture while it is resized.

    Returns:
        uint8 (H, W, 3) of the model's size, not yet scaled or normalised: that is in the graph.
    """
    height, width = resized_size(picture, preprocessing, max_pixels=max_pixels)
    if (height, width) != (picture.height, picture.width):
        picture = picture.resize((width, height), _RESAMPLING[resampling(preprocessing)])
    return np.asarray(_crop_or_pad(picture, preprocessing))


def read_pixels(
    picture: Picture,
    preprocessing: Preprocessing,
    *,
    resize: bool = True,
    fast_decode: bool = False,
    max_pixels: int | None = None,
) -> NDArray[np.uint8]:
    """`decode` and `to_pixels` in one; an ImageError names the file.

    However many threads call this, what they decode meanwhile has no more pixels than one picture may have.

    Args:
        picture: see `decode`.
        preprocessing: of the encoder.
        resize: False leaves resizing and cropping to the graph, and only refuses what it could not do.
        fast_decode: large JPEG files at reduced scale, which changes pixels a little.
        max_pixels: see `decode`.
    """
    # Twice the model's size leaves the last resizing, which is the encoder's own, something to average. As
    # the shorter side is meant, that holds however the picture is turned, squashed or cropped afterwards.
    shorter_side = 2 * max(preprocessing.size) if fast_decode else None
    with decoded(
        picture, shorter_side=shorter_side, colour=preprocessing.colour, max_pixels=max_pixels
    ) as rgb:
        try:
            if resize:
                return to_pixels(rgb, preprocessing, max_pixels=max_pixels)
            resized_size(rgb, preprocessing, max_pixels=max_pixels)
            return np.asarray(rgb)
        except ImageError as error:
            raise ImageError(f"{source_name(picture)}: {error}") from None


def resized_size(
    picture: Image.Image, preprocessing: Preprocessing, *, max_pixels: int | None = None
) -> tuple[int, int]:
    """(H, W) of a picture before cropping.

    Raises:
        ImageError: so long and thin a picture that resizing would fill the memory.
    """
    height, width = _resized_size(picture.height, picture.width, preprocessing)
    if height * width > find_limits(max_pixels).pixels:
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
