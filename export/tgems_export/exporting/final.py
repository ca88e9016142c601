"""The graph as it will be written: what it says of pictures, what that is worth, and samples of it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tgems_edge.errors import AccuracyError, DataError, ImageError
from tgems_edge.maths.metrics import calibration_error, top_accuracy
from tgems_edge.maths.sets import hold
from tgems_edge.model_file.card import Accuracy, Card, Gate, Preprocessing, Sample, noise_pixels
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.answers import Answers
from tgems_edge.runtime.images import Picture, decode, read_pixels
from tgems_export.exporting.picture_sets import Labelled
from tgems_export.exporting.quantization.search import Limits
from tgems_export.pictures import draw, to_jpeg
from tgems_export.threads import in_order

__all__ = [
    "FinalGraph",
    "answer",
    "make_samples",
    "measure",
    "pass_gate",
]

NOISE_SAMPLES = ("tgems-edge 1", "tgems-edge 2")
JPEG_SAMPLES = ((1, 57, 38), (2, 40, 71))  # seed, width, height


@dataclass(frozen=True)
class FinalGraph:
    """The graph as it will be written, and what it takes."""

    session: onnxruntime.InferenceSession
    input: Literal["pixels", "image"]
    preprocessing: Preprocessing

    def read(self, picture: Picture) -> NDArray[np.uint8]:
        """What goes into the graph of a picture, uint8 (H, W, 3)."""
        return read_pixels(picture, self.preprocessing, resize=self.input == INPUT)

    def rates(self, taken: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class-rates (C,) of what `read` gave."""
        return self.run(taken)[0]

    def run(self, taken: NDArray[np.uint8]) -> tuple[NDArray[np.float32], int]:
        """Class-rates (C,) of what `read` gave, and the block that answered."""
        fed = {self.input: taken[None] if self.input == INPUT else taken}
        rates, layers = self.session.run(["rates", "exit_layer"], fed)
        return rates[0], int(layers[0])

    def answer(self, picture: Picture) -> tuple[NDArray[np.float32], int] | ImageError:
        """What `run` gives of a picture, or why it cannot be read."""
        try:
            return self.run(self.read(picture))
        except ImageError as error:
            return error


def answer(
    graph: FinalGraph, labelled: Labelled, card: Card, what: str, reporter: Reporter
) -> tuple[Answers, Labelled]:
    """What the graph itself says of those pictures that can be read, and which these are.

    Args:
        graph: the graph.
        labelled: the pictures.
        card: what makes probabilities of its rates.
        what: is done, for the progress bar.
        reporter: where progress goes.

    Raises:
        DataError: none can.
    """
    rates, layers, readable = [], [], []
    with reporter.task(what, len(labelled.members), unit="pictures") as task:
        for position, found in enumerate(in_order(graph.answer, labelled.paths)):
            task.advance(1)
            if isinstance(found, ImageError):
                reporter.leave_out(found)
                continue
            rates.append(found[0])
            layers.append(found[1])
            readable.append(position)
    if not rates:
        raise DataError(f"{labelled.folder.root}: none of its pictures can be read")
    answers = Answers.from_rates(np.stack(rates), np.array(layers), card)
    return answers, labelled.only(np.array(readable))


def measure(answers: Answers, labelled: Labelled) -> Accuracy:
    """What a calibrated file is worth on labelled pictures that did not calibrate it."""
    labels = labelled.labels
    sets = {f"{coverage:g}": answers.sets(coverage) for coverage in answers.card.coverages("threshold")}
    return Accuracy(
        top1=top_accuracy(answers.rates, labels),
        images=len(labels),
        data_sha256=labelled.folder.sha256,
        calibration_error=calibration_error(answers.probabilities, labels),
        coverage={coverage: float(hold(members, labels).mean()) for coverage, members in sets.items()},
        set_size={coverage: float(members.sum(1).mean()) for coverage, members in sets.items()},
    )


def pass_gate(
    measured: Answers, labelled: Labelled, exact: FinalGraph, limits: Limits, reporter: Reporter
) -> Gate:
    """How an INT8 file compares with its graph in fp32 on pictures that made neither.

    Args:
        measured: what the file says of them.
        labelled: the pictures; all of them can be read.
        exact: the same file in fp32.
        limits: what INT8 may cost.
        reporter: where progress goes.

    Raises:
        AccuracyError: it costs more.
    """
    reference, _ = answer(exact, labelled, measured.card, "measuring it in fp32", reporter)
    before, after = reference.labels, measured.labels
    right, still = before == labelled.labels, after == labelled.labels
    # From counts: a difference of shares is a little off, and limits are round numbers.
    count = len(labelled.labels)
    drop = 100 * (int(right.sum()) - int(still.sum())) / count
    flips = 100 * int((before != after).sum()) / count
    if drop > limits.accuracy_drop or flips > limits.label_flips:
        raise AccuracyError(
            f"INT8 costs {drop:.2f} points of accuracy and changes {flips:.2f}% of the labels on {count} "
            f"pictures (--max-accuracy-drop {limits.accuracy_drop:g}, --max-label-flips "
            f"{limits.label_flips:g}); nothing was written: give more pictures to calibrate on, other exits, "
            "higher limits or --precision fp32"
        )
    return Gate(count, labelled.folder.sha256, drop, flips)


def make_samples(graph: FinalGraph) -> tuple[Sample, ...]:
    """Inputs that any machine can make again, with the rates of this one."""
    samples = []
    for text in NOISE_SAMPLES:
        pixels = noise_pixels(text, graph.preprocessing.size)
        samples.append(_sample(graph, "noise", text, pixels, pixels))
    for seed, width, height in JPEG_SAMPLES:
        data = to_jpeg(draw(seed, width, height))
        content = base64.b64encode(data).decode()
        samples.append(_sample(graph, "jpeg", content, np.asarray(decode(data)), graph.read(data)))
    return tuple(samples)


def _sample(
    graph: FinalGraph,
    kind: Literal["noise", "jpeg"],
    content: str,
    decoded: NDArray[np.uint8],
    taken: NDArray[np.uint8],
) -> Sample:
    return Sample(
        kind=kind,
        content=content,
        decoded_sha256=hashlib.sha256(decoded.tobytes()).hexdigest(),
        pixels_sha256=hashlib.sha256(taken.tobytes()).hexdigest(),
        rates=tuple(float(rate) for rate in graph.rates(taken)),
    )
