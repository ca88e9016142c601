"""Colour profiles: from the colours a profile describes to sRGB, which is what CLIPs were trained on."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageCms

__all__ = ["ProfileIgnored", "find_converter"]

Converter = Callable[[Image.Image], Image.Image]

_MOST_BYTES = 16 * 2**20  # profiles of printing presses have 3 MB
_MOST_CACHED = 16
_SPACES = {"L": ("GRAY", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}  # that may describe pixels of a mode
_BLACK_POINT_COMPENSATION = 0x2000  # black stays black where a press cannot print it
_SAME = 2  # grey levels that profiles of sRGB itself differ in by rounding
_STEPS = 9  # of each channel, in the colours that tell whether a profile changes any

_cached: dict[tuple[bytes, str], Converter | str | None] = {}
_lock = Lock()


class ProfileIgnored(Exception):
    """A profile that cannot be used, and why; the picture can."""


def find_converter(profile: object, mode: str) -> Converter | None:
    """Return the conversion of pixels of a mode into sRGB; None if they are as good as sRGB.

    Raises:
        ProfileIgnored: the profile is too large, damaged, or describes other pixels.
    """
    if not isinstance(profile, bytes):
        raise ProfileIgnored("it is damaged")
    if len(profile) > _MOST_BYTES:
        raise ProfileIgnored(f"it has {len(profile) / 1e6:.0f} MB")
    key = hashlib.sha256(profile).digest(), mode
    with _lock:
        if key not in _cached:
            if len(_cached) >= _MOST_CACHED:
                _cached.clear()
            try:
                _cached[key] = _make_converter(profile, mode)
            except ProfileIgnored as error:
                _cached[key] = str(error)
        found = _cached[key]
    if isinstance(found, str):
        raise ProfileIgnored(found)
    return found


def _make_converter(profile: bytes, mode: str) -> Converter | None:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        if space not in _SPACES[mode]:
            raise ProfileIgnored(
                f"it describes {space}, and the picture is {'grey' if mode == 'L' else mode}"
            )
        taken = "RGB" if space == "RGB" else mode
        build: Any = ImageCms.buildTransform  # Pillow 10 knows no type for the last argument
        transform = build(
            opened,
            ImageCms.createProfile("sRGB"),
            taken,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            _BLACK_POINT_COMPENSATION,
        )
    except ProfileIgnored:
        raise
    except Exception:  # damaged profiles make the library raise almost anything
        raise ProfileIgnored("it is damaged") from None

    def convert(picture: Image.Image) -> Image.Image:
        converted: Any = ImageCms.applyTransform(picture.convert(taken), transform)
        return converted  # type: ignore[no-any-return]

    return None if mode != "CMYK" and _changes_nothing(convert, taken) else convert


def _changes_nothing(convert: Converter, mode: str) -> bool:
    if mode == "L":
        colours = np.arange(256, dtype=np.uint8)[None]
    else:
        steps = np.linspace(0, 255, _STEPS).astype(np.uint8)
        colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    before = Image.fromarray(colours)
    difference = np.asarray(before.convert("RGB"), int) - np.asarray(convert(before), int)
    return int(np.abs(difference).max()) <= _SAME
