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
    found = evaluate(classifier, folder, reporter, batch=batch)
    if as_json:
        print_json(_as_json(found, classifier.verified))
    else:
        print_lines(_as_lines(found))
    for note in _notes(found):
        reporter.say(note)
    if min_accuracy is not None and found.accuracy < min_accuracy:
        raise AccuracyError(
            f"accuracy {found.accuracy:.4f} is below --min-accuracy {min_accuracy:g}; "
            "try a later exit, or train its head on more pictures"
        )
    if found.unreadable:
        raise typer.Exit(ImageError.exit_code)


def _notes(found: Evaluation) -> Iterator[str]:
    """Yield a note for each figure that was not measured, with the reason."""
    if absent := [found.card.classes[index] for index in np.flatnonzero(found.class_images == 0)]:
        yield f"note: no folder for {len(absent)} of the model's classes: {shortened(absent)}"
    if not found.card.calibration:
        yield (
            "note: calibration error, label sets and `unknown` need a calibrated file: "
            "export it with --data or --calibration"
        )
    if found.unreadable:
        yield f"{found.unreadable} of {found.images + found.unreadable} pictures could not be read"


def _as_json(found: Evaluation, verified: bool) -> dict[str, Any]:
    names = found.card.classes
    by_class = zip(names, found.class_images, found.class_accuracy, found.class_coverage, strict=True)
    return {
        "model": f"sha256:{found.card.file_sha256}",
        **({} if verified else {"verified": False}),
        "data": f"sha256:{found.data_sha256}",
        "images": found.images,
        "unreadable": found.unreadable,
        "accuracy": found.accuracy,
        "top": found.top,
        "calibration_error": found.calibration_error,
        "sets": found.sets and [asdict(sets) for sets in found.sets],
        "rejected": found.rejected,
        "classes": [
            {"label": name, "images": int(images), "accuracy": float(right), "coverage": float(covered)}
            for name, images, right, covered in by_class
        ],
        "confusion": found.confusion_matrix().tolist() if len(names) <= MOST_IN_MATRIX else None,
        "confusions": [
            {"label": names[true], "taken_for": names[other], "images": images}
            for true, other, images in found.confusions.tolist()
        ],
        "exit_layers": found.exit_layers,
        "exits": found.exits and [asdict(exit) for exit in found.exits],
        "operations": found.operations,
        "milliseconds": {stage: asdict(timing) for stage, timing in found.milliseconds.items()},
    }


def _as_lines(found: Evaluation) -> list[str]:
    sections = [_summary(found), _exits(found), _sets(found), _times(found), *_classes(found)]
    return separated(sections)


def _summary(found: Evaluation) -> list[str]:
    rows = {"accuracy": f"{found.accuracy:.1%} of {found.images} pictures"}
    if best := {str(k): f"{share:.1%}" for k, share in found.top.items() if k > 1}:
        rows[f"top {', '.join(best)}"] = ", ".join(best.values())
    if found.calibration_error is not None:
        rows["calibration error"] = f"{found.calibration_error:.1%}"
    if found.card.quantisation:
        rows["INT8 against fp32"] = found.card.quantisation.cost
    return [f"{name:<17}  {value}" for name, value in rows.items()]


def _exits(found: Evaluation) -> list[str]:
    """Return the table of exits: share and accuracy of their pictures, and the mean operations."""
    if not found.exits or not found.card.dynamic or found.operations is None:
        return []
    rows = [["exit", "pictures", "share", "accuracy"]]
    for exit in found.exits:
        accuracy = "-" if exit.accuracy is None else f"{exit.accuracy:.1%}"
        rows.append([str(exit.layer), str(exit.images), f"{exit.share:.1%}", accuracy])
    last = found.card.last_exit
    relative = f"{found.operations / (last.operations or 1):.0%} of exit {last.layer}'s"
    return [*aligned(rows), f"operations per picture  {_operations(found.operations)} ({relative})"]


def _operations(count: float) -> str:
    unit, name = (1e9, "G") if count >= 1e9 else (1e6, "M")
    return f"{count / unit:.2f} {name}"


def _sets(found: Evaluation) -> list[str]:
    """Return the table of label sets, and the share of rejected pictures."""
    if not found.sets or not found.rejected:
        return []
    rows = [["label sets", "nominal", "coverage", "95% interval", "set size", ""]]
    for sets in found.sets:
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
    rejected = (f"{share:.1%} at {level}" for level, share in found.rejected.items())
    return [*aligned(rows), f"unknown with --reject  {', '.join(rejected)}"]


def _times(found: Evaluation) -> list[str]:
    rows = [["milliseconds per picture", "mean", "median", "p90"]]
    for stage, timing in found.milliseconds.items():
        rows.append([stage, f"{timing.mean:.2f}", f"{timing.median:.2f}", f"{timing.p90:.2f}"])
    return aligned(rows)


def _classes(found: Evaluation) -> list[list[str]]:
    """Return the confusion matrix if it fits a terminal, else the worst classes and confusions."""
    if len(found.card.classes) <= MOST_CLASSES:
        matrix = _matrix(found)
        if max(map(len, matrix)) <= WIDTH:
            return [["confusion matrix: a row for each true class, a column for each answer", *matrix]]
    return [_worst_classes(found), _confusions(found)]


def _matrix(found: Evaluation) -> list[str]:
    confusion = found.confusion_matrix()
    wide = len(str(confusion.max()))
    numbers = [f"{number:>{wide}}" for number in range(len(found.card.classes))]
    shares = _class_shares(found)
    rows = [["   class", *shares, " ".join(numbers)]]
    for index, name in enumerate(found.card.classes):
        counts = " ".join(f"{count:>{wide}}" for count in confusion[index])
        rows.append([f"{index:>2} {name}", *(column[index] for column in shares.values()), counts])
    return aligned(rows)


def _worst_classes(found: Evaluation) -> list[str]:
    present = np.flatnonzero(found.class_images)
    worst = present[np.argsort(found.class_accuracy[present], kind="stable")][:WORST]
    title = "class" if len(worst) == len(present) else f"worst {WORST} of {len(present)} classes"
    shares = _class_shares(found)
    rows = [[title, *shares, "pictures"]]
    for index in worst:
        cells = (column[index] for column in shares.values())
        rows.append([found.card.classes[index], *cells, str(found.class_images[index])])
    return aligned(rows)


def _class_shares(found: Evaluation) -> dict[str, list[str]]:
    """Return columns with a cell for each class: accuracy, and coverage if the file is calibrated."""
    columns = {"accuracy": found.class_accuracy}
    if found.sets:
        columns[f"in {DEFAULT_COVERAGE:.0%} set"] = found.class_coverage
    return {
        title: ["-" if np.isnan(share) else f"{share:.1%}" for share in shares]
        for title, shares in columns.items()
    }


def _confusions(found: Evaluation) -> list[str]:
    lines = []
    for true, other, count in found.confusions[:WORST].tolist():
        names = found.card.classes[true], found.card.classes[other]
        lines.append(f"{names[0]} mistaken for {names[1]}: {count} of {found.class_images[true]}")
    return lines
