"""Speed, memory and size of early exits beside the full image tower and beside small towers.

    python benchmarks/speed.py

The rival of the exits is the *plain* tower: open_clip's own module, exported by torch.onnx and by nothing
of ours. Small towers, exported in the same plain way, are what one would take instead. Random weights, so
no network is needed. 25 minutes on two cores, 12 GB of memory, 4 GB of temporary files. Writes
benchmarks/results/speed.md, the ratios, and speed_vit_b_32.md and speed_vit_l_14.md, the times behind them.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import onnx
import onnxruntime
import open_clip
import torch
from onnx import TensorProto, helper, numpy_helper
from report import write_report
from timm.utils import reparameterize_model
from torch import Tensor, nn

from tgems_edge.errors import EncoderError
from tgems_edge.progress import Reporter
from tgems_edge.session import open_session
from tgems_export.encoders.encoder import RANDOM, Encoder, load_encoder
from tgems_export.encoders.towers.families import read_tower
from tgems_export.exporting.graph.exit_graph import ExitGraph
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.full_tower import export_plain
from tgems_export.heads.tgem import TGemHead as Head
from tgems_export.encoders.towers.operations import count_tower

COMMAND = "python benchmarks/speed.py"
ARCHITECTURES = ("ViT-B-32", "ViT-L-14")
SMALL_TOWERS = ("MobileCLIP2-S0", "PE-Core-T-16-384")
EXITS = (3, 5, 8)
BATCHES = (1, 16)
THREADS = (1, 2)
CLASSES = 10
K = 128
OPSET = 18

AIMED_EXIT, AIM = "exit 5", 3.0  # times faster than the plain full tower
SECONDS = 90.0  # for one batch size and number of threads of one architecture, if LEAST_ROUNDS fit in
LEAST_ROUNDS = 2
PROCESSES = 3  # to measure memory with; the system may take pages back meanwhile

EAGER, PLAIN, OURS = "full, PyTorch", "full, plain ONNX", "full, our ONNX"
MATMULS = ("torch matmul", "onnxruntime MatMul")
MATMUL_SIZE = 1024  # N of the N×N products that measure the machine's peak

# Opens a file, runs it on one picture and prints the peak of its memory in kilobytes. Not what wait4 says:
# that counts the memory of the parent, from which the child was forked.
CHILD = """
import sys
from pathlib import Path
import numpy as np
from tgems_edge.session import open_session
session = open_session(Path(sys.argv[1]), threads=1)
value = session.get_inputs()[0]
kind = np.uint8 if value.type == "tensor(uint8)" else np.float32
session.run(None, {value.name: np.zeros([1, *value.shape[1:]], kind)})
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Model:
    """An ONNX file and what it takes."""

    name: str
    path: Path
    operations: int  # floating-point, of the products, for one picture
    peak: float  # megabytes of a process that runs it on one picture


@dataclass(frozen=True)
class Cell:
    """All contenders at one batch size and number of threads, in turn."""

    batch: int
    threads: int
    times: dict[str, list[float]]  # seconds of every round, by contender

    @property
    def rounds(self) -> int:
        """How often each contender ran."""
        return len(self.times[PLAIN])

    def faster(self, name: str, than: str = PLAIN) -> float:
        """How many times faster than another: within a round, both have the same neighbours."""
        return median(other / own for other, own in zip(self.times[than], self.times[name], strict=True))


def image_tower(encoder: Encoder) -> nn.Module:
    """open_clip's own image tower."""
    return encoder.tower.module


def exit_graph(encoder: Encoder, layer: int) -> ExitGraph:
    """The graph of one exit, with an untrained head and drawn class embeddings."""
    torch.manual_seed(0)
    head = Head(encoder.width, encoder.embedding_width, K).eval()
    text = nn.functional.normalize(torch.randn(CLASSES, encoder.embedding_width), dim=-1)
    return ExitGraph(encoder, layer, "cls", head, text)


