"""`tgems-edge bench` for the built-in file and for exit 5 of ViT-B-32, beside the full image towers.

    python benchmarks/device.py

The files of ViT-B-32 are made as users make theirs, with `train` and `export`, but of random weights and
drawn pictures, on which neither start nor speed depends. Ten minutes on two cores that do nothing else, 4 GB
of memory, 2 GB of temporary files. Writes benchmarks/results/device.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from report import table, write_report

from tgems_edge.machine import describe
from tgems_edge.model import built_in_model
from tgems_export.pictures import SHAPES, draw

ENCODER, LAYER = "ViT-B-32", 5
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAINING = 20  # pictures a class: a head of this speed and size, of whatever accuracy
CALIBRATION = 64  # pictures that INT8 finds its ranges on

BUILT_IN, FP32, INT8 = "built-in file", f"{ENCODER}, exit {LAYER}, fp32", f"{ENCODER}, exit {LAYER}, INT8"
AIMS = {BUILT_IN: 0.5, INT8: 0.8}  # seconds to the first label
AIMED_PEAK = 120.0  # MB, of the INT8 file of ViT-B-32 with single pictures

Report = dict[str, Any]


def target() -> str:
    """Whose integers suit this processor."""
    machine = describe()
    if machine.architecture == "aarch64":
        return "arm64"
    return "x86-vnni" if any("vnni" in feature for feature in machine.features) else "generic"


def run(*arguments: object, folder: Path) -> str:
    """A command of ours, with a cache of its own; its standard output."""
    command = [sys.executable, "-m", "tgems_edge", *map(str, arguments)]
    environment = {**os.environ, "TGEMS_CACHE_DIR": str(folder / "cache")}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def make_files(folder: Path) -> dict[str, Path]:
    """Exit 5 of ViT-B-32 in fp32 and in INT8."""
    for number in range(TRAINING * len(CLASSES)):
        save_drawn(number, folder / "training" / CLASSES[number % len(CLASSES)])
    for number in range(CALIBRATION):
        save_drawn(100_000 + number, folder / "calibration")
    heads = folder / "heads"
    encoder = ("--encoder", ENCODER, "--pretrained", "random", "--layer", LAYER)
    run("train", folder / "training", *encoder, "--pool", "cls", "--epochs", 1, "--out", heads, folder=folder)
    int8 = ("--precision", "int8", "--calibration", folder / "calibration", "--target", target())
    files = {FP32: folder / "fp32.onnx", INT8: folder / "int8.onnx"}
    for path, options in zip(files.values(), ((), int8), strict=True):
        run("export", *encoder, "--head", heads, *options, "--output", path, folder=folder)
    return files


def save_drawn(seed: int, folder: Path) -> None:
    """Writes a picture that is drawn from a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    draw(seed, *SHAPES[seed % len(SHAPES)]).save(folder / f"{seed}.jpg")


def measure(files: dict[str, Path], seconds: float, folder: Path) -> Report:
    """What `bench` says of the files, by names that say what they are."""
    options = [("--threads", 1), ("--threads", 2), ("--batch", 1), ("--batch", 16), ("--seconds", seconds)]
    flat = [value for option in options for value in option]
    report: Report = json.loads(
        run("bench", *files.values(), "--against", "full", *flat, "--json", folder=folder)
    )
    names = {str(path): name for name, path in files.items()} | {"built-in demo file": BUILT_IN}
    for result in report["results"]:
        result["name"] = names.get(result["name"], result["name"])
    return report


def starts(report: Report) -> Iterator[list[str]]:
    """One row for each file: its size and how it starts."""
    for result in report["results"]:
        start = result["start"]
        first = start["first_label"]
        yield [
            result["name"],
            f"{result['file']['bytes'] / 1e6:.1f}",
            f"{first['median']:.0f} ({first['least']:.0f} to {first['most']:.0f})",
            f"{start['session']['median']:.0f}",
            f"{start['first_run']['median']:.1f}",
            f"{start['peak'] / 1e6:.0f}",
        ]


def cases(report: Report) -> Iterator[list[str]]:
    """One row for each file in each case."""
    for number in range(len(report["results"][0]["cases"])):
        for result in report["results"]:
            case = result["cases"][number]
            faster = case["times_faster"] or {"run": 1.0, "inference": 1.0}
            yield [
                str(case["threads"]),
                str(case["batch"]),
                result["name"],
                *(f"{case['latency'][quantile]:.1f}" for quantile in ("p50", "p90", "p99")),
                str(case["rounds"]),
                f"{case['pictures_per_second']:.1f}",
                *(f"{times['p50']:.2f}" for times in case["stages"].values()),
                *(f"{faster[what]:.2f}" for what in ("run", "inference")),
                *(f"{case['memory'][when] / 1e6:.0f}" for when in ("peak", "steady")),
            ]


def verdicts(report: Report) -> str:
    """The aims, and how it came out."""
    results = {result["name"]: result for result in report["results"]}
    said = []
    for name, aim in AIMS.items():
        seconds = results[name]["start"]["first_label"]["median"] / 1000
        said.append(f"{name}, first label in {aim:g} s: {seconds:.2f}, {met(seconds <= aim)}.")
    peaks = [results[INT8]["start"]["peak"]]
    peaks += [case["memory"]["peak"] for case in results[INT8]["cases"] if case["batch"] == 1]
    peak = max(peaks) / 1e6
    said.append(f"{INT8}, {AIMED_PEAK:g} MB at most: {peak:.0f}, {met(peak <= AIMED_PEAK)}.")
    return "The aims. " + " ".join(said)


def met(reached: bool) -> str:
    """In words."""
    return "met" if reached else "missed"


def main(seconds: Annotated[float, typer.Option(help="For each file in each case.")] = 10.0) -> None:
    """Measure the files."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = {BUILT_IN: built_in_model()} | make_files(folder)
        report = measure(files, seconds, folder)
    stages = [f"{stage}, ms" for stage in report["results"][0]["cases"][0]["stages"]]
    write_report(
        "device",
        "On the device: start, latency and memory",
        "python benchmarks/device.py" + ("" if seconds == 10 else f" --seconds {seconds:g}"),
        f"{verdicts(report)}\n\n"
        f"`tgems-edge bench` with the built-in file and exit {LAYER} of {ENCODER}, random weights, a head of "
        f"{len(CLASSES)} classes, INT8 for {target()}. Full is open_clip's own tower through torch.onnx. "
        f"Each was started {report['results'][0]['start']['runs']} times in turn, with one thread: from the "
        "start of Python to the first label, median, least and most. What the command adds to that: "
        "cold_start.md.",
        ["file", "MB", "first label, ms", "of it session", "of it first run", "MB, peak"],
        list(starts(report)),
        "Each file in turn on the same drawn JPEGs of 640x480, by threads and batch, in ms of a run. Times "
        "faster than the full tower of its encoder: the median of the ratios within a round. Memory is that "
        "of a process with one file, at its peak and after a few runs.\n\n"
        + table(
            [
                *("threads", "batch", "file", "p50, ms", "p90", "p99", "runs", "pictures/s"),
                *stages,
                *("times faster", "in inference", "MB, peak", "MB, steady"),
            ],
            list(cases(report)),
        ),
    )


if __name__ == "__main__":
    typer.run(main)
