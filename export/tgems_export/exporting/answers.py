"""Answers of a file's graph to pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tgems_edge.model_file.card import Card, Preprocessing
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.answers import Answers
from tgems_edge.runtime.images import Picture, read_pixels
from tgems_export.exporting.pixels import ReadSet
from tgems_export.threads import in_order, open_on_one_thread

__all__ = ["FileGraph", "answer"]


@dataclass(frozen=True)
class FileGraph:
    """A graph with the outputs of a file, and what it takes."""

    session: onnxruntime.InferenceSession
    input: Literal["pixels", "image"]
    preprocessing: Preprocessing

    @classmethod
    def open(
        cls, model: onnx.ModelProto, input: Literal["pixels", "image"], preprocessing: Preprocessing
    ) -> FileGraph:
        """Opens a graph with the outputs of a file."""
        return cls(open_on_one_thread(model.SerializeToString()), input, preprocessing)

    def read(self, picture: Picture) -> NDArray[np.uint8]:
        """The graph's input for a picture, uint8 (H, W, 3)."""
        return read_pixels(picture, self.preprocessing, resize=self.input == INPUT)

    def rates(self, taken: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class-rates (C,) of what `read` gave."""
        return self.run(taken)[0]

    def run(self, taken: NDArray[np.uint8]) -> tuple[NDArray[np.float32], int]:
        """Class-rates (C,) of what `read` gave, and the block that answered."""
        fed = {self.input: taken[None] if self.input == INPUT else taken}
        rates, layers = self.session.run(["rates", "exit_layer"], fed)
        return rates[0], int(layers[0])


def answer(graph: FileGraph, pictures: ReadSet, card: Card, what: str, reporter: Reporter) -> Answers:
    """Answer pictures with a graph that takes pixels, one at a time, as a device does.

    Args:
        graph: the graph.
        pictures: as it takes them.
        card: what makes probabilities of its rates.
        what: is done, for the progress bar.
        reporter: where progress goes.
    """
    rates, layers = [], []
    with reporter.task(what, len(pictures.pixels), unit="pictures") as task:
        for own_rates, layer in in_order(graph.run, pictures.pixels):
            rates.append(own_rates)
            layers.append(layer)
            task.advance(1)
    return Answers.from_rates(np.stack(rates), np.array(layers), card)
