"""From process start to printed label with the built-in file, and what that takes of memory.

    python benchmarks/cold_start.py

Whole processes, interleaved, beside the imports that no program with onnxruntime can avoid. Half a
minute. Writes benchmarks/results/cold_start.md.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from report import write_report

import tgems_edge

RUNS = 20
MODEL = Path(tgems_edge.__file__).parent / "demo" / "model.onnx"  # without numpy: a child counts our memory
PICTURE = Path(__file__).parent.parent / "examples" / "chelsea.jpg"
COMMAND = [sys.executable, "-m", "tgems_edge"]
PROGRAMS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import numpy, PIL.Image, onnxruntime": [sys.executable, "-c", "import numpy, PIL.Image, onnxruntime"],
    "tgems-edge --help": [*COMMAND, "--help"],
    "tgems-edge classify PICTURE": [*COMMAND, "classify", "--model", MODEL, PICTURE],
}


def measure(command: list[str | Path]) -> tuple[float, float]:
    """Milliseconds and peak resident megabytes of one run of a command."""
    started = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return 1000 * elapsed, usage.ru_maxrss / 1024


def main() -> None:
    """Measure whole processes."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    for _ in range(RUNS + 1):
        for name, command in PROGRAMS.items():
            runs[name].append(measure(command))
    rows = []
    for name, figures in runs.items():
        times = sorted(time for time, _ in figures[1:])  # the first run warms the file cache
        median = statistics.median(times)
        memory = max(peak for _, peak in figures)
        rows.append([name, f"{times[0]:.0f}", f"{median:.0f}", f"{times[-1]:.0f}", f"{memory:.0f}"])
    write_report(
        "cold_start",
        "Cold start",
        "python benchmarks/cold_start.py",
        f"{RUNS} runs each, in turn, after one to warm the file cache. The aim for the built-in file is 500 "
        "ms and 120 MB on a machine of this kind.",
        ["program", "ms, least", "ms, median", "ms, most", "MB, peak"],
        rows,
    )


if __name__ == "__main__":
    main()
