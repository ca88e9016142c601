"""Speed, size and memory of early exits in INT8, beside the same in fp32 and the full image tower.

    python benchmarks/int8_speed.py photos/

The ranges of static INT8 are found on the pictures of a folder, at least 32 of them. Everything runs in
turn: the *plain* tower, which is open_clip's own module, exported by torch.onnx and by nothing of ours;
full depth and exits of ours in fp32, dynamic INT8 and static INT8; exit 5 with a last block that is computed
for all tokens, and with the integers of other processors; and one large product in fp32 and INT8, which says
what the machine's kernels allow. Export, each INT8 file and each number of threads has a process of its own,
which gives its memory back. Random weights, so no network is needed. Half an hour on two cores that do
nothing else, 12 GB of memory, 5 GB of temporary files. Writes benchmarks/results/int8_speed.md, the ratios,
and int8_speed_vit_b_32.md and int8_speed_vit_l_14.md, the times behind them.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, TypeVar

import numpy as np
import onnx
import onnxruntime
import typer
from onnx import TensorProto, helper, numpy_helper
from report import table, write_report
from speed import (
    CLASSES,
    OPSET,
    OURS,
    PLAIN,
    PROCESSES,
    Cell,
    Model,
    count_operations,
    exit_graph,
    export_architecture,
    peak_memory,
    session_run,
    time_in_turn,
)
from torch import Tensor, nn
from where_time_goes import RUNS, WARM_UP, Kernel, Recording, record, shapes

from tgems_edge.folders import find_pictures
from tgems_edge.progress import Reporter
from tgems_edge.session import open_session
from tgems_export.encoders.encoder import RANDOM, Encoder, load_encoder
from tgems_export.encoders.towers.blocks import ResidualBlock
from tgems_export.exporting.graph.exit_graph import ExitGraph
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.exporting.quantization.recipe import Recipe, Target, quantise
from tgems_export.exporting.quantization.search import read_calibrating

Case = tuple[int, int]  # batch size and number of threads
Result = TypeVar("Result")

COMMAND = "python benchmarks/int8_speed.py photos/"
CASES: dict[str, tuple[Case, ...]] = {
    "ViT-B-32": ((1, 1), (16, 1), (1, 2), (16, 2)),
    "ViT-L-14": ((1, 1), (1, 2)),  # with 16 pictures, all files at once take more than 20 GB
}
TARGET: Target = "x86-vnni" if "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8") else "generic"
OTHER_TARGETS: list[Target] = [target for target in ("generic", "arm64") if target != TARGET]

DEPTHS = (OURS, "exit 3", "exit 5", "exit 8")
STATIC, DYNAMIC = "static INT8", "dynamic INT8"
LAYER = 5  # of the exit that the aims are about
AIMED = f"exit {LAYER}"
PLAIN_LAST = f"{AIMED}, plain last block"

# The aims, set for ViT-B-32 but for the last.
AIM_PLAIN = 10.0  # times faster than the plain full tower
AIM_OURS = 2.5  # times faster than our full depth in static INT8
AIM_PEAK = 8.0  # GB at most, to find the ranges of ViT-L-14 at full depth and make INT8 of it

PRODUCTS = {"ViT-B-32": (50, 768, 3072), "ViT-L-14": (257, 1024, 4096)}  # of an MLP: tokens, width, hidden
REPEATS = 10  # of a product, each time that it is its turn
FLOAT_PRODUCT, INT8_PRODUCT = "product, fp32", f"product, {STATIC}"

LEAST_ROUNDS = 3
LEAST_SHARE = 1.0  # per cent of the time that an operator takes to have a row of its own

# Makes an INT8 file, without ranges a dynamic one, and prints the peak of its memory in kilobytes.
MAKE = """
import sys
import numpy as np, onnx
from tgems_edge.progress import Reporter
from tgems_export.exporting.quantization.recipe import Recipe, quantise
from tgems_export.exporting.quantization.search import Quantiser
source, goal, target, ranges, pixels = sys.argv[1:]
model, recipe = onnx.load(source), Recipe(target, ranges or None)
if recipe.ranges is None:
    onnx.save(quantise(model, recipe, {}), goal)
