"""What is measured: a model file, or the full tower it is held against, run stage by stage.

B pictures of a run, C classes, E width of a tower's embeddings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tgems_edge.bench.tower_card import read_tower_card
from tgems_edge.maths.rates import top_k
from tgems_edge.model_file.card import Card, Colour, noise_pixels
from tgems_edge.model_file.gate import INPUT, check_structure
from tgems_edge.runtime.classifier import Classifier
from tgems_edge.runtime.images import decode, to_pixels
from tgems_edge.runtime.session import open_session

__all__ = ["STAGES", "Contender", "Run", "open_contender", "run", "same_labels"]

STAGES = ("decode", "resize", "inference", "postprocess")


class Contender(ABC):
    """An opened file, and the three stages behind decoding."""

    colour: Colour | None = None  # what is done about colour profiles

    @abstractmethod
    def resize(self, picture: Image.Image) -> NDArray[Any]:
        """What the graph takes of an RGB picture."""

    @abstractmethod
    def infer(self, inputs: Sequence[NDArray[Any]]) -> Any:
        """The graph itself, on B pictures."""

    @abstractmethod
    def answer(self, outputs: Any) -> list[int]:
        """Puts the classes in order, and says which block answered each of the B pictures, if it differs."""


class ModelFile(Contender):
    """A file of ours: what `Classifier.classify_batch` does, in its stages."""

    def __init__(self, classifier: Classifier):
        """An opened file."""
        self.classifier = classifier
        self.colour = classifier.card.preprocessing.colour

    def resize(self, picture: Image.Image) -> NDArray[np.uint8]:
        """uint8 (H, W, 3); a graph that resizes takes the picture as it is."""
        card = self.classifier.card
        return to_pixels(picture, card.preprocessing) if card.input == INPUT else np.asarray(picture)

    def infer(self, inputs: Sequence[NDArray[Any]]) -> Any:
        """What the file says of them, checked."""
        return self.classifier.run(inputs)

    def answer(self, outputs: Any) -> list[int]:
        """Classes in the order of their rates."""
        _ = outputs.order
        layers: list[int] = outputs.exit_layers.tolist()
        return layers


class FullTower(Contender):
    """A plain CLIP image tower, with what makes it a classifier: cosines with the texts of the classes."""

    def __init__(self, path: Path, classes: int, threads: int, provider: str | None):
        """Texts are drawn: what they say takes no time."""
        checked = check_structure(path, data_beside=True)
        self._session = open_session(checked, threads=threads, provider=provider)
        self._preprocessing = read_tower_card(self._session, str(path)).preprocessing
        self.colour = self._preprocessing.colour
        mean, std = (np.array(v, np.float32) for v in (self._preprocessing.mean, self._preprocessing.std))
        self._scale, self._offset = 1 / (255 * std), mean / std
        self._input = self._session.get_inputs()[0].name
        width = self._session.get_outputs()[0].shape[-1]
        self._texts = np.random.default_rng(0).standard_normal((width, classes), np.float32)  # (E, C)

    def resize(self, picture: Image.Image) -> NDArray[np.float32]:
        """float32 (3, H, W), scaled and normalised, which is outside of such a graph."""
        pixels = to_pixels(picture, self._preprocessing) * self._scale - self._offset
        return pixels.transpose(2, 0, 1)

    def infer(self, inputs: Sequence[NDArray[Any]]) -> Any:
        """Embeddings (B, E)."""
        return self._session.run(None, {self._input: np.stack(inputs)})[0]

    def answer(self, outputs: Any) -> list[int]:
        """Classes in the order of their cosines."""
        cosines = outputs / np.linalg.norm(outputs, axis=1, keepdims=True) @ self._texts
        top_k(-cosines, cosines.shape[1])
        return []


def open_contender(path: Path, *, tower_classes: int | None, threads: int, provider: str | None) -> Contender:
    """Opens a file.

    Args:
        path: of a model file, or of a full tower.
        tower_classes: how many classes a full tower is to tell apart; None for a model file.
        threads: of one run.
        provider: onnxruntime's execution provider; default CPU.

    Raises:
        ModelFileError: it cannot be opened, or is not what it is said to be.
        InputError: a provider or a number of threads that cannot be used.
        MissingDependency: no onnxruntime is installed.
    """
    if tower_classes is not None:
        return FullTower(path, tower_classes, threads, provider)
    return ModelFile(Classifier(path, threads=threads, provider=provider))


@dataclass(frozen=True)
class Run:
    """B pictures, from the bytes of their files to their labels."""

    seconds: tuple[float, ...]  # of each of STAGES
    exit_layers: list[int]  # (B,) the block that answered each; empty for a full tower


def run(contender: Contender, files: Sequence[bytes]) -> Run:
    """Labels the pictures in B files."""
    started = perf_counter()
    decoded = [decode(data, colour=contender.colour) for data in files]
    decoded_at = perf_counter()
    inputs = [contender.resize(picture) for picture in decoded]
    resized_at = perf_counter()
    outputs = contender.infer(inputs)
    inferred_at = perf_counter()
    exit_layers = contender.answer(outputs)
    answered_at = perf_counter()
    times = (started, decoded_at, resized_at, inferred_at, answered_at)
    seconds = (after - before for before, after in pairwise(times))
    return Run(tuple(seconds), exit_layers)


def same_labels(classifier: Classifier) -> bool:
    """Whether the noise in its card gets the labels here that it got where the file was made."""
    card: Card = classifier.card
    noise = [sample for sample in card.samples if sample.kind == "noise"]
    found = (classifier.run(noise_pixels(s.content, card.preprocessing.size)[None]) for s in noise)
    return all(
        answers.labels[0] == np.argmin(sample.rates) for answers, sample in zip(found, noise, strict=True)
    )
