"""What a model file is worth on labelled pictures: accuracy, honesty of its doubts, and time.

N pictures, C classes. The classes are always the model's, in its order; some may have no pictures.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from tgems_edge.card import Card
from tgems_edge.data import ImageFolder, refuse_shared
from tgems_edge.errors import DataError, ImageError
from tgems_edge.metrics import calibration_error, count_confusions, coverage_interval, top_accuracy
from tgems_edge.model import Classifier, Speed
from tgems_edge.progress import Reporter
from tgems_edge.sets import DEFAULT_COVERAGE, METHODS, SetMethod, hold, label_sets

__all__ = ["Evaluation", "ExitShare", "SetCoverage", "Timing", "evaluate"]

TOPS = (1, 2, 3, 5)


@dataclass(frozen=True)
class SetCoverage:
    """How often label sets hold the true class, and how large they are."""

    method: SetMethod
    promised: float
    measured: float
    interval: tuple[float, float]  # where chance leaves `measured` in 95 of 100 cases, if the promise holds
    size: float  # classes in a set, on average

    @property
    def kept(self) -> bool:
        """Whether the promise may hold: more than was promised is no fault."""
        return self.measured >= self.interval[0]


@dataclass(frozen=True)
class ExitShare:
    """The pictures that one exit of a dynamic file answered."""

    layer: int
    images: int
    share: float  # of all
    accuracy: float | None  # None without pictures


@dataclass(frozen=True)
class Timing:
    """Milliseconds per picture of one stage; the first picture's warm-up is in the mean."""

    mean: float
    median: float
    p90: float


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured."""

    card: Card
    data_sha256: str
    images: int  # that were read and count
    unreadable: int
    top: dict[int, float]  # share of pictures whose class is among the best k, for each k
    class_images: NDArray[np.int64]  # (C,) pictures of each class
    class_accuracy: NDArray[np.float64]  # (C,) accuracy of each class; NaN without pictures
    confusions: NDArray[np.int64]  # (P, 3) class, what it was taken for, pictures; most frequent first
    calibration_error: float | None  # this and the next two are None without calibration
    sets: tuple[SetCoverage, ...] | None
    rejected: dict[str, float] | None  # share of pictures called unknown, for each level
    class_coverage: NDArray[np.float64]  # (C,) of threshold sets at 0.9; NaN without pictures or calibration
    exit_layers: dict[int, int]  # pictures that each block answered
    exits: tuple[ExitShare, ...] | None  # all of them, in their order; None in a static file
    milliseconds: dict[str, Timing]  # of each stage

    @property
    def accuracy(self) -> float:
        """Share of pictures whose class was the best."""
        return self.top[1]

    @property
    def operations(self) -> float | None:
        """Floating-point operations of these pictures, on average; None in a static file."""
        if self.card.dynamic is None:
            return None
        exits = self.card.dynamic.exits
        return sum(exit.operations * self.exit_layers.get(exit.layer, 0) for exit in exits) / self.images

    def confusion_matrix(self) -> NDArray[np.int64]:
        """Return counts (C, C), true classes in rows and answers in columns; for few classes."""
        matrix = np.zeros((len(self.card.classes),) * 2, np.int64)
        true, answer, pictures = self.confusions.T
        matrix[true, answer] = pictures
        np.fill_diagonal(matrix, self.class_images - matrix.sum(1))
        return matrix


@dataclass(frozen=True)
class _Answers:
    """What the model said about the pictures that could be read."""

    labels: NDArray[np.int64]  # (N,) true classes
    rates: NDArray[np.float32]  # (N, C)
    probabilities: NDArray[np.float32]  # (N, C)
    exit_layers: NDArray[np.int64]  # (N,)
    speeds: list[Speed]


def evaluate(
    classifier: Classifier, folder: ImageFolder, reporter: Reporter, *, batch: int = 1
) -> Evaluation:
    """Classifies labelled pictures and compares.

    Args:
        classifier: the model.
        folder: its classes are some or all of the model's.
        reporter: where progress and pictures that cannot be read are shown.
        batch: pictures per run of the graph; times are those of single pictures only with 1.

    Raises:
        DataError: a folder that is no class of the model, pictures that calibrated the file, or none that
            can be read.
    """
    card = classifier.card
    folder = folder.labelled_as(card.classes)
    if card.calibration:
        others = "those that calibrated the file, which says nothing about new ones"
        refuse_shared(folder, card.calibration.beginnings(), others)
    answers = _classify(classifier, folder, batch, reporter)
    labels, rates, probabilities = answers.labels, answers.rates, answers.probabilities
    best = rates.argmin(1)
    classes = len(card.classes)
    class_images = np.bincount(labels, minlength=classes)
    calibrated = card.calibration is not None
    return Evaluation(
        card=card,
        data_sha256=folder.sha256,
        images=len(labels),
        unreadable=len(folder.names) - len(labels),
        top={k: top_accuracy(rates, labels, k) for k in TOPS if k < classes},
        class_images=class_images,
        class_accuracy=_shares(np.bincount(labels[best == labels], minlength=classes), class_images),
        confusions=count_confusions(best, labels),
        calibration_error=calibration_error(probabilities, labels) if calibrated else None,
        sets=_measure_sets(card, probabilities, labels),
        rejected=_reject(card, rates, answers.exit_layers),
        class_coverage=_cover_classes(card, probabilities, labels),
        exit_layers=dict(sorted(Counter(answers.exit_layers.tolist()).items())),
        exits=_measure_exits(card, best == labels, answers.exit_layers),
        milliseconds={field.name: _time(answers.speeds, field.name) for field in fields(Speed)},
    )


def _classify(classifier: Classifier, folder: ImageFolder, batch: int, reporter: Reporter) -> _Answers:
    """Pictures come and go batch by batch; what stays of each is its rates and probabilities."""
    labels: list[int] = []
    rates: list[NDArray[np.float32]] = []
    probabilities: list[NDArray[np.float32]] = []
    exit_layers: list[int] = []
    speeds: list[Speed] = []
    paths = map(folder.path, range(len(folder.names)))  # no sequence: reading ahead would disturb the times
    outcomes = classifier.classify_each(paths, batch=batch)
    with reporter.task("classifying", len(folder.names), unit="pictures") as task:
        for label, outcome in zip(folder.labels, outcomes, strict=True):
            task.advance(1)
            if isinstance(outcome, ImageError):
                reporter.leave_out(outcome)
                continue
            labels.append(label)
            rates.append(outcome.rates)
            probabilities.append(outcome.probabilities)
            exit_layers.append(outcome.exit_layer)
            speeds.append(outcome.speed)
    if not labels:
        raise DataError(f"{folder.root}: none of its pictures can be read; copy them again")
    return _Answers(np.array(labels), np.stack(rates), np.stack(probabilities), np.array(exit_layers), speeds)


def _measure_sets(
    card: Card, probabilities: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[SetCoverage, ...] | None:
    if card.calibration is None:
        return None
    measured = []
    for method in METHODS:
        for promised in card.coverages(method):
            members = label_sets(probabilities, card.set_bound(promised, method), method)
            measured.append(
                SetCoverage(
                    method=method,
                    promised=promised,
                    measured=float(hold(members, labels).mean()),
                    interval=coverage_interval(card.calibration.images, len(labels), promised),
                    size=float(members.sum(1).mean()),
                )
            )
    return tuple(measured)


def _reject(
    card: Card, rates: NDArray[np.float32], exit_layers: NDArray[np.int64]
) -> dict[str, float] | None:
    if card.rejection is None:
        return None
    beyond_usual = rates.min(1) - np.array([card.surprise(layer) for layer in exit_layers.tolist()])
    return {level: float((beyond_usual > bound).mean()) for level, bound in card.rejection.items()}


def _measure_exits(
    card: Card, right: NDArray[np.bool_], exit_layers: NDArray[np.int64]
) -> tuple[ExitShare, ...] | None:
    if card.dynamic is None:
        return None
    answered = {layer: right[exit_layers == layer] for layer in card.exit_layers}
    return tuple(
        ExitShare(layer, len(its), len(its) / len(right), float(its.mean()) if len(its) else None)
        for layer, its in answered.items()
    )


def _cover_classes(
    card: Card, probabilities: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    classes = len(card.classes)
    if DEFAULT_COVERAGE not in card.coverages("threshold"):
        return np.full(classes, np.nan)
    members = label_sets(probabilities, card.set_bound(DEFAULT_COVERAGE, "threshold"), "threshold")
    covered = np.bincount(labels[hold(members, labels)], minlength=classes)
    return _shares(covered, np.bincount(labels, minlength=classes))


def _shares(counts: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Counts by totals; NaN where there is nothing."""
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)


def _time(speeds: list[Speed], stage: str) -> Timing:
    taken = [getattr(speed, stage) for speed in speeds]
    return Timing(float(np.mean(taken)), float(np.median(taken)), float(np.quantile(taken, 0.9)))
