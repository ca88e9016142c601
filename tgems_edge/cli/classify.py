"""`tgems-edge classify`: label pictures with a model file."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from tgems_edge.cli import report_error
from tgems_edge.errors import ImageError, InputError
from tgems_edge.images import Picture, find_pictures
from tgems_edge.model import Classifier, Result, Speed, built_in_model, default_model

app = typer.Typer(add_completion=False, rich_markup_mode=None)

STDIN = "-"


@app.command()
def classify(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs, or - for standard input.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            help="Model file. Default: $TGEMS_MODEL, else ./model.onnx, else the built-in demo file."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to show per picture.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines on standard output.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures per run of the graph.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of one run. Default: $TGEMS_NUM_THREADS, else all cores."),
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="onnxruntime execution provider, such as CUDA. Default: CPU.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on standard error but errors.")
    ] = False,
) -> None:
    """Label pictures with a model file.

    Results go to standard output, everything else to standard error. A picture that cannot be read is
    reported, the others are classified, and the exit code is 1.

    Example: tgems-edge classify --model model.onnx holiday/ --json
    """
    pictures = _find_pictures(images)
    path = model or default_model()
    classifier = Classifier(path, threads=threads, provider=provider)
    if not quiet:
        typer.echo(_describe(path, classifier), err=True)
    show = _JsonLines(classifier, top) if as_json else _Table(pictures, top)
    failed = 0
    speeds = []
    for names in _batches(pictures, batch):
        for name, result in _classify(classifier, names):
            show(name, result)
            if isinstance(result, ImageError):
                failed += 1
            else:
                speeds.append(result.speed)
    if speeds and not quiet:
        typer.echo(_describe_speed(speeds), err=True)
    if failed:
        if len(pictures) > 1:
            typer.echo(f"{failed} of {len(pictures)} pictures could not be read", err=True)
        raise typer.Exit(ImageError.exit_code)


def _find_pictures(arguments: Iterable[str]) -> list[str]:
    """Names of the pictures meant by files, folders, globs and `-`; sorted within each argument."""
    pictures: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if not argument:
            raise InputError("an empty name for a picture; give a file, a folder, a glob or -")
        if path.is_dir():
            found = [str(picture) for picture in find_pictures(path)]
            if not found:
                raise InputError(f"{argument}: a folder without pictures")
        elif argument != STDIN and not path.exists() and glob.has_magic(argument):
            matches = glob.glob(argument, recursive=True)  # noqa: PTH207  (patterns may be absolute)
            found = sorted(name for name in matches if Path(name).is_file())
            if not found:
                raise InputError(f"{argument}: matches no file")
        else:
            found = [argument]
        pictures += found
    return pictures


def _batches(items: list[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _classify(classifier: Classifier, names: list[str]) -> Iterator[tuple[str, Result | ImageError]]:
    """One result or error per name; a batch with an unreadable picture is done picture by picture."""
    pictures = [_open(name) for name in names]
    try:
        yield from zip(names, classifier.classify_batch(pictures), strict=True)
    except ImageError as error:
        if len(names) == 1:
            yield names[0], error
            return
        for name, picture in zip(names, pictures, strict=True):
            try:
                yield name, classifier.classify(picture)
            except ImageError as its_own:
                yield name, its_own


def _open(name: str) -> Picture:
    if name == STDIN:
        return sys.stdin.buffer.read() if sys.stdin else b""
    return Path(name)


def _describe(path: Path, classifier: Classifier) -> str:
    built_in = "built-in demo file" if path == built_in_model() else str(path)
    card = classifier.card
    return (
        f"model: {built_in} ({len(card.classes)} classes, exit {card.layer} of {card.encoder.name}, "
        f"{path.stat().st_size / 1e6:.1f} MB)"
    )


def _describe_speed(speeds: list[Speed]) -> str:
    """Means over all pictures, the first with its warm-up included."""
    stages = ("preprocess", "inference", "postprocess")
    means = (sum(getattr(speed, stage) for speed in speeds) / len(speeds) for stage in stages)
    parts = ", ".join(f"{mean:.1f} ms {stage}" for mean, stage in zip(means, stages, strict=True))
    return f"speed: {parts} per picture"


class _JsonLines:
    """Prints one JSON object per picture, as the interface specifies it."""

    def __init__(self, classifier: Classifier, top: int):
        self._model = f"sha256:{classifier.card.file_sha256}"
        self._top = top

    def __call__(self, name: str, result: Result | ImageError) -> None:
        if isinstance(result, ImageError):
            line: dict[str, Any] = {"image": name, "error": str(result)}
        else:
            line = {
                "image": name,
                "model": self._model,
                **result.top(1)[0],
                "top": result.top(self._top),
                "set": None,
                "coverage": None,
                "exit_layer": result.exit_layer,
                "milliseconds": {
                    "preprocess": round(result.speed.preprocess, 3),
                    "inference": round(result.speed.inference, 3),
                    "postprocess": round(result.speed.postprocess, 3),
                },
            }
        typer.echo(json.dumps(line, ensure_ascii=False))


class _Table:
    """Prints one row per picture: its name, then the best classes with their probabilities."""

    def __init__(self, pictures: list[str], top: int):
        self._width = max(len(name) for name in pictures)
        self._top = top

    def __call__(self, name: str, result: Result | ImageError) -> None:
        if isinstance(result, ImageError):
            report_error(result)
            return
        best, *others = result.top(self._top)
        row = f"{name:<{self._width}}  {_cell(best)}"
        if others:
            row += "   then " + ", ".join(_cell(other) for other in others)
        typer.echo(row)


def _cell(entry: dict[str, Any]) -> str:
    """A class with its probability, or with its rate where nothing calibrated the probability."""
    if entry["probability"] is None:
        return f"{entry['label']} (rate {entry['rate']:.3f})"
    return f"{entry['label']} {entry['probability']:.0%}"
