"""Where one picture's time goes in the full tower and in an exit, by group of operators.

    python benchmarks/where_time_goes.py

onnxruntime's own profile of ViT-B-32 with random weights, on one thread. Two minutes. Writes
benchmarks/results/where_time_goes.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
from report import write_report
from speed import K, export_exit, image_tower

from tgems_edge.progress import Reporter
from tgems_edge.session import open_session
from tgems_export.encoders.encoder import RANDOM, load_encoder
from tgems_export.full_tower import export_plain

ARCHITECTURE = "ViT-B-32"
EXIT = 5
WARM_UP = 3
RUNS = 30

PRODUCT, ATTENTION, ACTIVATION, HEAD = (
    "matrix products with weights",
    "attention: softmax and its two products",
    "activation",
    "projection, or head and tables",
)
REST = "rest"
GROUPS = {
    "patch convolution": {"Conv", "FusedConv", "ReorderInput", "ReorderOutput"},
    PRODUCT: {"MatMul", "FusedMatMul", "Gemm", "FusedGemm"},
    ATTENTION: {"Softmax", "Attention", "MultiHeadAttention"},
    "LayerNorm": {"LayerNormalization", "SkipLayerNormalization"},
    ACTIVATION: {"Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Erf", "Tanh", "Sigmoid", "Mul", "Div"},
    "bias and residual additions": {"Add"},
    "shape juggling": {
        *{"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Split", "Concat", "Slice", "Gather"},
        *{"Shape", "Expand", "Pad", "Identity", "Constant", "ConstantOfShape", "Range", "Where"},
    },
    HEAD: set(),
    REST: set(),
}


Kernel = dict[str, Any]  # an event of onnxruntime's profile


@dataclass(frozen=True)
class Recording:
    """What onnxruntime says of each run of a file, and the clock; in milliseconds."""

    kernels: list[list[Kernel]]  # in the order in which they ran
    profiled: list[float]  # from call to return, with profiling on
    bare: list[float]  # the same without profiling


@dataclass(frozen=True)
class Profile:
    """Milliseconds of each run."""

    groups: list[Counter[str]]  # kernel time by group
    nodes: Counter[str]  # nodes by group, of one run
    profiled: list[float]  # see Recording
    bare: list[float]

    @property
    def kernels(self) -> list[float]:
        """Kernel time of all groups."""
        return [sum(times.values()) for times in self.groups]


def record(files: dict[str, Path], prefix: Path) -> dict[str, Recording]:
    """Runs files on one picture and one thread in turn, with and without profiling.

    Args:
        files: of each name.
        prefix: of the files that onnxruntime writes its profiles to.
    """
    watched = {name: _open_profiled(path, prefix) for name, path in files.items()}
    bare = {name: open_session(path, threads=1) for name, path in files.items()}
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(WARM_UP + RUNS):
        for name in files:
            picture = _picture(bare[name])
            watched[name].run(None, picture)
            started = perf_counter()
            bare[name].run(None, picture)
            times[name].append(1000 * (perf_counter() - started))

    recordings = {}
    for name in files:
        events = json.loads(Path(watched[name].end_profiling()).read_text(encoding="utf-8"))
        runs = [event for event in events if event["name"] == "model_run"][WARM_UP:]
        recordings[name] = Recording(
            kernels=[_kernels(events, run) for run in runs],
            profiled=[run["dur"] / 1000 for run in runs],
            bare=times[name][WARM_UP:],
        )
    return recordings


def profile(recording: Recording, head_width: int) -> Profile:
    """The runs by group; the head begins with the product that is `head_width` wide."""
    groups = [_grouped(nodes, head_width) for nodes in recording.kernels]
    return Profile(
        groups=[_sum_milliseconds(grouped) for grouped in groups],
        nodes=Counter(group for group, _ in groups[-1]),
        profiled=recording.profiled,
        bare=recording.bare,
    )


def _open_profiled(path: Path, prefix: Path) -> onnxruntime.InferenceSession:
    """As `open_session` does on one thread, but profiled."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = f"{prefix}-{path.stem}"
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _picture(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    value = session.get_inputs()[0]
    pixels = np.random.default_rng(0).integers(0, 256, (1, *value.shape[1:]), dtype=np.uint8)
    return {value.name: pixels if value.type == "tensor(uint8)" else pixels.astype(np.float32) / 128 - 1}


def _kernels(events: Sequence[Kernel], run: Kernel) -> list[Kernel]:
    """The kernels of one run, in the order in which they ran."""
    end = run["ts"] + run["dur"]
    return [
        event
        for event in events
        if event["name"].endswith("_kernel_time") and run["ts"] <= event["ts"] <= end
    ]


def _grouped(kernels: Sequence[Kernel], head_width: int) -> list[tuple[str, float]]:
    """Group and milliseconds of each kernel; from the head's first product on, all are the head's."""
    result, in_head = [], False
    for kernel in kernels:
        group, shape = _group(kernel["args"]), shapes(kernel["args"], "output")[0]
        in_head = in_head or (group == PRODUCT and shape[-1] == head_width)
        result.append((HEAD if in_head else group, kernel["dur"] / 1000))
    return result


def _group(kernel: dict[str, Any]) -> str:
    """The group of an operator; weights do not show among the inputs once they are packed."""
    operator, inputs = kernel["op_name"], shapes(kernel, "input")
    group = next((group for group, operators in GROUPS.items() if operator in operators), REST)
    if group == PRODUCT and len(inputs) > 1 and kernel["parameter_size"] == "0":
        return ATTENTION
    if operator == "Add" and [] in inputs:
        return ACTIVATION  # 1 + erf(x)
    return group


def shapes(kernel: dict[str, Any], of: str) -> list[list[int]]:
    """Shapes of the inputs or outputs of a kernel, of which its event's arguments tell."""
    return [shape for typed in kernel[f"{of}_type_shape"] for shape in typed.values()]


def _sum_milliseconds(grouped: Sequence[tuple[str, float]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for group, milliseconds in grouped:
        total[group] += milliseconds
    return total


def _rows(profiles: Sequence[Profile]) -> list[list[str]]:
    """Milliseconds, share and nodes of each group, then kernels against the clock."""
    rows = []
    for group in GROUPS:
        row = [group]
        for found in profiles:
            share = median(run[group] / sum(run.values()) for run in found.groups)
            milliseconds = median(run[group] for run in found.groups)
            row += [f"{milliseconds:.2f}", f"{100 * share:.1f}", str(found.nodes[group])]
        rows.append(row)
    total = ["**all kernels**"]
    for found in profiles:
        total += [f"{median(found.kernels):.2f}", "100", str(found.nodes.total())]
    rows.append(total)
    for title, clock in (("clock, profiled", "profiled"), ("clock, not profiled", "bare")):
        row = [title]
        for found in profiles:
            times = getattr(found, clock)
            share = median(time / kernels for time, kernels in zip(times, found.kernels, strict=True))
            row += [f"{median(times):.2f}", f"{100 * share:.1f}", ""]
        rows.append(row)
    return rows


def main() -> None:
    """Profile the plain tower, our full depth and one exit."""
    reporter = Reporter()
    encoder = load_encoder(ARCHITECTURE, RANDOM)
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = {"full, plain ONNX": folder / "plain.onnx"}
        head_widths = {"full, plain ONNX": encoder.embedding_width}
        reporter.say("exporting full, plain ONNX")
        export_plain(image_tower(encoder), encoder.preprocessing.size, folder / "plain.onnx")
        for title, layer in (("full, our ONNX", encoder.blocks), (f"exit {EXIT}", EXIT)):
            reporter.say(f"exporting {title}")
            files[title], head_widths[title] = folder / f"layer-{layer}.onnx", K
            export_exit(encoder, layer, files[title])
        reporter.say(f"profiling {RUNS} runs")
        recordings = record(files, folder / "profile")
    profiles = {title: profile(found, head_widths[title]) for title, found in recordings.items()}
    write_report(
        "where_time_goes",
        f"Where the time of {ARCHITECTURE} goes",
        "python benchmarks/where_time_goes.py",
        f"One picture, one thread; medians of {RUNS} runs in turn after {WARM_UP} to warm up. Kernel time as "
        "onnxruntime's profile gives it for the graph that its optimiser leaves. A product of two "
        "activations is attention's; Div, Mul and the addition of a scalar are what a GELU falls apart "
        "into; projection, or head and tables, is everything from the product that leaves the tower's width. "
        "The clock, from call to return, is in milliseconds and in per cent of the kernels.",
        ["group", *(cell for title in profiles for cell in (f"{title}: ms", "%", "nodes"))],
        _rows(list(profiles.values())),
    )


if __name__ == "__main__":
    main()
