"""The graph against PyTorch, from the decoded picture to the label.

The reference shares nothing with the graph but the weights: open_clip's own transform, its own forward
pass, and the head as it was trained. Ours is the device's preprocessing and onnxruntime. So an error in
resizing, normalisation, rewiring or in the tables shows, whatever its cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tgems_edge.errors import ParityError
from tgems_edge.model_file.card import Parity
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import to_pixels
from tgems_edge.runtime.verification import relative_difference
from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.towers.base import Pool
from tgems_export.exporting.exits import Exit
from tgems_export.exporting.graph.exit_graph import Precision
from tgems_export.exporting.pixels import Compared
from tgems_export.heads.base import ExitHead
from tgems_export.pictures import draw_many
from tgems_export.threads import in_order, one_thread, open_on_one_thread

__all__ = ["TOLERANCE", "check_parity", "check_rates", "compare"]

# Of max(1, |R|): rounding, once through the tower. fp16 carries 11 bits to fp32's 24.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2}
BATCH = 7  # neither 1 nor the batch that was traced


def check_parity(
    exits: Sequence[Exit],
    model: onnx.ModelProto,
    precision: Precision,
    given: Compared | None,
    drawn: int,
    reporter: Reporter,
) -> Parity:
    """Compares every exit of a graph with PyTorch, on drawn pictures and on given ones; the worst counts.

    Args:
        exits: of the graph.
        model: what `to_onnx` made of them, in floating point.
        precision: of it.
        given: pictures, with what PyTorch says of them.
        drawn: how many pictures to draw.
        reporter: where progress goes.

    Raises:
        ParityError: a rate differs by more than rounding.
    """
    session = open_on_one_thread(model.SerializeToString())
    found = []
    for place, exit_ in enumerate(exits):
        what = (session, exit_.encoder, exit_.card.layer, exit_.card.pool, exit_.head, exit_.text)
        pictures = _counted(draw_many(drawn), drawn, reporter)
        parity = compare(*what, pictures, "drawn from a seed, all aspect ratios", precision)
        if given:
            ours = _run(session, exit_.card.layer, given.pixels)
            parity = _worse(
                parity, check_rates(ours, given.references[place], given.of, TOLERANCE[precision])
            )
        found.append(parity)
    return max(found, key=lambda parity: parity.largest_rate_difference)


def compare(
    session: onnxruntime.InferenceSession,
    encoder: Encoder,
    layer: int,
    pool: Pool,
    head: ExitHead,
    text: Tensor,
    pictures: Iterable[Image.Image],
    of: str,
    precision: Precision = "fp32",
) -> Parity:
    """Runs pictures through both, and measures by how much they differ.

    Args:
        session: of the exported graph, that has an exit at the layer.
        encoder: and `layer`, `pool`, `head`, `text`: what was exported.
        pictures: RGB, any size.
        of: what they are, in words.
        precision: of the graph; PyTorch always computes in fp32.

    Raises:
        ParityError: a rate differs by more than rounding.
    """

    def run(batch: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.stack([to_pixels(picture, encoder.preprocessing) for picture in batch])
        images = torch.stack([encoder.reference_transform(picture) for picture in batch])
        activation = encoder.exit_activation(images, layer, pool)
        return session.run([f"rates_{layer}"], {INPUT: pixels})[0], head.rates(activation, text).numpy()

    with one_thread():
        ours, reference = zip(*in_order(run, _batches(pictures)), strict=True)
    return check_rates(np.concatenate(ours), np.concatenate(reference), of, TOLERANCE[precision])


def _batches(pictures: Iterable[Image.Image]) -> Iterator[list[Image.Image]]:
    remaining = iter(pictures)
    while batch := list(islice(remaining, BATCH)):
        yield batch


def check_rates(
    ours: np.ndarray, reference: np.ndarray, of: str, tolerance: float = TOLERANCE["fp32"]
) -> Parity:
    """Compares rates, both (B, C): |dR| <= tolerance * max(1, |R|).

    Then labels are equal wherever the two best rates differ by more than 2 |dR|: to change places, each
    would have to move by half their distance. Near-ties that do flip lower `label_agreement`.

    Raises:
        ParityError: otherwise, and for anything that is not a number.
    """
    difference = np.abs(ours - reference)
    excess = relative_difference(ours, reference)
    if not np.all(excess <= tolerance):
        worst = int(np.nan_to_num(excess, nan=np.inf).max(1).argmax())
        raise ParityError(
            f"the graph differs from PyTorch by {difference[worst].max():.2g} in a class-rate on picture "
            f"{worst + 1} of {len(ours)} ({of}; allowed {tolerance:g}); nothing was written"
        )
    return Parity(
        pictures=len(ours),
        of=of,
        largest_rate_difference=float(difference.max()),
        label_agreement=float(np.mean(ours.argmin(1) == reference.argmin(1))),
    )


def _run(session: onnxruntime.InferenceSession, layer: int, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rates (n, C) of an exit, of pixels (n, H, W, 3)."""

    def run(start: int) -> NDArray[np.float32]:
        rates: NDArray[np.float32] = session.run([f"rates_{layer}"], {INPUT: pixels[start : start + BATCH]})[
            0
        ]
        return rates

    return np.concatenate(list(in_order(run, range(0, len(pixels), BATCH))))


def _counted(pictures: Iterable[Image.Image], total: int, reporter: Reporter) -> Iterator[Image.Image]:
    """The same pictures, with progress."""
    with reporter.task("comparing it with PyTorch", total, unit="pictures") as task:
        for picture in pictures:
            yield picture
            task.advance(1)


def _worse(one: Parity, other: Parity) -> Parity:
    """Both comparisons in one, with the larger difference."""
    pictures = one.pictures + other.pictures
    agreeing = one.label_agreement * one.pictures + other.label_agreement * other.pictures
    return Parity(
        pictures=pictures,
        of=f"{one.pictures} {one.of}; {other.pictures} {other.of}",
        largest_rate_difference=max(one.largest_rate_difference, other.largest_rate_difference),
        label_agreement=agreeing / pictures,
    )