else:
    onnx.save(Quantiser(model, np.load(pixels), Reporter()).make(recipe), goal)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Making:
    """What it took to make an INT8 file, from process start to exit."""

    seconds: float
    peak: float  # megabytes


@dataclass(frozen=True)
class Architecture:
    """All files of an architecture and how fast they ran."""

    name: str
    models: list[Model]
    makings: dict[str, Making]  # of the INT8 files
    cells: list[Cell]

    def model(self, name: str) -> Model:
        """The file of a name."""
        return next(model for model in self.models if model.name == name)

    def faster(self, name: str, than: str = PLAIN) -> list[float]:
        """How many times faster in every cell."""
        return [cell.faster(name, than) for cell in self.cells]


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Calls a function in a new process, so that all of its memory is given back."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class _ClassToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        """(L, B, D) to (B, D)."""
        return tokens[0]


def with_plain_last_block(encoder: Encoder, layer: int) -> ExitGraph:
    """The graph of an exit whose last block is like the others, and the class token is taken behind it."""
    graph = exit_graph(encoder, layer)
    graph.blocks.append(ResidualBlock(encoder.tower.block(layer - 1)))
    graph.last = _ClassToken()
    return graph.eval().requires_grad_(False)


def export_float(name: str, pictures: Sequence[Path], pixels: Path, folder: Path) -> list[Model]:
    """The files in fp32, that with a plain last block at the end, and the pictures as they take them."""
    reporter, encoder = Reporter(), load_encoder(name, RANDOM)
    np.save(pixels, read_calibrating(pictures, encoder.preprocessing, reporter))
    models = export_architecture(name, encoder, folder, reporter)
    reporter.say(f"{name}: exporting {PLAIN_LAST}")
    path = folder / f"{PLAIN_LAST}.onnx"
    onnx.save(to_onnx(with_plain_last_block(encoder, LAYER), encoder.preprocessing.size, OPSET), path)
    return [*models, Model(PLAIN_LAST, path, count_operations(path), peak_memory(path))]


def make_int8(source: Model, name: str, recipe: Recipe, pixels: Path) -> tuple[Model, Making]:
    """Makes an INT8 file beside that in fp32."""
    path = source.path.with_name(f"{name}.onnx")
    command = [sys.executable, "-c", MAKE, source.path, path, recipe.target, recipe.ranges or "", pixels]
    started = perf_counter()
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    making = Making(perf_counter() - started, int(run.stdout) / 1024)
    return Model(name, path, source.operations, peak_memory(path)), making


def recipes() -> dict[str, tuple[str, Recipe]]:
    """Of each INT8 file, the one it is made of and how."""
    result = {}
    for depth in DEPTHS:
        result[f"{depth}, {DYNAMIC}"] = (depth, Recipe(TARGET, None))
        result[f"{depth}, {STATIC}"] = (depth, Recipe(TARGET))
    result[f"{PLAIN_LAST}, {STATIC}"] = (PLAIN_LAST, Recipe(TARGET))
    for target in OTHER_TARGETS:
        result[f"{AIMED}, {STATIC} for {target}"] = (AIMED, Recipe(target))
    return result


def product_runs(name: str, batch: int, threads: int) -> dict[str, Callable[[], object]]:
    """The product of an MLP, in fp32 and as INT8 with all that comes with it."""
    tokens, width, hidden = PRODUCTS[name]
    left, right = (
        np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        for shape in ((tokens * batch, width), (hidden, width))
    )
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "blocks.0.weight"], ["y"], name="product", transB=1)],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", hidden])],
        [numpy_helper.from_array(right, "blocks.0.weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    int8 = quantise(model, Recipe(TARGET), {"x": (float(left.min()), float(left.max()))})
    sessions = [open_session(made.SerializeToString(), threads=threads) for made in (model, int8)]
    runs = (partial(_repeat, session, left) for session in sessions)
    return dict(zip((FLOAT_PRODUCT, INT8_PRODUCT), runs, strict=True))


def _repeat(session: onnxruntime.InferenceSession, values: np.ndarray) -> None:
    for _ in range(REPEATS):
        session.run(None, {"x": values})


def measure(name: str, models: Sequence[Model], threads: int) -> list[Cell]:
    """Runs everything at every batch size for a number of threads."""
    sessions = {model.name: open_session(model.path, threads=threads) for model in models}
    cells = []
    for batch in (batch for batch, wanted in CASES[name] if wanted == threads):
        runs = {title: session_run(session, batch) for title, session in sessions.items()}
        runs |= product_runs(name, batch, threads)
        title = f"{name}, batch {batch}, threads {threads}"
        cells.append(Cell(batch, threads, time_in_turn(runs, title, Reporter(), LEAST_ROUNDS)))
    return cells


def measure_architecture(
    name: str, pictures: Sequence[Path], folder: Path, reporter: Reporter
) -> Architecture:
    """Makes all files of an architecture and runs them."""
    pixels = folder / "pixels.npy"
    models = in_own_process(export_float, name, pictures, pixels, folder)
    sources = {model.name: model for model in models}
    makings = {}
    for title, (source, recipe) in recipes().items():
        reporter.say(f"{name}: making {title}")
        model, makings[title] = make_int8(sources[source], title, recipe, pixels)
        models.append(model)
    threads = dict.fromkeys(number for _, number in CASES[name])
    cells = [cell for number in threads for cell in in_own_process(measure, name, models, number)]
    return Architecture(name, models, makings, cells)


def product_rates(name: str, cell: Cell) -> tuple[float, float]:
    """Billions of multiply-adds a second of the product, in fp32 and in INT8."""
    work = REPEATS * cell.batch * math.prod(PRODUCTS[name]) / 1e9
    return work / median(cell.times[FLOAT_PRODUCT]), work / median(cell.times[INT8_PRODUCT])


def at_best(found: Architecture, cell: Cell) -> float:
    """How many times faster the aimed exit can be: operations saved, times what INT8 gains in a product."""
    return _times_operations(found, PLAIN) * cell.faster(INT8_PRODUCT, than=FLOAT_PRODUCT)


def _times_operations(found: Architecture, name: str) -> float:
    """How many times the operations of the aimed exit another file has."""
    return found.model(name).operations / found.model(AIMED).operations


def ratios(found: Architecture) -> list[list[str]]:
    """One row for each file: its size and memory, and how many times faster than the plain full tower."""
    sources = {title: source for title, (source, _) in recipes().items()}
    rows = []
    for model in found.models:
        size = model.path.stat().st_size
        source = sources.get(model.name)
        share = 100 * size / found.model(source).path.stat().st_size if source else 100.0
        making = found.makings.get(model.name)
        rows.append(
            [
                f"{found.name}, {model.name}",
                f"{size / 1e6:.0f}",
                f"{share:.1f}" if source else "",
                f"{model.peak:.0f}",
                *([f"{making.seconds:.0f}", f"{making.peak:.0f}"] if making else ["", ""]),
                *_by_case(found, lambda cell, name=model.name: f"{cell.faster(name):.2f}"),
            ]
        )
    return rows


def _by_case(found: Architecture, show: Callable[[Cell], str]) -> list[str]:
    """A column for each case of any architecture, empty where this one did not run."""
    shown = {(cell.batch, cell.threads): show(cell) for cell in found.cells}
    return [shown.get(case, "") for case in _all_cases()]


def _all_cases() -> list[Case]:
    return list(dict.fromkeys(case for cases in CASES.values() for case in cases))


def _case_titles() -> list[str]:
    return [f"batch {batch}, threads {threads}" for batch, threads in _all_cases()]


def comparisons(found: Architecture) -> list[list[str]]:
    """How many times faster one INT8 file is than another."""
    static = f"{AIMED}, {STATIC}"
    pairs = {
        f"{AIMED} than full depth, both static": (static, f"{OURS}, {STATIC}"),
        f"{AIMED}, static than dynamic": (static, f"{AIMED}, {DYNAMIC}"),
        f"{AIMED}, static than fp32": (static, AIMED),
        f"{AIMED}, static, last block of the class token than plain": (static, f"{PLAIN_LAST}, {STATIC}"),
        f"{AIMED}, fp32, last block of the class token than plain": (AIMED, PLAIN_LAST),
    }
    for target in OTHER_TARGETS:
        pairs[f"{AIMED}, static, for {TARGET} than for {target}"] = (static, f"{static} for {target}")
    return [
        [f"{found.name}: {title}", *_by_case(found, lambda cell, pair=pair: f"{cell.faster(*pair):.2f}")]
        for title, pair in pairs.items()
    ]


def limits(found: Architecture) -> list[list[str]]:
    """One row for each case: the product in fp32 and INT8, and the exit beside what it could be at best."""
    tokens, width, hidden = PRODUCTS[found.name]
    rows = []
    for cell in found.cells:
        own, gain = product_rates(found.name, cell), cell.faster(INT8_PRODUCT, than=FLOAT_PRODUCT)
        rows.append(
            [
                f"{found.name}, batch {cell.batch}, threads {cell.threads}",
                f"{tokens * cell.batch}×{width}×{hidden}",
                *(f"{rate:.0f}" for rate in own),
                f"{gain:.2f}",
                f"{at_best(found, cell):.2f}",
                f"{cell.faster(f'{AIMED}, {STATIC}'):.2f}",
            ]
        )
    return rows


def report_times(found: Architecture) -> None:
    """Writes the table of one architecture, with all times."""
    rows = []
    for cell in found.cells:
        for model in found.models:
            times = cell.times[model.name]
            rows.append(
                [
                    model.name,
                    cell.batch,
                    cell.threads,
                    f"{1000 * median(times):.1f}",
                    f"{1000 * np.percentile(times, 90):.1f}",
                    f"{cell.faster(model.name):.2f}",
                    f"{found.model(PLAIN).operations / model.operations:.2f}",
                    f"{cell.batch * model.operations / 2e9 / median(times):.0f}",
                ]
            )
    rounds = ", ".join(f"{c.rounds} (batch {c.batch}, threads {c.threads})" for c in found.cells)
    write_report(
        f"int8_speed_{found.name.lower().replace('-', '_')}",
        f"Speed of {found.name} in INT8",
        COMMAND,
        "Plain is open_clip's own module through torch.onnx, on pictures that are scaled and normalised "
        f"already; ours scales and normalises inside, and ends with a head of {CLASSES} classes. INT8 is for "
        f"{TARGET} where nothing else is said. All in turn, each round in another order; times faster is the "
        "median of the ratios within a round. Operations and GMAC/s, billions of multiply-adds a second, "
        f"count the matrix products and convolutions of the graph in fp32. Rounds: {rounds}.",
        [
            "model",
            "batch",
            "threads",
            "ms, median",
            "ms, p90",
            "times faster than plain",
            "times fewer operations",
            "GMAC/s",
        ],
        rows,
    )


def operators(recordings: dict[str, Recording]) -> list[list[str]]:
    """Milliseconds, share and nodes of each type of operator; the rare ones together."""
    runs = {
        name: [_sum_by_operator(kernels) for kernels in found.kernels] for name, found in recordings.items()
    }
    last = list(runs)[-1]
    types = sorted(
        {operator for found in runs.values() for run in found for operator in run},
        key=lambda operator: [-_share(runs[name], [operator]) for name in (last, AIMED)],
    )
    shown = [op for op in types if any(_share(found, [op]) >= LEAST_SHARE for found in runs.values())]
    groups = {operator: [operator] for operator in shown}
    groups["others"] = [operator for operator in types if operator not in shown]
    rows = []
    for title, members in groups.items():
        row = [title]
        for name, found in runs.items():
            nodes = sum(kernel["args"]["op_name"] in members for kernel in recordings[name].kernels[-1])
            milliseconds = median(sum(run[operator] for operator in members) for run in found)
            row += [f"{milliseconds:.2f}", f"{_share(found, members):.1f}", str(nodes)]
        rows.append(row)
    total = ["**all**"]
    for name, found in runs.items():
        kernels = median(run.total() for run in found)
        total += [f"{kernels:.2f}", "100", str(len(recordings[name].kernels[-1]))]
    return [*rows, total]


def _sum_by_operator(kernels: Sequence[Kernel]) -> Counter[str]:
    """Milliseconds."""
    total: Counter[str] = Counter()
    for kernel in kernels:
        total[kernel["args"]["op_name"]] += kernel["dur"] / 1000
    return total


def _share(runs: Sequence[Counter[str]], members: Sequence[str]) -> float:
    """Per cent of the time of all kernels."""
    return 100 * median(sum(run[operator] for operator in members) / run.total() for run in runs)


def rate_inside(found: Recording, operator: str) -> float:
    """Billions of multiply-adds a second that the products with weights of a file come to."""
    work = sum(
        math.prod(shapes(kernel["args"], "output")[0]) * shapes(kernel["args"], "input")[0][-1]
        for kernel in found.kernels[-1]
        if kernel["args"]["op_name"] == operator
    )
    return work / 1e6 / median(_sum_by_operator(kernels)[operator] for kernels in found.kernels)


def record_exit(found: Architecture, folder: Path, reporter: Reporter) -> dict[str, Recording]:
    """Profiles the aimed exit in fp32, dynamic and static."""
    reporter.say(f"profiling {RUNS} runs")
    names = (AIMED, f"{AIMED}, {DYNAMIC}", f"{AIMED}, {STATIC}")
    return record({name: found.model(name).path for name in names}, folder / "profile")


def profile_text(found: Architecture, recordings: dict[str, Recording]) -> str:
    """Where the time of the aimed exit goes, and what follows for the aim."""
    static = recordings[f"{AIMED}, {STATIC}"]
    sums = [_sum_by_operator(kernels) for kernels in static.kernels]
    int8, fp32 = rate_inside(static, "QGemm"), rate_inside(recordings[AIMED], "Gemm")
    share = _share(sums, ["QGemm"])
    return (
        f"Where the time of {AIMED} of {found.name} goes, by type of operator: onnxruntime's own profile of "
        f"one picture on one thread, medians of {RUNS} runs in turn after {WARM_UP} to warm up. QGemm, the "
        f"products in INT8, takes {share:.0f} % of the time of static INT8, at {int8:.0f} GMAC/s, "
        f"{int8 / fp32:.2f} times the {fp32:.0f} of Gemm in fp32. The rest stays in floating point, or goes "
        f"there and back; without it, the exit would be {100 / share:.2f} times faster."
    )


def verdicts(architectures: Sequence[Architecture]) -> str:
    """How the aims were met."""
    found = architectures[0]
    static = f"{AIMED}, {STATIC}"
    lines = [
        f"{AIMED.capitalize()} of {found.name} in static INT8 is "
        f"{_span(found.faster(static))} times faster than the plain full tower in fp32; "
        f"{_met(found.faster(static), AIM_PLAIN)}.",
        f"It is {_span(found.faster(static, f'{OURS}, {STATIC}'))} times faster than our full depth in "
        f"static INT8, which has {_times_operations(found, OURS):.2f} times its operations; "
        f"{_met(found.faster(static, f'{OURS}, {STATIC}'), AIM_OURS)}.",
    ]
    for each in architectures:
        times = each.faster(static, f"{PLAIN_LAST}, {STATIC}")
        lines.append(
            f"With a last block of the class token alone, static INT8 of {AIMED} of {each.name} is "
            f"{_span(times)} times as fast as with a plain one: no slower in "
            f"{sum(ratio >= 1 for ratio in times)} of {len(times)} cases."
        )
    for target in OTHER_TARGETS:
        times = [ratio for each in architectures for ratio in each.faster(static, f"{static} for {target}")]
        lines.append(
            f"{AIMED.capitalize()} for {TARGET} is {_span(times)} times as fast as for {target}, over both "
            "architectures."
        )
    return " ".join([*lines, _making_verdict(architectures[-1]), _limit_verdict(found)])


def _making_verdict(found: Architecture) -> str:
    making = found.makings[f"{OURS}, {STATIC}"]
    peak = making.peak / 1024
    return (
        f"To find the ranges of {found.name} at full depth and make static INT8 of it took a process "
        f"{making.seconds:.0f} seconds and {peak:.1f} GB at most, of the {AIM_PEAK:g} aimed at: "
        f"{'kept' if peak <= AIM_PEAK else 'exceeded'}."
    )


def _limit_verdict(found: Architecture) -> str:
    """Whether the aim can be met at all."""
    best = [at_best(found, cell) for cell in found.cells]
    gains = [cell.faster(INT8_PRODUCT, than=FLOAT_PRODUCT) for cell in found.cells]
    return (
        f"{AIMED.capitalize()} of {found.name} has {_times_operations(found, PLAIN):.2f} times fewer "
        f"operations than the plain full tower, and a product in INT8 is {_span(gains)} times faster than in "
        f"fp32: if either were nothing but products at these rates, the exit would be {_span(best)} times "
        f"faster, so {AIM_PLAIN:g} is within reach of this machine's kernels in "
        f"{sum(ratio >= AIM_PLAIN for ratio in best)} of {len(best)} cases."
    )


def _span(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _met(ratios: Sequence[float], aim: float) -> str:
    return f"{aim:g} or more, the aim, in {sum(r >= aim for r in ratios)} of {len(ratios)} cases"


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of pictures to find ranges on.")],
) -> None:
    """Measure both architectures."""
    if "OMP_NUM_THREADS" in os.environ:
        sys.exit("unset OMP_NUM_THREADS: with it, some of the runtimes take another number of threads")
    reporter = Reporter()
    pictures = find_pictures(photos).paths
    architectures, rows, recordings = [], [], {}
    for name in CASES:
        with TemporaryDirectory() as folder:
            found = measure_architecture(name, pictures, Path(folder), reporter)
            rows += ratios(found)
            if not recordings:
                recordings = record_exit(found, Path(folder), reporter)
        report_times(found)
        architectures.append(found)
    report(architectures, rows, recordings)


def report(
    architectures: Sequence[Architecture], rows: list[list[str]], recordings: dict[str, Recording]
) -> None:
    """Writes verdicts and tables."""
    behind = [
        "How many times faster one file is than another, the median of the ratios within a round:",
        table(["", *_case_titles()], [row for found in architectures for row in comparisons(found)]),
        "What the machine's kernels allow: one product of an MLP alone, in fp32 and in INT8 with the "
        f"quantisation of its input, {REPEATS} times in a row in each round, in billions of multiply-adds a "
        f"second. At best is how many times faster {AIMED} would be than the plain full tower if both were "
        "nothing but such products: the ratio of their operations times that of the two rates.",
        table(
            [
                "",
                "rows × width × hidden",
                "fp32, GMAC/s",
                "INT8, GMAC/s",
                "times faster",
                f"{AIMED}, {STATIC}: at best",
                "as measured",
            ],
            [row for found in architectures for row in limits(found)],
        ),
        profile_text(architectures[0], recordings),
        table(
            ["operator", *(cell for name in recordings for cell in (f"{name}: ms", "%", "nodes"))],
            operators(recordings),
        ),
    ]
    write_report(
        "int8_speed",
        "Speed, size and memory of early exits in INT8",
        COMMAND,
        f"{verdicts(architectures)}\n\n"
        "Each column on the right: how many times faster than the plain full tower of the architecture, the "
        "median of the ratios within a round. Plain is the library's own module through torch.onnx, on "
        "pictures that are scaled and normalised already; ours scales and normalises inside and ends with a "
        f"head of {CLASSES} classes. INT8 is for {TARGET}, what suits this processor, where nothing else is "
        "said. Peak: resident memory of a process that opens the file with one thread and runs it on one "
        f"picture, Python and onnxruntime included, the most of {PROCESSES}. To make: of a process that "
        "reads the file in fp32, finds the ranges for a static one, and writes the file in INT8.",
        [
            "model",
            "MB",
            "% of fp32",
            "MB, peak",
            "s to make",
            "MB, peak, to make",
            *_case_titles(),
        ],
        rows,
        "\n\n".join(behind),
    )


if __name__ == "__main__":
    typer.run(main)
