"""`tgems-edge bench`: latency, memory and start-up of model files on this device."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from tgems_edge.cli.model_file import MOST_BATCH, Json, MaxPixels, Provider, Quiet
from tgems_edge.cli.output import print_json, print_lines, report_error
from tgems_edge.errors import InputError
from tgems_edge.model import default_model

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
        list[Path] | None, typer.Option(help="The same, as other commands have it; may repeat.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="full|FILE",
            help="Hold them against the full image tower of their encoder, which the workstation side "
            "makes, or against the file of a tower that it made elsewhere.",
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Threads of one run; may repeat. Default: $TGEMS_NUM_THREADS, else all physical cores.",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, max=MOST_BATCH, help="Pictures per run of the graph; may repeat. Default: 1."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="How long each file runs, for each number of threads and each batch.")
    ] = 10.0,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Pictures of yours: where they leave a dynamic file is no business of drawn ones. Default: "
            "drawn ones, JPEG, 640x480.",
        ),
    ] = None,
    provider: Provider = None,
    max_pixels: MaxPixels = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how fast model files are here: start, latency, throughput, memory.

    Each file is opened in fresh processes first, for its start and its memory. Then all run in turn in one
    process, so that what else the machine does slows each of them. A file that cannot be measured is
    reported, the others are, and the exit code is 1.

    Example: tgems-edge bench model.onnx --threads 1 --threads 4 --batch 1 --batch 16 --seconds 5
    """
    from tgems_edge.bench.album import draw_album, find_album
    from tgems_edge.bench.measure import FULL, Settings, measure
    from tgems_edge.cli.bench_table import as_lines, warnings
    from tgems_edge.decoding.limits import set_limit
    from tgems_edge.machine import physical_cores
    from tgems_edge.progress import Reporter
    from tgems_edge.session import choose_threads

    if not 0 < seconds <= MOST_SECONDS:  # nan is in no range
        raise InputError(f"--seconds {seconds:g}: give a number above 0, at most {MOST_SECONDS:g}")
    if against not in (None, FULL) and not Path(against).is_file():
        raise InputError(
            f"--against {against}: no such file; give full, or the file of a full tower, which "
            "`python -m tgems_edge.bench.make_tower full ViT-B-32 full.onnx` makes on a workstation"
        )
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
    with ExitStack() as stack:
        if pictures:
            album = find_album(pictures, reporter)
        else:
            drawn = stack.enter_context(TemporaryDirectory(prefix="tgems-edge-"))
            album = draw_album(Path(drawn), reporter)
        report = measure(models, album, settings, reporter)
    if as_json:
        print_json(asdict(report))
    else:
        print_lines(as_lines(report))
    for warning in warnings(report.platform):
        reporter.warn(warning)
    for result in report.results:
        if result.error:
            report_error(result.error)
    if album.unreadable or not all(result.reproduces for result in report.results):
        raise typer.Exit(FINDING)
