"""`tgems-edge evaluate`: measure accuracy, calibration and coverage of a model file on labelled pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from tgems_edge.cli.model_file import (
    Batch,
    FastDecode,
    Json,
    MaxPixels,
    Model,
    NoVerify,
    Provider,
    Quiet,
    Threads,
    Timeout,
    open_model,
)
from tgems_edge.cli.output import print_json, print_lines
from tgems_edge.cli.tables import aligned, separated
from tgems_edge.errors import AccuracyError, ImageError, InputError
from tgems_edge.maths.sets import DEFAULT_COVERAGE
from tgems_edge.printable import shortened

if TYPE_CHECKING:
    from tgems_edge.runtime.evaluation import Evaluation

app = typer.Typer(add_completion=False, rich_markup_mode=None)

WIDTH = 80  # columns of a terminal
MOST_CLASSES = 12  # classes of a confusion matrix in text
MOST_IN_MATRIX = 200  # classes of a confusion matrix in JSON; the list of pairs has no such limit
WORST = 10  # classes and confusions that are listed instead of a matrix


@app.command()
def evaluate(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Image folder: DATA/<class>/*.jpg.")],
    model: Model = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File that maps folders to classes, for folders with other names. One line each: folder, "
            "tab, class.",
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="End with exit code 4 if the accuracy is lower, such as 0.8."),
    ] = None,
    as_json: Json = False,
    batch: Batch = 1,
    threads: Threads = None,
    provider: Provider = None,
    fast_decode: FastDecode = False,
    timeout: Timeout = None,
    no_verify: NoVerify = False,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
) -> None:
    """Measure a model file on labelled pictures: accuracy, calibration, coverage, latency.

    The folders must have the names of classes of the model; case, hyphens and underscores do not matter.
    Classes without a folder are listed, and the model may still answer with them. Pictures that calibrated
    the file are refused. Pictures that cannot be read are reported and left out, and the exit code is 1.

    With --json, `confusion` is the matrix of true and answered classes for up to 200 classes, else null.
    `confusions` always lists the pairs of confused classes.

    Example: tgems-edge evaluate pictures/ --model model.onnx --min-accuracy 0.8
    """
    from tgems_edge.progress import Reporter
    from tgems_edge.runtime.evaluation import evaluate
    from tgems_edge.sources.class_names import read_class_list
    from tgems_edge.sources.data import read_labelled, report_left_out

    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise InputError(f"--min-accuracy {min_accuracy:g}: give a share from 0 to 1, such as 0.8")
    reporter = Reporter(quiet=quiet)
    classifier, description = open_model(
        model,
        threads=threads,
        provider=provider,
        fast_decode=fast_decode,
        verify=not no_verify,
        timeout=timeout,
        max_pixels=max_pixels,
    )
    reporter.say(description)
    class_of_folder = read_class_list(classes).folders if classes else None
    folder = read_labelled(data, given=class_of_folder)
    report_left_out(folder, reporter)
    evaluation = evaluate(classifier, folder, reporter, batch=batch)
    if as_json:
        print_json(_as_json(evaluation, classifier.verified))
    else:
        print_lines(_as_lines(evaluation))
    for note in _notes(evaluation):
        reporter.say(note)
    if min_accuracy is not None and evaluation.accuracy < min_accuracy:
        raise AccuracyError(
            f"accuracy {evaluation.accuracy:.4f} is below --min-accuracy {min_accuracy:g}; "
            "try a later exit, or train its head on more pictures"
        )
    if evaluation.unreadable:
        raise typer.Exit(ImageError.exit_code)


def _notes(evaluation: Evaluation) -> Iterator[str]:
    """Yield a note for each figure that was not measured, with the reason."""
    if absent := [evaluation.card.classes[index] for index in np.flatnonzero(evaluation.class_images == 0)]:
        yield f"note: no folder for {len(absent)} of the model's classes: {shortened(absent)}"
    if not evaluation.card.calibration:
        yield (
            "note: calibration error, label sets and `unknown` need a calibrated file: "
            "export it with --data or --calibration"
        )
    if evaluation.unreadable:
        pictures = evaluation.images + evaluation.unreadable
        yield f"{evaluation.unreadable} of {pictures} pictures could not be read"


def _as_json(evaluation: Evaluation, verified: bool) -> dict[str, Any]:
    names = evaluation.card.classes
    by_class = zip(
        names, evaluation.class_images, evaluation.class_accuracy, evaluation.class_coverage, strict=True
    )
    return {
        "model": f"sha256:{evaluation.card.file_sha256}",
        **({} if verified else {"verified": False}),
        "data": f"sha256:{evaluation.data_sha256}",
        "images": evaluation.images,
        "unreadable": evaluation.unreadable,
        "accuracy": evaluation.accuracy,
        "top": evaluation.top,
        "calibration_error": evaluation.calibration_error,
        "sets": evaluation.sets and [asdict(sets) for sets in evaluation.sets],
        "rejected": evaluation.rejected,
        "classes": [
            {"label": name, "images": int(images), "accuracy": float(right), "coverage": float(covered)}
            for name, images, right, covered in by_class
        ],
        "confusion": evaluation.confusion_matrix().tolist() if len(names) <= MOST_IN_MATRIX else None,
        "confusions": [
            {"label": names[true], "taken_for": names[other], "images": images}
            for true, other, images in evaluation.confusions.tolist()
        ],
        "exit_layers": evaluation.exit_layers,
        "exits": evaluation.exits and [asdict(exit) for exit in evaluation.exits],
        "operations": evaluation.operations,
        "milliseconds": {stage: asdict(timing) for stage, timing in evaluation.milliseconds.items()},
    }


def _as_lines(evaluation: Evaluation) -> list[str]:
    sections = [
        _summary(evaluation),
        _exits(evaluation),
        _sets(evaluation),
        _times(evaluation),
        *_classes(evaluation),
    ]
    return separated(sections)


def _summary(evaluation: Evaluation) -> list[str]:
    rows = {"accuracy": f"{evaluation.accuracy:.1%} of {evaluation.images} pictures"}
    if best := {str(k): f"{share:.1%}" for k, share in evaluation.top.items() if k > 1}:
        rows[f"top {', '.join(best)}"] = ", ".join(best.values())
    if evaluation.calibration_error is not None:
        rows["calibration error"] = f"{evaluation.calibration_error:.1%}"
    if evaluation.card.quantisation:
        rows["INT8 against fp32"] = evaluation.card.quantisation.cost
    return [f"{name:<17}  {value}" for name, value in rows.items()]


def _exits(evaluation: Evaluation) -> list[str]:
    """Return the table of exits: share and accuracy of their pictures, and the mean operations."""
    if not evaluation.exits or not evaluation.card.dynamic or evaluation.operations is None:
        return []
    rows = [["exit", "pictures", "share", "accuracy"]]
    for exit in evaluation.exits:
        accuracy = "-" if exit.accuracy is None else f"{exit.accuracy:.1%}"
        rows.append([exit.title, str(exit.images), f"{exit.share:.1%}", accuracy])
    last = evaluation.card.last_exit
    relative = f"{evaluation.operations / (last.operations or 1):.0%} of exit {last.title}'s"
    return [*aligned(rows), f"operations per picture  {_operations(evaluation.operations)} ({relative})"]


def _operations(count: float) -> str:
    unit, name = (1e9, "G") if count >= 1e9 else (1e6, "M")
    return f"{count / unit:.2f} {name}"


def _sets(evaluation: Evaluation) -> list[str]:
    """Return the table of label sets, and the share of rejected pictures."""
    if not evaluation.sets or not evaluation.rejected:
        return []
    rows = [["label sets", "nominal", "coverage", "95% interval", "set size", ""]]
    for sets in evaluation.sets:
        low, high = sets.interval
        rows.append(
            [
                sets.method,
                f"{100 * sets.promised:g}%",
                f"{sets.measured:.1%}",
                f"{low:.1%} to {high:.1%}",
                f"{sets.size:.2f}",
                "" if sets.kept else "too low",
            ]
        )
    rejected = (f"{share:.1%} at {level}" for level, share in evaluation.rejected.items())
    return [*aligned(rows), f"unknown with --reject  {', '.join(rejected)}"]


def _times(evaluation: Evaluation) -> list[str]:
    rows = [["milliseconds per picture", "mean", "median", "p90"]]
    for stage, timing in evaluation.milliseconds.items():
        rows.append([stage, f"{timing.mean:.2f}", f"{timing.median:.2f}", f"{timing.p90:.2f}"])
    return aligned(rows)


def _classes(evaluation: Evaluation) -> list[list[str]]:
    """Return the confusion matrix if it fits a terminal, else the worst classes and confusions."""
    if len(evaluation.card.classes) <= MOST_CLASSES:
        matrix = _matrix(evaluation)
        if max(map(len, matrix)) <= WIDTH:
            return [["confusion matrix: a row for each true class, a column for each answer", *matrix]]
    return [_worst_classes(evaluation), _confusions(evaluation)]


def _matrix(evaluation: Evaluation) -> list[str]:
    confusion = evaluation.confusion_matrix()
    wide = len(str(confusion.max()))
    numbers = [f"{number:>{wide}}" for number in range(len(evaluation.card.classes))]
    shares = _class_shares(evaluation)
    rows = [["   class", *shares, " ".join(numbers)]]
    for index, name in enumerate(evaluation.card.classes):
        counts = " ".join(f"{count:>{wide}}" for count in confusion[index])
        rows.append([f"{index:>2} {name}", *(column[index] for column in shares.values()), counts])
    return aligned(rows)


def _worst_classes(evaluation: Evaluation) -> list[str]:
    present = np.flatnonzero(evaluation.class_images)
    worst = present[np.argsort(evaluation.class_accuracy[present], kind="stable")][:WORST]
    title = "class" if len(worst) == len(present) else f"worst {WORST} of {len(present)} classes"
    shares = _class_shares(evaluation)
    rows = [[title, *shares, "pictures"]]
    for index in worst:
        cells = (column[index] for column in shares.values())
        rows.append([evaluation.card.classes[index], *cells, str(evaluation.class_images[index])])
    return aligned(rows)


def _class_shares(evaluation: Evaluation) -> dict[str, list[str]]:
    """Return columns with a cell for each class: accuracy, and coverage if the file is calibrated."""
    columns = {"accuracy": evaluation.class_accuracy}
    if evaluation.sets:
        columns[f"in {DEFAULT_COVERAGE:.0%} set"] = evaluation.class_coverage
    return {
        title: ["-" if np.isnan(share) else f"{share:.1%}" for share in shares]
        for title, shares in columns.items()
    }


def _confusions(evaluation: Evaluation) -> list[str]:
    lines = []
    for true, other, count in evaluation.confusions[:WORST].tolist():
        names = evaluation.card.classes[true], evaluation.card.classes[other]
        lines.append(f"{names[0]} mistaken for {names[1]}: {count} of {evaluation.class_images[true]}")
    return lines
