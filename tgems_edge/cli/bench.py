"""`tgems-edge bench`: measure latency, throughput, memory and start-up of model files on this device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from tgems_edge.cli.model_file import MOST_BATCH, Json, MaxPixels, Provider, Quiet
from tgems_edge.cli.output import print_json, print_lines, report_error
from tgems_edge.errors import InputError
from tgems_edge.model_file.default import default_model

if TYPE_CHECKING:
    from tgems_edge.bench.pictures import PictureCycle
    from tgems_edge.bench.report import Report
    from tgems_edge.progress import Reporter

app = typer.Typer(add_completion=False, rich_markup_mode=None)

FINDING = 1
MOST_SECONDS = 3600.0


@app.command()
def bench(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Model files. Default: $TGEMS_MODEL, else ./model.onnx, else the built-in demo file.",
        ),
    ] = None,
    model: Annotated[
        list[Path] | None, typer.Option(help="Another way to name a model file. May repeat.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="full|FILE",
            help="Compare with the full image tower of the encoder, exported by the workstation package, "
            "or with the file of a tower that was exported elsewhere.",
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Threads of one run. May repeat. Default: $TGEMS_NUM_THREADS, else the physical cores.",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, max=MOST_BATCH, help="Pictures per run of the graph. May repeat. Default: 1."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Time for each file, with each number of threads and each batch size.")
    ] = 10.0,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of your own pictures. A dynamic file needs them: drawn pictures do not show which "
            "exits yours take. Default: drawn JPEG files of 640x480 pixels.",
        ),
    ] = None,
    provider: Provider = None,
    max_pixels: MaxPixels = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure model files on this device: start-up, latency, throughput, memory.

    Each file first runs in new processes, which measure its start-up and memory. Then all files run in turn
    in one process, so that other load on the machine slows all of them alike. A file that cannot be
    measured is reported, the others are measured, and the exit code is 1.

    Example: tgems-edge bench model.onnx --threads 1 --threads 4 --batch 1 --batch 16 --seconds 5
    """
    from tgems_edge.bench.measure import Settings, measure
    from tgems_edge.machine import physical_cores
    from tgems_edge.progress import Reporter
    from tgems_edge.runtime.decoding.limits import set_limit
    from tgems_edge.runtime.session import choose_threads

    _check_options(seconds, against)
    set_limit(max_pixels)
    models = [*(files or []), *(model or [])] or [default_model()]
    settings = Settings(
        threads=tuple(dict.fromkeys(threads or [choose_threads(None) or physical_cores()])),
        batch=tuple(dict.fromkeys(batch or [1])),
        seconds=seconds,
        against=against,
        provider=provider,
    )
    reporter = Reporter(quiet=quiet)
    with _open_pictures(pictures, reporter) as cycle:
        report = measure(models, cycle, settings, reporter)
    _print_report(report, as_json, reporter)
    if cycle.unreadable or not all(result.reproduces for result in report.results):
        raise typer.Exit(FINDING)


def _check_options(seconds: float, against: str | None) -> None:
    from tgems_edge.bench.measure import FULL

    if not 0 < seconds <= MOST_SECONDS:  # also refuses nan
        raise InputError(f"--seconds {seconds:g}: give a number above 0, at most {MOST_SECONDS:g}")
    if against is not None and against != FULL and not Path(against).is_file():
        raise InputError(
            f"--against {against}: no such file; give full, or the file of a full tower; "
            "`python -m tgems_edge.bench.make_tower full ViT-B-32 full.onnx` exports one on a workstation"
        )


@contextmanager
def _open_pictures(folder: Path | None, reporter: Reporter) -> Iterator[PictureCycle]:
    """Yield the pictures of a folder, or drawn ones, which are deleted at the end."""
    from tgems_edge.bench.pictures import draw_pictures, pictures_from_folder

    if folder:
        yield pictures_from_folder(folder, reporter)
    else:
        with TemporaryDirectory(prefix="tgems-edge-") as drawn:
            yield draw_pictures(Path(drawn), reporter)


def _print_report(report: Report, as_json: bool, reporter: Reporter) -> None:
    from tgems_edge.cli.bench_table import as_lines, warnings

    if as_json:
        print_json(asdict(report))
    else:
        print_lines(as_lines(report))
    for warning in warnings(report.platform):
        reporter.warn(warning)
    for result in report.results:
        if result.error:
            report_error(result.error)
