"""Candidates of a benchmark: an opened model file or full image tower, run stage by stage.

Shapes: B pictures in a run, C classes, E width of a tower's embeddings.
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

__all__ = ["STAGES", "Candidate", "Run", "open_candidate", "run", "same_labels"]

STAGES = ("decode", "resize", "inference", "postprocess")


class Candidate(ABC):
    """An opened file, with the three stages that follow decoding."""

    colour: Colour | None = None  # how colour profiles are converted; None ignores them

    @abstractmethod
    def resize(self, picture: Image.Image) -> NDArray[Any]:
        """Return an RGB picture as the graph takes it."""

    @abstractmethod
    def infer(self, inputs: Sequence[NDArray[Any]]) -> Any:
        """Run the graph on B pictures."""

    @abstractmethod
    def answer(self, outputs: Any) -> list[int]:
        """Sort the classes; return the exit layer of each of the B pictures, or [] without exits."""


class ModelFile(Candidate):
    """A model file: the steps of `Classifier.classify_batch`, one stage at a time."""

    def __init__(self, classifier: Classifier):
        """Take an opened file."""
        self.classifier = classifier
        self.colour = classifier.card.preprocessing.colour

    def resize(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return uint8 pixels (H, W, 3); a graph that resizes takes the picture as it is."""
        card = self.classifier.card
        return to_pixels(picture, card.preprocessing) if card.input == INPUT else np.asarray(picture)

    def infer(self, inputs: Sequence[NDArray[Any]]) -> Any:
        """Return what the file says of them, checked."""
        return self.classifier.run(inputs)

    def answer(self, outputs: Any) -> list[int]:
        """Sort the classes by rate; return the exit layers."""
        _ = outputs.order
        layers: list[int] = outputs.exit_layers.tolist()
        return layers


class FullTower(Candidate):
    """A full CLIP image tower that classifies by the cosine with the text embedding of each class."""

    def __init__(self, path: Path, classes: int, threads: int, provider: str | None):
        """Open the file and draw random text embeddings; their values do not affect latency."""
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
        """Return float32 (3, H, W), scaled and normalized: the graph of a tower does neither."""
        pixels = to_pixels(picture, self._preprocessing) * self._scale - self._offset
        return pixels.transpose(2, 0, 1)

    def infer(self, inputs: Sequence[NDArray[Any]]) -> Any:
        """Return embeddings (B, E)."""
        return self._session.run(None, {self._input: np.stack(inputs)})[0]

    def answer(self, outputs: Any) -> list[int]:
        """Sort the classes by cosine; return []."""
        cosines = outputs / np.linalg.norm(outputs, axis=1, keepdims=True) @ self._texts
        top_k(-cosines, cosines.shape[1])
        return []


def open_candidate(path: Path, *, tower_classes: int | None, threads: int, provider: str | None) -> Candidate:
    """Open a model file or a full tower.

    Args:
        path: the file.
        tower_classes: number of classes that a full tower tells apart; None for a model file.
        threads: threads of one run.
        provider: onnxruntime's execution provider; default CPU.

    Raises:
        ModelFileError: the file cannot be opened, or is of the other kind.
        InputError: the provider or the number of threads cannot be used.
        MissingDependency: onnxruntime is not installed.
    """
    if tower_classes is not None:
        return FullTower(path, tower_classes, threads, provider)
    return ModelFile(Classifier(path, threads=threads, provider=provider))


@dataclass(frozen=True)
class Run:
    """One run: B pictures, from the bytes of their files to their labels."""

    seconds: tuple[float, ...]  # one for each of STAGES
    exit_layers: list[int]  # (B,) the block that answered each picture; empty for a full tower


def run(candidate: Candidate, files: Sequence[bytes]) -> Run:
    """Label B pictures, given as the bytes of their files, and time each stage."""
    started = perf_counter()
    decoded = [decode(data, colour=candidate.colour) for data in files]
    decoded_at = perf_counter()
    inputs = [candidate.resize(picture) for picture in decoded]
    resized_at = perf_counter()
    outputs = candidate.infer(inputs)
    inferred_at = perf_counter()
    exit_layers = candidate.answer(outputs)
    answered_at = perf_counter()
    times = (started, decoded_at, resized_at, inferred_at, answered_at)
    seconds = (after - before for before, after in pairwise(times))
    return Run(tuple(seconds), exit_layers)


def same_labels(classifier: Classifier) -> bool:
    """Return whether the noise samples in the card get the labels that they got at export."""
    card: Card = classifier.card
    noise = [sample for sample in card.samples if sample.kind == "noise"]
    found = (classifier.run(noise_pixels(s.content, card.preprocessing.size)[None]) for s in noise)
    return all(
        answers.labels[0] == np.argmin(sample.rates) for answers, sample in zip(found, noise, strict=True)
    )
