"""From process start to printed label, and what that takes of memory.

    python benchmarks/cold_start.py

The built-in file and exit 5 of ViT-B-32 in INT8, whose weights are random, so that no network is needed.
Whole processes, interleaved, beside the imports that no program with onnxruntime can avoid. Two minutes,
most of them to make the INT8 file. Writes benchmarks/results/cold_start.md.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from report import write_report

import tgems_edge

RUNS = 20
# Not `built_in_model()`, which loads numpy: a child counts our memory as its own.
BUILT_IN = Path(tgems_edge.__file__).parent / "demo" / "model.onnx"
PICTURE = Path(__file__).parent.parent / "examples" / "chelsea.jpg"
COMMAND = [sys.executable, "-m", "tgems_edge"]
IMPORTS = "import numpy, PIL.Image, onnxruntime"
ENCODER = ["--encoder", "ViT-B-32", "--pretrained", "random"]

CLASSIFY = "tgems-edge classify PICTURE"
CLASSIFY_INT8 = f"{CLASSIFY}, ViT-B-32 exit 5 INT8"
AIMS = {CLASSIFY: (500, 120), CLASSIFY_INT8: (800, 120)}  # milliseconds at the median, megabytes at most

# Draws an image folder of noise of some strength; in a process of its own, for the same reason as above.
DRAW = """
import sys
from pathlib import Path
from PIL import Image
for number in range(100):
    folder = Path(sys.argv[1], f"class {number % 10}")
    folder.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((256, 224), float(sys.argv[2])).convert("RGB").save(folder / f"{number}.jpg")
"""


def make_int8(folder: Path) -> Path:
    """Exit 5 of ViT-B-32 in INT8, made as a user would, with a head that has learned next to nothing."""
    pictures, others = folder / "pictures", folder / "others"  # what a head learned from does not calibrate
    heads, model = folder / "heads", folder / "model.onnx"
    train = ["train", pictures, *ENCODER, "--pool", "cls", "--epochs", "1", "--out", heads]
    export = ["export", "--head", heads, *ENCODER, "--precision", "int8", "--calibration", others]
    cache = os.environ | {"TGEMS_CACHE_DIR": str(folder / "cache")}
    for drawn, strength in ((pictures, "80"), (others, "90")):
        subprocess.run([sys.executable, "-c", DRAW, drawn, strength], check=True)
    for command in (train, [*export, "--output", model]):
        subprocess.run([*COMMAND, *command], check=True, env=cache)
    return model


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


def measure_all(programs: dict[str, list[str | Path]]) -> dict[str, list[tuple[float, float]]]:
    """Runs all programs in turn; the first round, which warms the file cache, does not count."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(RUNS + 1):
        for name, command in programs.items():
            runs[name].append(measure(command))
    return {name: figures[1:] for name, figures in runs.items()}


def main() -> None:
    """Measure whole processes."""
    with TemporaryDirectory() as folder:
        runs = measure_all(
            {
                "python -c pass": [sys.executable, "-c", "pass"],
                IMPORTS: [sys.executable, "-c", IMPORTS],
                "tgems-edge --help": [*COMMAND, "--help"],
                CLASSIFY: [*COMMAND, "classify", "--model", BUILT_IN, PICTURE],
                CLASSIFY_INT8: [*COMMAND, "classify", "--model", make_int8(Path(folder)), PICTURE],
            }
        )
    rows, verdicts = [], []
    for name, figures in runs.items():
        times = sorted(time for time, _ in figures)
        median = statistics.median(times)
        memory = max(peak for _, peak in figures)
        rows.append([name, f"{times[0]:.0f}", f"{median:.0f}", f"{times[-1]:.0f}", f"{memory:.0f}"])
        if name in AIMS:
            aims = zip((median, memory), AIMS[name], ("ms", "MB"), strict=True)
            verdicts.append(f"{name}: " + ", ".join(_verdict(*aim) for aim in aims) + ".")
    write_report(
        "cold_start",
        "Cold start",
        "python benchmarks/cold_start.py",
        f"{RUNS} runs each, in turn, after one to warm the file cache. {' '.join(verdicts)}",
        ["program", "ms, least", "ms, median", "ms, most", "MB, peak"],
        rows,
    )


def _verdict(measured: float, aim: float, unit: str) -> str:
    return f"{measured:.0f} {unit} of the {aim} aimed at, {'kept' if measured <= aim else 'exceeded'}"


if __name__ == "__main__":
    main()
