"""`tgems-edge classify`: label pictures with a model file."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

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
from tgems_edge.cli.output import print_json, print_lines, print_note, report_error
from tgems_edge.errors import ImageError, InputError
from tgems_edge.maths.sets import SetMethod
from tgems_edge.model_file.card import Card
from tgems_edge.printable import padded, printable, width
from tgems_edge.runtime.classifier import Classifier
from tgems_edge.runtime.images import Picture
from tgems_edge.runtime.result import Result, Speed
from tgems_edge.runtime.uncertainty import Uncertainty, choose_uncertainty
from tgems_edge.sources.folders import LeftOut, find_pictures
from tgems_edge.sources.globs import find_matches

app = typer.Typer(add_completion=False, rich_markup_mode=None)

STDIN = "-"


@app.command()
def classify(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs, or - for standard input.")
    ],
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, help="Number of classes to show per picture.")] = 3,
    as_json: Json = False,
    coverage: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Give label sets that contain the true class for at least this share of pictures: 0.8, 0.9, "
            "0.95 or 0.99. Default: 0.9 if the file is calibrated.",
        ),
    ] = None,
    sets: Annotated[
        SetMethod | None,
        typer.Option(
            help="Method of the label sets. threshold (the default): the smallest sets on average. adaptive: "
            "small sets for easy pictures, large ones for hard pictures."
        ),
    ] = None,
    reject: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Label a picture unknown if it fits the classes worse than all but this share of known "
            "pictures: 0.01, 0.05, 0.1 or 0.2. Default: never.",
        ),
    ] = None,
    batch: Batch = 1,
    threads: Threads = None,
    provider: Provider = None,
    fast_decode: FastDecode = False,
    timeout: Timeout = None,
    no_verify: NoVerify = False,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
) -> None:
    """Label pictures with a model file.

    Results go to standard output, everything else to standard error. A picture that cannot be read is
    reported, the others are classified, and the exit code is 1.

    A file that was exported with calibration also gives its uncertainty: `cat 62% or dog 30%` is a label
    set, which contains the true class as often as --coverage states. With --reject the label of a picture
    may be `unknown`.

    Example: tgems-edge classify --model model.onnx holiday/ --json
    """
    pictures, left_out = _find_pictures(images)
    if left_out.matters or (left_out and not quiet):
        print_note(f"{'warning: ' * left_out.matters}left out: {left_out}")
    classifier, description = open_model(
        model,
        threads=threads,
        provider=provider,
        fast_decode=fast_decode,
        verify=not no_verify,
        timeout=timeout,
        max_pixels=max_pixels,
    )
    card = classifier.card
    uncertainty = choose_uncertainty(card, coverage, sets, reject)
    if not quiet:
        print_note(description)
        if uncertainty.coverage and not as_json:
            print_note(_explain_sets(uncertainty.coverage))
    if as_json:
        show: _JsonLines | _Table = _JsonLines(uncertainty, top, not no_verify)
    else:
        show = _Table(card, uncertainty, top, pictures)
    totals = _classify_each(classifier, pictures, batch, show)
    if totals.speeds and not quiet:
        if card.dynamic:
            print_note(_describe_exits(card, totals.exit_layers))
        print_note(_describe_speed(totals.speeds))
    if totals.failed:
        if len(pictures) > 1:
            print_note(f"{totals.failed} of {len(pictures)} pictures could not be read")
        raise typer.Exit(ImageError.exit_code)


def _find_pictures(arguments: Iterable[str]) -> tuple[list[str], LeftOut]:
    """Return the pictures that files, folders, globs and `-` name, sorted within each argument.

    The second result counts the files of folders and globs that are left out.

    Raises:
        InputError: an argument names no picture, or a device, pipe or socket, which could block.
    """
    pictures: list[str] = []
    left_out = LeftOut()
    for argument in arguments:
        path = Path(argument)
        if not argument:
            raise InputError("the name of a picture is empty; give a file, a folder, a glob or -")
        if path.is_dir():
            under = find_pictures(path)
            found, others = [str(picture) for picture in under.paths], under.left_out
            if not found:
                raise InputError(f"{argument}: a folder without pictures{others.hint}")
        elif argument != STDIN and not os.path.lexists(path) and glob.has_magic(argument):
            found, others = find_matches(argument)
            if not found:
                raise InputError(f"{argument}: matches no file{others.hint}")
        elif argument != STDIN and path.exists() and not path.is_file():
            raise InputError(
                f"{argument}: a device, a pipe or a socket, not a file; give - for standard input"
            )
        else:
            found, others = [argument], LeftOut()
        pictures += found
        left_out.counts.update(others.counts)
    return pictures, left_out


@dataclass
class _Totals:
    """Totals over all pictures of a command."""

    failed: int = 0
    speeds: list[Speed] = field(default_factory=list)
    exit_layers: Counter[int] = field(default_factory=Counter)


def _classify_each(
    classifier: Classifier, pictures: list[str], batch: int, show: _JsonLines | _Table
) -> _Totals:
    """Classify the pictures, show each result as soon as it is there, and return the totals."""
    totals = _Totals()
    with closing(classifier.classify_each([_open(name) for name in pictures], batch=batch)) as results:
        for name, result in zip(pictures, results, strict=True):
            show(name, result)
            if isinstance(result, ImageError):
                totals.failed += 1
            else:
                totals.speeds.append(result.speed)
                totals.exit_layers[result.exit_layer] += 1
    return totals


def _open(name: str) -> Picture:
    if name == STDIN:
        return sys.stdin.buffer if sys.stdin else b""
    return Path(name)


def _explain_sets(coverage: float) -> str:
    return (
        f'label sets: the classes joined by "or" contain the true class for at least {100 * coverage:g}% of '
        "pictures"
    )


def _describe_exits(card: Card, counts: Counter[int]) -> str:
    return "exits: " + ", ".join(f"{counts[exit.layer]} at {exit.title}" for exit in card.exits)


def _describe_speed(speeds: list[Speed]) -> str:
    """Return the mean time of each stage over all pictures, including the slower first run."""
    stages = ("preprocess", "inference", "postprocess")
    means = (sum(getattr(speed, stage) for speed in speeds) / len(speeds) for stage in stages)
    parts = ", ".join(f"{mean:.1f} ms {stage}" for mean, stage in zip(means, stages, strict=True))
    return f"speed: {parts} per picture"


class _JsonLines:
    """Print one JSON object per picture."""

    def __init__(self, uncertainty: Uncertainty, top: int, verified: bool):
        self._uncertainty = uncertainty
        self._top = top
        self._verified = verified

    def __call__(self, name: str, result: Result | ImageError) -> None:
        if isinstance(result, ImageError):
            line: dict[str, Any] = {"image": name, "error": str(result)}
        else:
            line = {
                "image": name,
                "model": f"sha256:{result.card.file_sha256}",
                **({} if self._verified else {"verified": False}),
                **result.answers.rows(top=self._top, uncertainty=self._uncertainty)[0],
                "milliseconds": {stage: round(took, 3) for stage, took in asdict(result.speed).items()},
            }
        print_json(line)


class _Table:
    """Print one row per picture: its name, the label set with probabilities, then further classes.

    For a dynamic file, the exit that answered follows the name.
    """

    def __init__(self, card: Card, uncertainty: Uncertainty, top: int, pictures: list[str]):
        self._uncertainty = uncertainty
        self._top = top
        self._width = max(width(printable(name)) for name in pictures)
        self._exits = {exit.layer: exit.title for exit in card.exits} if card.dynamic else {}
        self._exit_width = max(map(len, self._exits.values()), default=0)

    def __call__(self, name: str, result: Result | ImageError) -> None:
        if isinstance(result, ImageError):
            report_error(result)
        else:
            row = [padded(printable(name), self._width), *self._exit(result), self._answer(result)]
            print_lines(["  ".join(row)])

    def _exit(self, result: Result) -> list[str]:
        return [f"exit {self._exits[result.exit_layer]:>{self._exit_width}}"] if self._exit_width else []

    def _answer(self, result: Result) -> str:
        (row,) = result.answers.rows(top=self._top, uncertainty=self._uncertainty)
        cells = [_cell(entry) for entry in row["top"]]
        if row["index"] is None:
            return f"unknown (nearest {cells[0]})"
        size = len(row["set"] or [row["label"]])  # the set has the first `size` classes of the ranking
        members, others = cells[:size], cells[size:]
        if size > len(members):
            members.append(f"{size - len(members)} more")
        answer = " or ".join(members)
        return f"{answer}   then {', '.join(others)}" if others else answer


def _cell(entry: dict[str, Any]) -> str:
    """Return a class with its probability, or with its class-rate if the file is not calibrated."""
    if entry["probability"] is None:
        return f"{entry['label']} (rate {entry['rate']:.3f})"
    return f"{entry['label']} {entry['probability']:.0%}"
