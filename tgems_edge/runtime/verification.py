"""Whether this machine gets out of a model file what was got out of it where it was made.

The card holds samples: inputs that any machine can make again, with the digests of their pixels after
decoding and after resizing, and their rates. So it can be said at which stage a machine goes its own way:
decoding (Pillow and its libjpeg), resizing (Pillow) or inference (onnxruntime and the processor).
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tgems_edge.errors import ImageError, ModelFileError, ParityError
from tgems_edge.maths.rates import top_k
from tgems_edge.model_file.card import Card, Sample, find_card, noise_pixels
from tgems_edge.model_file.gate import check_structure
from tgems_edge.model_file.seal import is_sealed
from tgems_edge.runtime.classifier import Classifier
from tgems_edge.runtime.images import decode

__all__ = ["TOLERANCE", "SampleCheck", "Stage", "check_samples", "check_unchanged", "relative_difference"]

Stage = Literal["decoding", "resizing", "inference"]

# How far a class-rate may be from that of the machine that exported the file, of max(1, |R|). Another machine
# adds in another order: onnxruntime 1.17 is 2e-6 from 1.32 in fp32 and 5e-4 in fp16, but 5e-3 in INT8, where
# a value between two steps falls to the other one. GPUs may multiply fp32 in 11 bits, as fp16 does. From fp32
# itself, INT8 is 8e-3 to 2e-2 away (the built-in file): what is beyond this has lost as much again.
TOLERANCE = 1e-2


@dataclass(frozen=True)
class SampleCheck:
    """The result of a sample here, beside what the card says of it."""

    kind: Literal["noise", "jpeg"]
    same_decoded: bool  # the same RGB pixels
    same_pixels: bool | None  # the same after resizing; None where those before it differ already
    rate_difference: float  # the largest
    within_tolerance: bool  # all rates are
    label: str
    expected_label: str
    exit_layer: int

    @property
    def reproduced(self) -> bool:
        """Whether the answer is the same: label and rates."""
        return self.within_tolerance and self.label == self.expected_label

    @property
    def stage(self) -> Stage | None:
        """The first that differs, if any does."""
        if not self.same_decoded:
            return "decoding"
        if not self.same_pixels:
            return "resizing"
        return None if self.reproduced else "inference"


def check_unchanged(model: Path) -> None:
    """Holds a model file against its own digest; onnxruntime is not needed.

    Raises:
        ParityError: it is not byte for byte what was exported.
        ModelFileError: missing, cut short, without a card, or with what no model file has.
    """
    find_card(check_structure(model).header.metadata, str(model))
    if not is_sealed(model):
        raise ParityError(f"{model}: changed since it was exported (its digest does not hold); copy it again")


def check_samples(classifier: Classifier) -> list[SampleCheck]:
    """Recomputes the samples in the card of a loaded model, one at a time as they were made.

    Raises:
        ModelFileError: there are none, or they cannot be made again.
        ParityError: Pillow cannot decode a JPEG here.
    """
    if not classifier.card.samples:
        raise ModelFileError("its card has no samples to compare with; export the file again")
    return [_check(classifier, sample) for sample in classifier.card.samples]


def relative_difference(rates: NDArray[Any], expected: NDArray[Any]) -> NDArray[Any]:
    """|dR| / max(1, |R|) of rates that ought to be equal; not a number where one of them is none."""
    difference: NDArray[Any] = np.abs(rates - expected) / np.maximum(1, np.abs(expected))
    return difference


def _check(classifier: Classifier, sample: Sample) -> SampleCheck:
    card = classifier.card
    decoded = _decoded(sample, card)
    taken = classifier.preprocess(decoded)
    answers = classifier.run([taken])
    rates = answers.rates[0]
    expected = np.array(sample.rates)
    same_decoded = _sha256(decoded) == sample.decoded_sha256
    return SampleCheck(
        kind=sample.kind,
        same_decoded=same_decoded,
        same_pixels=_sha256(taken) == sample.pixels_sha256 if same_decoded else None,
        rate_difference=float(np.abs(rates - expected).max()),
        within_tolerance=bool((relative_difference(rates, expected) <= TOLERANCE).all()),
        label=card.classes[int(answers.labels[0])],
        expected_label=card.classes[top_k(expected, 1)[0]],
        exit_layer=int(answers.exit_layers[0]),
    )


def _decoded(sample: Sample, card: Card) -> NDArray[np.uint8]:
    """The RGB pixels (H, W, 3) of a sample."""
    try:
        if sample.kind == "noise":
            return noise_pixels(sample.content, card.preprocessing.size)
        return np.asarray(decode(base64.b64decode(sample.content, validate=True)))
    except ImageError as error:
        raise ParityError(
            f"a JPEG of its card cannot be decoded here ({error}); take the Pillow that pip installs"
        ) from None
    except ValueError:  # no base64, or a seed that is no text
        raise ModelFileError("a sample in its card cannot be made again; export the file again") from None


def _sha256(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
