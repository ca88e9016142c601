"""Samples for `verify`: inputs that any machine can make again, with their rates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sample", "noise_pixels"]


@dataclass(frozen=True)
class Sample:
    """An input that any machine can make again, and the rates the exporting machine got for it.

    `noise` pixels come from a seed; `jpeg` holds a tiny drawn picture, so that decoding and resizing
    are covered too. A user's pictures never go into the file.
    """

    kind: Literal["noise", "jpeg"]
    content: str  # noise: the seed; jpeg: the file in base64
    decoded_sha256: str  # of the uint8 RGB array after decoding; for noise the same as the next
    pixels_sha256: str  # of the uint8 array that goes into the graph, resized or not
    rates: tuple[float, ...]  # (C,)


def noise_pixels(seed: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) noise from a seed, the same on every machine and in every language: SHAKE-256."""
    height, width = size
    data = hashlib.shake_256(seed.encode()).digest(height * width * 3)
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)
