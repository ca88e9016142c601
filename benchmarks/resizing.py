"""Resizing in the graph: the products that `--input image` writes against ONNX's `Resize`.

    python benchmarks/resizing.py

Noise of four sizes for a model of 224x224, shortest side, bicubic; both graphs in turn, with one thread and
two. Memory is what a run in a process of its own adds to what it held with the picture and the graph loaded.
Two minutes. Expect the products to take as long for small pictures, half to four fifths of the time for large
ones, and more memory.
"""

from __future__ import annotations

import sys
from functools import partial
from math import isqrt
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from measuring.memory import PROCESSES, peak_of_program
from measuring.result import save
from measuring.timing import Times, time_in_turn
from onnx import parser

from tgems_edge.model_file.card import Preprocessing
from tgems_edge.model_file.gate import IMAGE
from tgems_edge.progress import Reporter
from tgems_edge.runtime.decoding.limits import MAX_PIXELS
from tgems_edge.runtime.session import open_session
from tgems_export.exporting.graph.resizing import resizing_graph

MODEL = Preprocessing((224, 224), "shortest", "bicubic", 0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SIDE = isqrt(MAX_PIXELS)
PICTURES = ((500, 375), (1920, 1080), (4000, 3000), (SIDE, SIDE))  # width and height, up to the limit
THREADS = (1, 2)
SECONDS = 12.0  # for each size and number of threads
LEAST_ROUNDS = 7
RESIZE, PRODUCTS = "Resize", "products"

# The same resizing and cropping, in the operator that is made for it.
WITH_RESIZE = """
<ir_version: 8, opset_import: ["": 18]>
resizing (uint8[H, W, 3] image) => (uint8[1, 224, 224, 3] pixels) {
    size = Shape <end = 2> (image)
    model = Constant <value_ints = [224, 224]> ()
    short = ReduceMin <keepdims = 1> (size)
    scaled = Mul (size, model)
    resized = Div (scaled, short)
    planes = Transpose <perm = [2, 0, 1]> (image)
    zero = Constant <value_ints = [0]> ()
    batch = Unsqueeze (planes, zero)
    batch_size = Constant <value_ints = [1, 3]> ()
    sizes = Concat <axis = 0> (batch_size, resized)
    resampled = Resize <mode = "cubic", antialias = 1, exclude_outside = 1, cubic_coeff_a = -0.5,
        coordinate_transformation_mode = "half_pixel"> (batch, , , sizes)
    surplus = Sub (resized, model)
    two = Constant <value_ints = [2]> ()
    start = Div (surplus, two)
    end = Add (start, model)
    axes = Constant <value_ints = [2, 3]> ()
    cropped = Slice (resampled, start, end, axes)
    pixels = Transpose <perm = [0, 2, 3, 1]> (cropped)
}
"""
RUN = """
import sys
from pathlib import Path
import numpy as np
from tgems_edge.runtime.session import open_session
session = open_session(Path(sys.argv[1]), threads=1)
picture = np.ones((int(sys.argv[3]), int(sys.argv[2]), 3), np.uint8)
for _ in range(int(sys.argv[4])):
    session.run(None, {"image": picture})
"""


def measure_times(
    files: dict[str, Path], width: int, height: int, threads: int, *, quick: bool
) -> list[dict[str, object]]:
    """One row a graph."""
    shape = (height, width, 3)
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sessions = {name: open_session(file, threads=threads) for name, file in files.items()}
    runs = {name: partial(session.run, None, {IMAGE: picture}) for name, session in sessions.items()}
    for run in runs.values():
        run()
    seconds = time_in_turn(
        runs,
        f"{width}x{height}, threads: {threads}",
        Reporter(),
        least_rounds=1 if quick else LEAST_ROUNDS,
        seconds=0 if quick else SECONDS,
    )
    times = Times(1, threads, seconds)
    size = f"{width}×{height}"
    return [{"picture": size, "graph": name, **times.row(name, RESIZE)} for name in runs]


def measure_memory(file: Path, width: int, height: int) -> float:
    """Megabytes that running a graph adds."""
    loaded, run = (
        max(peak_of_program(RUN, file, width, height, runs) for _ in range(PROCESSES)) for runs in (0, 2)
    )
    return run - loaded


def main(*, quick: bool) -> None:
    """Measure both graphs; quickly, with the smallest picture."""
    graphs = {RESIZE: parser.parse_model(WITH_RESIZE), PRODUCTS: resizing_graph(MODEL, 18)}
    rows: list[dict[str, object]] = []
    with TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in graphs}
        for name, graph in graphs.items():
            onnx.save(graph, files[name])
        for width, height in PICTURES[:1] if quick else PICTURES:
            memory = {name: measure_memory(file, width, height) for name, file in files.items()}
            for threads in THREADS:
                for row in measure_times(files, width, height, threads, quick=quick):
                    rows.append({**row, "memory_mb": memory[str(row["graph"])]})
    save("resizing", {"graphs": rows}, {"size": "224×224"}, quick=quick)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
