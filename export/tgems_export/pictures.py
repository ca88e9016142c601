"""Pictures drawn from a seed: photographs enough to compare two programs, and nobody's property."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["SHAPES", "draw", "draw_many", "to_jpeg"]

# (width, height) of all aspect ratios, smaller and larger than any model's input; primes round badly.
SHAPES = (
    (640, 480), (480, 640), (500, 500), (33, 31), (31, 33), (641, 97), (97, 641), (224, 224),
    (1024, 251), (17, 400), (400, 17), (227, 223), (32, 32), (8, 8), (300, 199), (513, 1021),
)  # fmt: skip


def draw(seed: int, width: int, height: int) -> Image.Image:
    """A picture with gradients, shapes, edges and grain: RGB, the same for the same seed."""
    rng = np.random.RandomState(seed)  # its stream is frozen for good, a Generator's is not
    corners = rng.randint(0, 256, (2, 2, 3)).astype(np.uint8)
    picture = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
    canvas = ImageDraw.Draw(picture)
    for _ in range(rng.randint(3, 12)):
        xs, ys = np.sort(rng.randint(0, width, 2)), np.sort(rng.randint(0, height, 2))
        box = [(int(xs[0]), int(ys[0])), (int(xs[1]), int(ys[1]))]
        colour = tuple(int(c) for c in rng.randint(0, 256, 3))
        figure = (canvas.ellipse, canvas.rectangle, canvas.line)[rng.randint(3)]
        figure(box, fill=colour)
    grain = rng.randint(-12, 13, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))


def draw_many(count: int) -> Iterator[Image.Image]:
    """`count` different pictures that go through all shapes."""
    return (draw(seed, *SHAPES[seed % len(SHAPES)]) for seed in range(count))


def to_jpeg(picture: Image.Image) -> bytes:
    """A picture as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
