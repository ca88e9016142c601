"""What a model file is worth on labelled pictures: accuracy, honesty of its doubts, and time.

N pictures, C classes. The classes are always the model's, in its order; some may have no pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from tgems_edge.errors import DataError, ImageError
from tgems_edge.maths.metrics import bin_confidence, count_confusions, coverage_interval, mean_gap
from tgems_edge.maths.sets import DEFAULT_COVERAGE, METHODS, SetMethod, hold
from tgems_edge.model_file.card import Card
from tgems_edge.progress import Reporter
from tgems_edge.runtime.answers import Answers
from tgems_edge.runtime.classifier import Classifier
from tgems_edge.runtime.result import Result, Speed
from tgems_edge.sources.data import ImageFolder, refuse_shared

__all__ = ["Evaluation", "ExitShare", "SetCoverage", "Timing", "evaluate"]

TOPS = (1, 2, 3, 5)
CHUNK = 256  # pictures whose rates are in memory at once: 16 MB for 8000 classes


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
    title: str  # of its exit point
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
        took = (self.exit_layers.get(exit.layer, 0) * (exit.operations or 0) for exit in self.card.exits)
        return sum(took) / self.images

    def confusion_matrix(self) -> NDArray[np.int64]:
        """Return counts (C, C), true classes in rows and answers in columns; for few classes."""
        matrix = np.zeros((len(self.card.classes),) * 2, np.int64)
        true, answer, pictures = self.confusions.T
        matrix[true, answer] = pictures
        np.fill_diagonal(matrix, self.class_images - matrix.sum(1))
        return matrix


@dataclass(frozen=True)
class _Kept:
    """What is kept of the answers to N pictures: a few numbers of each, however many classes there are."""

    labels: NDArray[np.int64]  # (N,) true classes
    best: NDArray[np.int64]  # (N,) answers
    places: NDArray[np.int64]  # (N,) of the true classes among all, from 0, the best first
    confidence: NDArray[np.float32]  # (N,) largest probabilities
    likeliest: NDArray[np.int64]  # (N,) classes that have them
    covered: NDArray[np.bool_]  # (N, P) whether the label set holds the true class, for each promise
    sizes: NDArray[np.int64]  # (N, P) classes in the label set
    unknown: NDArray[np.bool_]  # (N, R) whether the picture is called unknown, for each share
    exit_layers: NDArray[np.int64]  # (N,)


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
    answers, speeds = _classify(classifier, folder, batch, reporter)
    labels, right = answers.labels, answers.best == answers.labels
    classes = len(card.classes)
    class_images = np.bincount(labels, minlength=classes)
    bins = bin_confidence(answers.confidence, answers.likeliest == labels)
    return Evaluation(
        card=card,
        data_sha256=folder.sha256,
        images=len(labels),
        unreadable=len(folder.names) - len(labels),
        top={k: float((answers.places < k).mean()) for k in TOPS if k < classes},
        class_images=class_images,
        class_accuracy=_shares(np.bincount(labels[right], minlength=classes), class_images),
        confusions=count_confusions(answers.best, labels),
        calibration_error=mean_gap(bins) if card.calibration else None,
        sets=_measure_sets(card, answers),
        rejected=_reject(card, answers),
        class_coverage=_cover_classes(card, answers, class_images),
        exit_layers=dict(sorted(Counter(answers.exit_layers.tolist()).items())),
        exits=_measure_exits(card, right, answers.exit_layers),
        milliseconds={field.name: _time(speeds, field.name) for field in fields(Speed)},
    )


def _classify(
    classifier: Classifier, folder: ImageFolder, batch: int, reporter: Reporter
) -> tuple[_Kept, list[Speed]]:
    """Pictures come and go batch by batch, and so do their rates and probabilities."""
    kept: list[_Kept] = []
    labels: list[int] = []
    results: list[Result] = []
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
            results.append(outcome)
            speeds.append(outcome.speed)
            if len(results) == CHUNK:
                kept.append(_keep(labels, results))
                labels, results = [], []
    if results:
        kept.append(_keep(labels, results))
    if not kept:
        raise DataError(f"{folder.root}: none of its pictures can be read; copy them again")
    names = [field.name for field in fields(_Kept)]
    return _Kept(*(np.concatenate([getattr(part, name) for part in kept]) for name in names)), speeds


def _keep(labels: Sequence[int], results: Sequence[Result]) -> _Kept:
    """What is kept of some pictures."""
    true = np.array(labels)
    answers = Answers.join([result.answers for result in results])
    probabilities = answers.probabilities
    sets = [answers.sets(promised, method) for method, promised in _promises(answers.card)]
    none = np.empty((0, len(true)))
    return _Kept(
        labels=true,
        best=answers.labels,
        places=(answers.order == true[:, None]).argmax(1),
        confidence=probabilities.max(1),
        likeliest=probabilities.argmax(1),
        covered=np.array([hold(members, true) for members in sets] or none, bool).T,
        sizes=np.array([members.sum(1) for members in sets] or none, int).T,
        unknown=np.array([answers.unknown(share) for share in _rejects(answers.card)] or none, bool).T,
        exit_layers=answers.exit_layers,
    )


def _promises(card: Card) -> list[tuple[SetMethod, float]]:
    """Kinds of label sets and their coverages; none without calibration."""
    return [(method, promised) for method in METHODS for promised in card.coverages(method)]


def _rejects(card: Card) -> list[float]:
    """Shares of known pictures that `unknown` can be about; none without calibration."""
    return [float(share) for share in card.calibration.rejection] if card.calibration else []


def _measure_sets(card: Card, answers: _Kept) -> tuple[SetCoverage, ...] | None:
    if card.calibration is None:
        return None
    calibrated, measured = card.calibration.images, len(answers.labels)
    return tuple(
        SetCoverage(
            method=method,
            promised=promised,
            measured=float(answers.covered[:, number].mean()),
            interval=coverage_interval(calibrated, measured, promised),
            size=float(answers.sizes[:, number].mean()),
        )
        for number, (method, promised) in enumerate(_promises(card))
    )


def _reject(card: Card, answers: _Kept) -> dict[str, float] | None:
    if card.calibration is None:
        return None
    return dict(zip(card.calibration.rejection, answers.unknown.mean(0).tolist(), strict=True))


def _measure_exits(
    card: Card, right: NDArray[np.bool_], exit_layers: NDArray[np.int64]
) -> tuple[ExitShare, ...] | None:
    if card.dynamic is None:
        return None
    answered = {exit: right[exit_layers == exit.layer] for exit in card.exits}
    return tuple(
        ExitShare(
            exit.layer, exit.title, len(its), len(its) / len(right), float(its.mean()) if len(its) else None
        )
        for exit, its in answered.items()
    )


def _cover_classes(card: Card, answers: _Kept, class_images: NDArray[np.int64]) -> NDArray[np.float64]:
    promise: tuple[SetMethod, float] = ("threshold", DEFAULT_COVERAGE)
    if promise not in _promises(card):
        return np.full(len(card.classes), np.nan)
    held = answers.covered[:, _promises(card).index(promise)]
    return _shares(np.bincount(answers.labels[held], minlength=len(card.classes)), class_images)


def _shares(counts: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Counts by totals; NaN where there is nothing."""
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)


def _time(speeds: list[Speed], stage: str) -> Timing:
    taken = [getattr(speed, stage) for speed in speeds]
    return Timing(float(np.mean(taken)), float(np.median(taken)), float(np.quantile(taken, 0.9)))
