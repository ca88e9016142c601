"""The Python API of the device: `load` a file, `classify` pictures, read the `Result`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgems_edge.card import Card
from tgems_edge.errors import ImageError, ModelFileError
from tgems_edge.images import Picture, read_pixels
from tgems_edge.rates import top_k
from tgems_edge.session import IMAGE, INPUT, open_session, read_card
from tgems_edge.sets import DEFAULT_COVERAGE, SetMethod, label_sets

__all__ = ["Classifier", "Result", "Speed", "built_in_model", "default_model", "load"]


@dataclass(frozen=True)
class Speed:
    """Milliseconds per picture; in a batch, the batch's time divided by its pictures."""

    preprocess: float
    inference: float
    postprocess: float


@dataclass(frozen=True)
class Result:
    """What a model says about one picture."""

    card: Card
    rates: NDArray[np.float32]  # (C,) class-rates, smaller is better
    probabilities: NDArray[np.float32]  # (C,) posterior; calibrated only if `calibrated`
    order: NDArray[np.int64]  # (C,) class indices, best first
    exit_layer: int  # the block that answered
    speed: Speed

    @property
    def names(self) -> tuple[str, ...]:
        """The C class names, in the order of the rates."""
        return self.card.classes

    @property
    def calibrated(self) -> bool:
        """Whether the file was exported with calibration."""
        return self.card.temperature is not None

    @property
    def top1(self) -> int:
        """Index of the best class (eq. 2)."""
        return int(self.order[0])

    @property
    def label(self) -> str:
        """Name of the best class."""
        return self.names[self.top1]

    @property
    def top1conf(self) -> float:
        """Probability of the best class."""
        return float(self.probabilities[self.top1])

    @property
    def top5(self) -> list[int]:
        """Indices of the five best classes, best first."""
        return [int(index) for index in self.order[:5]]

    def top(self, count: int) -> list[dict[str, Any]]:
        """The best `count` classes, best first, as `classify --json` prints them."""
        return [
            {
                "label": self.names[index],
                "index": int(index),
                "rate": float(self.rates[index]),
                "probability": float(self.probabilities[index]) if self.calibrated else None,
            }
            for index in self.order[:count]
        ]

    def label_set(self, coverage: float = DEFAULT_COVERAGE, method: SetMethod = "threshold") -> list[str]:
        """Names that hold the true class with a probability of at least `coverage`, best first.

        Args:
            coverage: 0.8, 0.9, 0.95 or 0.99.
            method: `threshold` has the smallest sets on average, `adaptive` follows the difficulty.

        Raises:
            InputError: the file was exported without calibration, or not for this coverage.
        """
        bound = self.card.set_bound(coverage, method)
        members = label_sets(self.probabilities[None], bound, method)[0]
        return [self.names[index] for index in self.order if members[index]]

    def is_unknown(self, reject: float = 0.05) -> bool:
        """Whether the picture is more surprising than all but a share of `reject` of known pictures.

        Raises:
            InputError: the file was exported without calibration, or not for this share.
        """
        beyond_usual = float(self.rates[self.top1]) - self.card.surprise(self.exit_layer)
        return beyond_usual > self.card.rejection_bound(reject)


