"""Time from process start to printed label, and its memory.

    python benchmarks/cold_start.py

The built-in file and exit 5 of ViT-B-32 in INT8, whose weights are random, so that no network is needed.
Whole processes, interleaved, beside the imports that no program with onnxruntime can avoid. Two minutes,
most of them to make the INT8 file. Expect the label of the built-in file after twice the time of the imports.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from measuring.commands import COMMAND, ENCODER, LAYER, make_files
from measuring.result import save

import tgems_edge

RUNS = 20
# Not `built_in_model()`, which loads numpy: see measuring/commands.py.
BUILT_IN = Path(tgems_edge.__file__).parent / "demo" / "model.onnx"
PICTURE = Path(__file__).parent.parent / "examples" / "chelsea.jpg"
IMPORTS = "import numpy, PIL.Image, onnxruntime"
INT8 = f"tgems-edge classify PICTURE, {ENCODER} exit {LAYER} INT8"


def measure(command: list[str | Path]) -> tuple[float, float]:
    """Return milliseconds and peak resident megabytes of one run of a command."""
    started = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return 1000 * elapsed, usage.ru_maxrss / 1024


def measure_all(programs: dict[str, list[str | Path]], runs: int) -> dict[str, list[tuple[float, float]]]:
    """Run all programs in turn; the first round, which warms the file cache, does not count."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(runs + 1):
        for name, command in programs.items():
            found[name].append(measure(command))
    return {name: figures[1:] for name, figures in found.items()}


def main(*, quick: bool) -> None:
    """Measure whole processes; quickly, without the INT8 file, which takes long to make."""
    programs = {
        "python -c pass": [sys.executable, "-c", "pass"],
        IMPORTS: [sys.executable, "-c", IMPORTS],
        "tgems-edge --help": [*COMMAND, "--help"],
        "tgems-edge classify PICTURE": [*COMMAND, "classify", "--model", BUILT_IN, PICTURE],
    }
    with TemporaryDirectory() as folder:
        if not quick:
            made = make_files(Path(folder), {"int8": ("--precision", "int8")})
            programs[INT8] = [*COMMAND, "classify", "--model", made["int8"], PICTURE]
        runs = 1 if quick else RUNS
        found = measure_all(programs, runs)
    rows = []
    for name, figures in found.items():
        times = sorted(time for time, _ in figures)
        rows.append(
            {
                "program": name,
                "least_ms": times[0],
                "median_ms": statistics.median(times),
                "most_ms": times[-1],
                "peak_mb": max(peak for _, peak in figures),
            }
        )
    save("cold_start", {"programs": rows}, {"runs": runs}, quick=quick)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