def export_exit(encoder: Encoder, layer: int, path: Path) -> None:
    """Writes the graph of one exit."""
    onnx.save(to_onnx(exit_graph(encoder, layer), encoder.preprocessing.size, OPSET), path)


def count_operations(path: Path) -> int:
    """Floating-point operations of all products of a graph for one picture; a multiply-add is two."""
    model = onnx.load(path)
    graph = model.graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    del graph.value_info[:]  # shapes with a free batch
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            weight.ClearField("raw_data")  # shapes do not depend on it, and inference would copy it
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {weight.name: list(weight.dims) for weight in graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]

    multiply_adds = 0
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        left, right, result = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
        if not all([*left, *right, *result]):
            raise ValueError(f"{path.name}: the shapes of {node.name} are not known")
        if node.op_type == "MatMul":
            depth = left[-1]
        elif node.op_type == "Gemm":
            depth = math.prod(left) // result[0]
        else:
            depth = math.prod(right[1:])
        multiply_adds += depth * math.prod(result)
    return 2 * multiply_adds


def check_operations(counted: int, tower: nn.Module, size: tuple[int, int]) -> None:
    """Raises ValueError where the graph of a tower that can be cut has other operations than the tower."""
    try:
        expected = count_tower(read_tower(tower), size)
    except EncoderError:
        return  # a small tower of stages
    if not math.isclose(counted, expected, rel_tol=1e-3):
        raise ValueError(f"{counted} operations in the ONNX graph, {expected} in the tower")


def peak_memory(path: Path) -> float:
    """Megabytes of a process that opens a file and runs it on one picture: the most of several."""
    command = [sys.executable, "-c", CHILD, path]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(PROCESSES)]
    return max(int(run.stdout) for run in runs) / 1024


def export_architecture(name: str, encoder: Encoder, folder: Path, reporter: Reporter) -> list[Model]:
    """The files of the plain tower, of our full depth and of the exits."""
    models = [_plain_model(PLAIN, image_tower(encoder), encoder.preprocessing.size, folder, reporter)]
    layers = {OURS: encoder.blocks} | {f"exit {layer}": layer for layer in EXITS}
    for title, layer in layers.items():
        reporter.say(f"{name}: exporting {title}")
        path = folder / f"{title}.onnx"
        export_exit(encoder, layer, path)
        models.append(Model(title, path, count_operations(path), peak_memory(path)))
    return models


def export_small_tower(name: str, folder: Path, reporter: Reporter) -> Model:
    """The file of a small tower; the branches that training needs are merged, as its authors deploy it."""
    tower = reparameterize_model(open_clip.create_model(name, load_weights=False).visual.eval())
    height, width = tower.image_size
    return _plain_model(f"{name}, plain ONNX", tower, (height, width), folder, reporter)


def _plain_model(
    name: str, tower: nn.Module, size: tuple[int, int], folder: Path, reporter: Reporter
) -> Model:
    reporter.say(f"exporting {name}")
    path = folder / f"{name}.onnx"
    export_plain(tower, size, path)
    operations = count_operations(path)
    check_operations(operations, tower, size)
    return Model(name, path, operations, peak_memory(path))


def measure(
    name: str, tower: nn.Module, models: Sequence[Model], threads: int, reporter: Reporter
) -> list[Cell]:
    """Runs everything at every batch size."""
    torch.set_num_threads(threads)
    sessions = {model.name: open_session(model.path, threads=threads) for model in models}
    shape = sessions[PLAIN].get_inputs()[0].shape[1:]
    cells = []
    for batch in BATCHES:
        runs = {EAGER: partial(_run_eager, tower, torch.randn(batch, *shape))}
        runs |= {title: session_run(session, batch) for title, session in sessions.items()}
        runs |= _matmul_runs(threads)
        title = f"{name}, batch {batch}, threads {threads}"
        cells.append(Cell(batch, threads, time_in_turn(runs, title, reporter)))
    return cells


