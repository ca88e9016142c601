"""The preprocessing that an encoder expects; `tgems_edge.runtime.images` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Colour", "Preprocessing", "resampling"]

Colour = Literal["srgb"]


@dataclass(frozen=True)
class Preprocessing:
    """The pictures that an encoder expects, as open_clip's `preprocess_cfg` states it, and their colours."""

    size: tuple[int, int]  # (H, W) of the model's input
    resize_mode: Literal["shortest", "longest", "squash"]
    interpolation: Literal["bicubic", "bilinear"]
    fill_color: int  # grey level around a picture that `longest` leaves too small
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # Colour profiles are converted to sRGB, or else ignored, as open_clip does and as every file from before
    # there was this field.
    colour: Colour | None = None


def resampling(preprocessing: Preprocessing) -> Literal["bicubic", "bilinear"]:
    """open_clip resizes the shortest edge to a size that is not square bicubically, whatever it is told."""
    if preprocessing.resize_mode == "shortest" and preprocessing.size[0] != preprocessing.size[1]:
        return "bicubic"
    return preprocessing.interpolation
