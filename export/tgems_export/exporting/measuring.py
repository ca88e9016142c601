"""Calibrate a file on its answers to labelled pictures, and measure it on its answers to others."""

from __future__ import annotations

import dataclasses

from tgems_edge.errors import AccuracyError
from tgems_edge.maths.metrics import calibration_error, top_accuracy
from tgems_edge.maths.sets import hold
from tgems_edge.model_file.card import Accuracy, Calibration, Card, ExitCalibration, Gate
from tgems_edge.runtime.answers import Answers
from tgems_export.calibration import calibrate_posterior, fit_temperature
from tgems_export.exporting.exits import Exit
from tgems_export.exporting.picture_sets import PictureSet
from tgems_export.exporting.quantization.search import Limits

__all__ = ["calibrate_card", "calibration_of_head", "measure", "pass_gate"]


def calibrate_card(card: Card, answers: Answers, pictures: PictureSet) -> Card:
    """The card with all that is fitted on labelled pictures; exits of a dynamic file have their part already.

    Args:
        card: of the file.
        answers: of the file, to the pictures.
        pictures: labelled, that neither trained nor measure.

    Raises:
        DataError: too few pictures.
    """
    exit_ = card.last_exit
    if card.dynamic is None:
        temperature = fit_temperature(answers.rates, pictures.labels, exit_.k)
        exit_ = dataclasses.replace(exit_, calibration=ExitCalibration(temperature, 0.0, 1.0))
        card = dataclasses.replace(card, exits=(exit_,))
        answers = Answers.from_rates(answers.rates, answers.exit_layers, card)
    fitted = calibrate_posterior(
        answers.probabilities, answers.surprisals, pictures.labels, exit_.temperature
    )
    calibration = Calibration.of(
        pictures.digests, fitted.conformal, fitted.conformal_adaptive, fitted.rejection
    )
    return dataclasses.replace(card, calibration=calibration)


def calibration_of_head(exit_: Exit, card: Card) -> Card | None:
    """The card with the calibration of its head; None where the head has none, or other classes."""
    fitted = exit_.card.calibration
    if fitted is None or card.classes != exit_.card.classes:
        return None
    only = dataclasses.replace(card.last_exit, calibration=ExitCalibration(fitted.temperature, 0.0, 1.0))
    return dataclasses.replace(card, exits=(only,), calibration=fitted.quantiles)


def measure(answers: Answers, pictures: PictureSet) -> Accuracy:
    """Measure a calibrated file on labelled pictures that did not calibrate it."""
    labels = pictures.labels
    sets = {f"{coverage:g}": answers.sets(coverage) for coverage in answers.card.coverages("threshold")}
    return Accuracy(
        top1=top_accuracy(answers.rates, labels),
        images=len(labels),
        data_sha256=pictures.folder.sha256,
        calibration_error=calibration_error(answers.probabilities, labels),
        coverage={coverage: float(hold(members, labels).mean()) for coverage, members in sets.items()},
        set_size={coverage: float(members.sum(1).mean()) for coverage, members in sets.items()},
    )


def pass_gate(measured: Answers, reference: Answers, pictures: PictureSet, limits: Limits) -> Gate:
    """Compare an INT8 file with its graph in fp32 on pictures that made neither.

    Args:
        measured: what the file says of them.
        reference: what the same graph in fp32 says of them.
        pictures: labelled.
        limits: what INT8 may cost.

    Raises:
        AccuracyError: it costs more.
    """
    before, after = reference.labels, measured.labels
    right, still = before == pictures.labels, after == pictures.labels
    # From counts: a difference of shares is a little off, and limits are round numbers.
    count = len(pictures.labels)
    drop = 100 * (int(right.sum()) - int(still.sum())) / count
    flips = 100 * int((before != after).sum()) / count
    if drop > limits.accuracy_drop or flips > limits.label_flips:
        raise AccuracyError(
            f"INT8 costs {drop:.2f} points of accuracy and changes {flips:.2f}% of the labels on {count} "
            f"pictures (--max-accuracy-drop {limits.accuracy_drop:g}, --max-label-flips "
            f"{limits.label_flips:g}); nothing was written: give more pictures to calibrate on, other exits, "
            "higher limits or --precision fp32"
        )
    return Gate(count, pictures.folder.sha256, drop, flips)
