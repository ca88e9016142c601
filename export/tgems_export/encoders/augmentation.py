"""Random parts of pictures: what a training sees beside the pictures themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

__all__ = ["random_part"]

AREA = (0.4, 1.0)  # of the picture
ASPECT = (3 / 4, 4 / 3)  # of the part's sides, beside those of the picture


def random_part(picture: Image.Image, seed: Sequence[int]) -> Image.Image:
    """Return a random part of a picture, mirrored half of the times; equal seeds give equal parts."""
    rng = np.random.default_rng(seed)
    area = rng.uniform(*AREA)
    stretch = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])) / 2)
    width = max(1, round(picture.width * min(1.0, math.sqrt(area) * stretch)))
    height = max(1, round(picture.height * min(1.0, math.sqrt(area) / stretch)))
    left = int(rng.integers(picture.width - width + 1))
    top = int(rng.integers(picture.height - height + 1))
    part = picture.crop((left, top, left + width, top + height))
    return ImageOps.mirror(part) if rng.random() < 0.5 else part
