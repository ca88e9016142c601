"""Speed, memory and size of early exits beside the full image tower and beside small towers.

    python benchmarks/speed.py

The rival of the exits is the *plain* tower: open_clip's own module, exported by torch.onnx and by nothing
of ours. Small towers, exported in the same plain way, are what one would take instead. Random weights, so
no network is needed. 25 minutes on two cores, 12 GB of memory, 4 GB of temporary files. Expect exit 5 of
ViT-B-32 to be about three times as fast as the plain tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import open_clip
import torch
import typer
from measuring.files import CLASSES, PLAIN, Model, export_architecture, image_tower, plain_model
from measuring.machine import refuse_thread_limit
from measuring.memory import PROCESSES
from measuring.options import Quick
from measuring.products import MATMUL_SIZE, matmul_runs, peak_rate
from measuring.result import save
from measuring.timing import SECONDS, Times, session_run, time_in_turn
from timm.utils import reparameterize_model
from torch import Tensor, nn

from tgems_edge.progress import Reporter
from tgems_edge.runtime.session import open_session
from tgems_export.encoders.encoder import RANDOM, load_encoder

EAGER = "full, PyTorch"


@dataclass(frozen=True)
class Settings:
    """The cases that are measured, and for how long."""

    architectures: tuple[str, ...] = ("ViT-B-32", "ViT-L-14")
    small_towers: tuple[str, ...] = ("MobileCLIP2-S0", "PE-Core-T-16-384")
    batches: tuple[int, ...] = (1, 16)
    threads: tuple[int, ...] = (1, 2)
    seconds: float = SECONDS  # for one batch size and number of threads of one architecture


QUICK = Settings(("ViT-S-32",), (), seconds=0)


def export_small_tower(name: str, folder: Path, reporter: Reporter) -> Model:
    """Write a small tower; the branches that training needs are merged, as its authors deploy it."""
    reporter.say(f"exporting {name}")
    tower = reparameterize_model(open_clip.create_model(name, load_weights=False).visual.eval())
    height, width = tower.image_size
    return plain_model(f"{name}, plain ONNX", tower, (height, width), folder)


def measure(
    name: str, tower: nn.Module, models: Sequence[Model], threads: int, settings: Settings, reporter: Reporter
) -> list[Times]:
    """Run everything at every batch size."""
    torch.set_num_threads(threads)
    sessions = {model.name: open_session(model.path, threads=threads) for model in models}
    shape = sessions[PLAIN].get_inputs()[0].shape[1:]
    found = []
    for batch in settings.batches:
        runs = {EAGER: partial(run_eager, tower, torch.randn(batch, *shape))}
        runs |= {title: session_run(session, batch) for title, session in sessions.items()}
        runs |= matmul_runs(threads)
        title = f"{name}, batch {batch}, threads {threads}"
        seconds = time_in_turn(runs, title, reporter, seconds=settings.seconds)
        found.append(Times(batch, threads, seconds))
    return found


@torch.inference_mode()
def run_eager(tower: nn.Module, images: Tensor) -> None:
    """Run open_clip's own module."""
    tower(images)


def time_rows(name: str, operations: dict[str, int], found: Sequence[Times]) -> list[dict[str, object]]:
    """One row for each contender in each case, with operations a second against the machine's best."""
    peaks = {
        times.threads: peak_rate([other.seconds for other in found if other.threads == times.threads])
        for times in found
    }
    return [
        {
            "architecture": name,
            "model": title,
            **times.row(title, PLAIN),
            "fewer_operations": operations[PLAIN] / count,
            "gflops": (rate := times.batch * count / times.median(title)) / 1e9,
            "of_peak": rate / peaks[times.threads],
        }
        for times in found
        for title, count in operations.items()
    ]


def model_rows(
    name: str, models: Sequence[Model], small: Sequence[Model], found: Sequence[Times]
) -> list[dict[str, object]]:
    """One row for each contender: its size and memory, and how many times faster in every case."""
    plain = next(model for model in models if model.name == PLAIN)
    eager = {"model": f"{name}, {EAGER}", "mb": None, "peak_mb": None, "fewer_operations": 1.0}
    rows = [eager | {"faster": [times.faster(EAGER, PLAIN) for times in found]}]
    for model in (*models, *small):
        rows.append(
            {
                "model": model.name if model in small else f"{name}, {model.name}",
                "mb": model.megabytes,
                "peak_mb": model.peak,
                "fewer_operations": plain.operations / model.operations,
                "faster": [times.faster(model.name, PLAIN) for times in found],
            }
        )
    return rows


def main(quick: Quick = False) -> None:
    """Measure both architectures beside the small towers; quickly, one small one."""
    refuse_thread_limit()
    reporter, settings = Reporter(), QUICK if quick else Settings()
    models_found, times_found, rounds = [], [], []
    with TemporaryDirectory() as folder:
        small = [export_small_tower(name, Path(folder), reporter) for name in settings.small_towers]
        for name in settings.architectures:
            with TemporaryDirectory(dir=folder) as own:
                encoder = load_encoder(name, RANDOM)
                models = export_architecture(name, encoder, Path(own), reporter)
                found = [
                    times
                    for threads in settings.threads
                    for times in measure(
                        name, image_tower(encoder), [*models, *small], threads, settings, reporter
                    )
                ]
                models_found += model_rows(name, models, small, found)
            operations = {model.name: model.operations for model in (*models, *small)}
            times_found += time_rows(name, {EAGER: operations[PLAIN], **operations}, found)
            rounds.append({"architecture": name, "rounds": [times.rounds for times in found]})
    facts = {
        "architectures": settings.architectures,
        "classes": CLASSES,
        "processes": PROCESSES,
        "matmul_size": MATMUL_SIZE,
    }
    tables = {"models": models_found, "times": times_found, "rounds": rounds}
    save("speed", tables, facts, quick=quick)


if __name__ == "__main__":
    typer.run(main)
