"""`tgems-edge bench` for the built-in file and for exit 5 of ViT-B-32, beside the full image towers.

    python benchmarks/device.py

The files of ViT-B-32 are made as users make theirs, with `train` and `export`, but of random weights and
drawn pictures, on which neither start nor speed depends. Ten minutes on two cores that do nothing else, 4 GB
of memory, 2 GB of temporary files. Expect the first label of exit 5 in INT8 a third of the way to that of the
full tower.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from measuring.commands import CLASSES, ENCODER, LAYER, make_files, run
from measuring.machine import int8_target
from measuring.options import Quick
from measuring.result import save

from tgems_edge.model_file.default import built_in_model

BUILT_IN, FP32, INT8 = "built-in file", f"{ENCODER}, exit {LAYER}, fp32", f"{ENCODER}, exit {LAYER}, INT8"

Report = dict[str, Any]


def measure(files: dict[str, Path], seconds: float, folder: Path) -> Report:
    """Run `bench` on the files and name them by what they are."""
    options = [("--threads", 1), ("--threads", 2), ("--batch", 1), ("--batch", 16), ("--seconds", seconds)]
    flat = [value for option in options for value in option]
    printed = run("bench", *files.values(), "--against", "full", *flat, "--json", cache=folder / "cache")
    report: Report = json.loads(printed)
    names = {str(path): name for name, path in files.items()} | {"built-in demo file": BUILT_IN}
    for result in report["results"]:
        result["name"] = names.get(result["name"], result["name"])
    return report


def start_rows(report: Report) -> list[dict[str, object]]:
    """One row for each file: its size and how it starts."""
    return [
        {
            "file": result["name"],
            "mb": result["file"]["bytes"] / 1e6,
            "first_label_ms": result["start"]["first_label"],
            "session_ms": result["start"]["session"]["median"],
            "first_run_ms": result["start"]["first_run"]["median"],
            "peak_mb": result["start"]["peak"] / 1e6,
        }
        for result in report["results"]
    ]


def case_rows(report: Report) -> list[dict[str, object]]:
    """One row for each file in each case."""
    rows = []
    for number in range(len(report["results"][0]["cases"])):
        for result in report["results"]:
            case = result["cases"][number]
            faster = case["times_faster"] or {"run": 1.0, "inference": 1.0}
            rows.append(
                {
                    "threads": case["threads"],
                    "batch": case["batch"],
                    "file": result["name"],
                    **{f"{quantile}_ms": case["latency"][quantile] for quantile in ("p50", "p90", "p99")},
                    "runs": case["rounds"],
                    "pictures_per_second": case["pictures_per_second"],
                    "stages_ms": {stage: times["p50"] for stage, times in case["stages"].items()},
                    "faster": faster["run"],
                    "inference_faster": faster["inference"],
                    "peak_mb": case["memory"]["peak"] / 1e6,
                    "steady_mb": case["memory"]["steady"] / 1e6,
                }
            )
    return rows


def main(
    seconds: Annotated[float, typer.Option(help="For each file in each case.")] = 10.0, quick: Quick = False
) -> None:
    """Measure the files; quickly, the built-in one alone."""
    target = int8_target()
    int8 = ("--precision", "int8", "--target", target)
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = {BUILT_IN: built_in_model()}
        if not quick:
            files |= make_files(folder, {FP32: (), INT8: int8})
        report = measure(files, 0.05 if quick else seconds, folder)
    facts = {
        "encoder": ENCODER,
        "layer": LAYER,
        "classes": CLASSES,
        "target": target,
        "starts": report["results"][0]["start"]["runs"],
    }
    save("device", {"starts": start_rows(report), "cases": case_rows(report)}, facts, quick=quick)


if __name__ == "__main__":
    typer.run(main)