@torch.inference_mode()
def _run_eager(tower: nn.Module, images: Tensor) -> None:
    tower(images)


def session_run(session: onnxruntime.InferenceSession, batch: int) -> Callable[[], object]:
    """Runs a file on drawn pictures."""
    value, rng = session.get_inputs()[0], np.random.default_rng(0)
    shape = (batch, *value.shape[1:])
    if value.type == "tensor(uint8)":
        pictures = rng.integers(0, 256, shape, dtype=np.uint8)
    else:
        pictures = rng.standard_normal(shape, dtype=np.float32)
    return partial(session.run, None, {value.name: pictures})


def _matmul_runs(threads: int) -> dict[str, Callable[[], object]]:
    """One large product, which is as near to the machine's peak as software comes."""
    shape = (MATMUL_SIZE, MATMUL_SIZE)
    left, right = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["left", "right"], ["product"])],
        "matmul",
        [helper.make_tensor_value_info("left", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    session = open_session(model.SerializeToString(), threads=threads)
    products = (
        partial(torch.matmul, torch.from_numpy(left), torch.from_numpy(right)),
        partial(session.run, None, {"left": left}),
    )
    return dict(zip(MATMULS, products, strict=True))


def time_in_turn(
    runs: dict[str, Callable[[], object]], title: str, reporter: Reporter, least_rounds: int = LEAST_ROUNDS
) -> dict[str, list[float]]:
    """Seconds of every run in every round, each round in another order, as many rounds as time allows."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0).shuffle

    def run_round() -> float:
        shuffle(order)
        for name in order:
            started = perf_counter()
            runs[name]()
            times[name].append(perf_counter() - started)
        return sum(elapsed[-1] for elapsed in times.values())

    rounds = max(least_rounds, int(SECONDS / run_round()))
    with reporter.task(title, rounds, done=1, unit="rounds") as task:
        for _ in range(rounds - 1):
            run_round()
            task.advance(1)
    return times


def report_times(name: str, models: Sequence[Model], cells: Sequence[Cell]) -> None:
    """Writes the table of one architecture, with all times."""
    operations = {model.name: model.operations for model in models}
    operations[EAGER] = operations[PLAIN]
    peaks = {threads: _peak([cell for cell in cells if cell.threads == threads]) for threads in THREADS}
    rows = []
    for cell in cells:
        for title in (EAGER, *(model.name for model in models)):
            times = cell.times[title]
            rate = cell.batch * operations[title] / median(times)
            rows.append(
                [
                    title,
                    cell.batch,
                    cell.threads,
                    f"{1000 * median(times):.1f}",
                    f"{1000 * np.percentile(times, 90):.1f}",
                    f"{cell.faster(title):.2f}",
                    f"{operations[PLAIN] / operations[title]:.2f}",
                    f"{rate / 1e9:.0f}",
                    f"{100 * rate / peaks[cell.threads]:.0f}",
                ]
            )
    shown = ", ".join(f"{peak / 1e9:.0f} GFLOP/s with {threads}" for threads, peak in peaks.items())
    rounds = ", ".join(f"{c.rounds} (batch {c.batch}, threads {c.threads})" for c in cells)
    write_report(
        f"speed_{name.lower().replace('-', '_')}",
        f"Speed of {name}",
        COMMAND,
        "Plain is open_clip's own module through torch.onnx, on pictures that are scaled and normalised "
        "already; ours scales and normalises inside, and ends with a head of "
        f"{CLASSES} classes. All in turn, each round in another order; times faster is the median of the "
        "ratios within a round. Operations are those of matrix products and "
        "convolutions, counted in the graphs. 100 % is the best of torch's and onnxruntime's products of "
        f"{MATMUL_SIZE}×{MATMUL_SIZE} matrices in the same rounds: {shown} threads. Rounds: {rounds}.",
        [
            "model",
            "batch",
            "threads",
            "ms, median",
            "ms, p90",
            "times faster than plain",
            "times fewer operations",
            "GFLOP/s",
            "% of peak",
        ],
        rows,
    )


def _peak(cells: Sequence[Cell]) -> float:
    """Operations a second of the fastest large product."""
    return 2 * MATMUL_SIZE**3 / min(min(cell.times[name]) for cell in cells for name in MATMULS)


def ratios(name: str, models: Sequence[Model], cells: Sequence[Cell]) -> list[list[str]]:
    """One row for each contender: how many times faster than the plain full tower, in every cell."""
    plain = next(model for model in models if model.name == PLAIN)
    rows = [[f"{name}, {EAGER}", "", "", "1.00", *(f"{cell.faster(EAGER):.2f}" for cell in cells)]]
    for model in models:
        rows.append(
            [
                model.name if model.name.startswith(SMALL_TOWERS) else f"{name}, {model.name}",
                f"{model.path.stat().st_size / 1e6:.0f}",
                f"{model.peak:.0f}",
                f"{plain.operations / model.operations:.2f}",
                *(f"{cell.faster(model.name):.2f}" for cell in cells),
            ]
        )
    return rows


def verdict(name: str, models: Sequence[Model], cells: Sequence[Cell]) -> str:
    """How the aimed exit did."""
    operations = {model.name: model.operations for model in models}
    ratio = operations[PLAIN] / operations[AIMED_EXIT]
    faster = [cell.faster(AIMED_EXIT) for cell in cells]
    return (
        f"{AIMED_EXIT.capitalize()} of {name} has {ratio:.2f} times fewer operations than the plain full "
        f"tower and is {min(faster):.2f} to {max(faster):.2f} times faster: {AIM:g} or more in "
        f"{sum(times >= AIM for times in faster)} of {len(cells)} cases, and no less than the ratio of "
        f"operations in {sum(times >= ratio for times in faster)}."
    )


def main() -> None:
    """Measure both architectures beside the small towers."""
    if "OMP_NUM_THREADS" in os.environ:
        sys.exit("unset OMP_NUM_THREADS: with it, PyTorch on two threads is many times slower")
    reporter = Reporter()
    rows, verdicts = [], []
    with TemporaryDirectory() as folder:
        small = [export_small_tower(name, Path(folder), reporter) for name in SMALL_TOWERS]
        for name in ARCHITECTURES:
            with TemporaryDirectory(dir=folder) as own:
                encoder = load_encoder(name, RANDOM)
                models = export_architecture(name, encoder, Path(own), reporter)
                contenders, tower = [*models, *small], image_tower(encoder)
                cells = [c for n in THREADS for c in measure(name, tower, contenders, n, reporter)]
                rows += ratios(name, contenders, cells)
            verdicts.append(verdict(name, models, cells))
            report_times(name, contenders, cells)
    write_report(
        "speed",
        "Speed, size and memory of early exits",
        COMMAND,
        f"The aim, set for ViT-B-32 in fp32: {AIMED_EXIT} at least {AIM:g} times faster than the plain full "
        f"tower, and by no less than the ratio of their operations. {' '.join(verdicts)}\n\n"
        "Each column on the right: how many times faster than the plain full tower of the architecture "
        "above, the median of the ratios within a round; the small towers ran among either. Plain is the "
        "library's own module through torch.onnx, on pictures that are scaled and normalised already; ours "
        f"scales and normalises inside and ends with a head of {CLASSES} classes. Operations are those of "
        "matrix products and convolutions for one picture, counted in the graphs; for the plain files, what "
        "torch's own counter finds. Peak: resident memory of a process that opens the file with one thread "
        f"and runs it on one picture, Python and onnxruntime included, the most of {PROCESSES}.",
        [
            "fp32",
            "MB",
            "MB, peak",
            "times fewer operations",
            *(f"batch {batch}, threads {threads}" for threads in THREADS for batch in BATCHES),
        ],
        rows,
    )


if __name__ == "__main__":
    main()
