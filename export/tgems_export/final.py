"""The graph as it will be written: what it says of pictures, what that is worth, and samples of it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tgems_edge.card import Accuracy, Sample, noise_pixels
from tgems_edge.errors import DataError, ImageError
from tgems_edge.images import Picture, Preprocessing, decode, read_pixels
from tgems_edge.metrics import calibration_error, top_accuracy
from tgems_edge.progress import Reporter
from tgems_edge.rates import posterior
from tgems_edge.session import INPUT
from tgems_edge.sets import hold, label_sets
from tgems_export.calibration import Calibration
from tgems_export.labelled import Labelled
from tgems_export.pictures import draw, to_jpeg

__all__ = ["FinalGraph", "answer", "make_samples", "measure"]

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
        return self.session.run(["rates"], {self.input: taken[None] if self.input == INPUT else taken})[0][0]


def answer(
    graph: FinalGraph, labelled: Labelled, what: str, reporter: Reporter
) -> tuple[NDArray[np.float32], Labelled]:
    """Rates (n, C) by the graph itself, and the n pictures that can be read.

    Raises:
        DataError: none can.
    """
    rates, readable = [], []
    with reporter.task(what, len(labelled.members), unit="pictures") as task:
        for position, path in enumerate(labelled.paths):
            task.advance(1)
            try:
                rates.append(graph.rates(graph.read(path)))
                readable.append(position)
            except ImageError as error:
                reporter.warn(f"left out: {error}")
    if not rates:
        raise DataError(f"{labelled.folder.root}: none of its pictures can be read")
    return np.stack(rates), labelled.only(np.array(readable))


def measure(rates: NDArray[np.float32], measured: Labelled, k: int, fitted: Calibration) -> Accuracy:
    """What the file is worth on pictures that did not calibrate it.

    Args:
        rates: (n, C), as `answer` gives them.
        measured: the n pictures.
        k: K, the width of the Jumper's output.
        fitted: what the file was calibrated with.
    """
    labels = measured.labels
    probabilities = posterior(rates.astype(np.float64), k, fitted.temperature)
    sets = {
        coverage: label_sets(probabilities, bound, "threshold")
        for coverage, bound in fitted.conformal.items()
    }
    return Accuracy(
        top1=top_accuracy(rates, labels),
        images=len(labels),
        data_sha256=measured.folder.sha256,
        calibration_error=calibration_error(probabilities, labels),
        coverage={coverage: float(hold(members, labels).mean()) for coverage, members in sets.items()},
        set_size={coverage: float(members.sum(1).mean()) for coverage, members in sets.items()},
    )


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