class Classifier:
    """A loaded model file. Safe to use from several threads."""

    def __init__(self, model: Path | bytes, *, threads: int | None = None, provider: str | None = None):
        """Opens `model`; see `load`."""
        self._session = open_session(model, threads=threads, provider=provider)
        self.card: Card = read_card(self._session, str(model) if isinstance(model, Path) else "the model")

    @property
    def names(self) -> tuple[str, ...]:
        """The C class names, in the order of the rates."""
        return self.card.classes

    def classify(self, picture: Picture) -> Result:
        """Labels one picture.

        Args:
            picture: a path, the bytes of a file, a uint8 array (H, W, 3) RGB or (H, W), or a Pillow image.

        Raises:
            ImageError: the picture cannot be read.
        """
        return self.classify_batch([picture])[0]

    def classify_batch(self, pictures: Sequence[Picture]) -> list[Result]:
        """Labels several pictures in one run of the graph; see `classify`."""
        if not pictures:
            return []
        start = perf_counter()
        inputs = [self.preprocess(picture) for picture in pictures]
        preprocessed = perf_counter()
        rates, probabilities, exit_layers = self.run(inputs)
        inferred = perf_counter()
        order = top_k(rates, len(self.names))
        share = 1000 / len(pictures)
        speed = Speed(
            preprocess=(preprocessed - start) * share,
            inference=(inferred - preprocessed) * share,
            postprocess=(perf_counter() - inferred) * share,
        )
        return [
            Result(self.card, rates[i], probabilities[i], order[i], int(exit_layers[i]), speed)
            for i in range(len(pictures))
        ]

    def classify_each(self, pictures: Iterable[Picture], *, batch: int = 1) -> Iterator[Result | ImageError]:
        """Labels any number of pictures; one that cannot be read gives its error and the others go on.

        Args:
            pictures: see `classify`; opened when their turn comes.
            batch: pictures per run of the graph.
        """
        remaining = iter(pictures)
        while chunk := list(islice(remaining, batch)):
            try:
                yield from self.classify_batch(chunk)
            except ImageError as error:
                yield from [error] if len(chunk) == 1 else self.classify_each(chunk)

    def preprocess(self, picture: Picture) -> NDArray[np.uint8]:
        """What the graph takes of a picture: uint8 (H, W, 3), resized unless the graph does that itself."""
        return read_pixels(picture, self.card.preprocessing, resize=self.card.input == INPUT)

    def run(
        self, inputs: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """The graph itself.

        Args:
            inputs: B pictures as `preprocess` gives them.

        Returns:
            rates (B, C), probabilities (B, C), exit layers (B,).

        Raises:
            ModelFileError: a block answered that is no exit of the card.
        """
        wanted = ["rates", "probabilities", "exit_layer"]
        if self.card.input == INPUT:
            rates, probabilities, exit_layers = self._session.run(wanted, {INPUT: np.stack(list(inputs))})
        else:
            runs = [self._session.run(wanted, {IMAGE: picture}) for picture in inputs]
            rates, probabilities, exit_layers = map(np.concatenate, zip(*runs, strict=True))
        # What such rates mean, and when they are surprising, nobody could say.
        if strange := set(exit_layers.tolist()).difference(self.card.exit_layers):
            raise ModelFileError(
                f"the model answered from block {min(strange)}, which is no exit of its card; export it again"
            )
        return rates, probabilities, exit_layers


def load(
    model: str | Path | None = None, *, threads: int | None = None, provider: str | None = None
) -> Classifier:
    """Loads a model file.

    Args:
        model: the file; default `$TGEMS_MODEL`, else `./model.onnx`, else the built-in demo file.
        threads: how many threads one run may use; default `$TGEMS_NUM_THREADS`, else the physical cores.
        provider: onnxruntime's execution provider, such as `CUDA`; default CPU.

    Raises:
        ModelFileError: the file is missing, broken, not ours, or too new.
        InputError: a provider or a number of threads that cannot be used.
        MissingDependency: no onnxruntime is installed.
    """
    path = Path(model) if model is not None else default_model()
    return Classifier(path, threads=threads, provider=provider)


def default_model() -> Path:
    """`$TGEMS_MODEL`, else `./model.onnx`, else the built-in demo file."""
    if named := os.environ.get("TGEMS_MODEL"):
        return Path(named)
    here = Path("model.onnx")
    return here if here.exists() else built_in_model()


def built_in_model() -> Path:
    """The demo file that ships with the package: exit 5 of the demo CLIP, CIFAR-10's ten names."""
    return Path(str(resources.files("tgems_edge"))) / "demo" / "model.onnx"
