"""Time of one picture in the full tower and in an exit, by group of operators.

    python benchmarks/where_time_goes.py

onnxruntime's own profile of ViT-B-32 with random weights, on one thread. Two minutes. Expect four fifths of
the plain tower, and nine tenths of ours, in matrix products with weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import typer
from measuring.files import OURS, PLAIN, K, export_exit, image_tower
from measuring.options import Quick
from measuring.profile import RUNS, WARM_UP, Kernel, Recording, record, shapes
from measuring.result import save

from tgems_edge.progress import Reporter
from tgems_export.encoders.encoder import RANDOM, load_encoder
from tgems_export.full_tower import export_plain

ARCHITECTURE, SMALL = "ViT-B-32", "ViT-S-32"
EXIT = 5

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


@dataclass(frozen=True)
class Profile:
    """Milliseconds of each run of a file."""

    groups: list[Counter[str]]  # kernel time by group
    nodes: Counter[str]  # nodes by group, of one run
    recording: Recording

    @classmethod
    def of(cls, recording: Recording, head_width: int) -> Profile:
        """Sorts kernels into groups; the head begins with the product that is `head_width` wide."""
        grouped = [_grouped(kernels, head_width) for kernels in recording.kernels]
        sums = []
        for run in grouped:
            sums.append(Counter[str]())
            for group, milliseconds in run:
                sums[-1][group] += milliseconds
        return cls(sums, Counter(group for group, _ in grouped[-1]), recording)

    @property
    def kernels(self) -> list[float]:
        """Kernel time of all groups."""
        return [sum(times.values()) for times in self.groups]

    def cells(self, group: str) -> dict[str, float]:
        """Time, share and nodes of a group."""
        return {
            "ms": median(run[group] for run in self.groups),
            "share": median(run[group] / sum(run.values()) for run in self.groups),
            "nodes": self.nodes[group],
        }

    def total(self) -> dict[str, float]:
        """The same of all kernels."""
        return {"ms": median(self.kernels), "share": 1.0, "nodes": self.nodes.total()}

    def clock(self, times: Sequence[float]) -> dict[str, float | None]:
        """Time from call to return, and its ratio to that of the kernels."""
        ratios = (time / kernels for time, kernels in zip(times, self.kernels, strict=True))
        return {"ms": median(times), "share": median(ratios), "nodes": None}


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


def make_rows(profiles: Sequence[Profile]) -> list[dict[str, object]]:
    """One row for each group, then kernels against the clock."""
    rows = {group: [profile.cells(group) for profile in profiles] for group in GROUPS}
    rows["**all kernels**"] = [profile.total() for profile in profiles]
    rows["clock, profiled"] = [profile.clock(profile.recording.profiled) for profile in profiles]
    rows["clock, not profiled"] = [profile.clock(profile.recording.bare) for profile in profiles]
    return [{"group": group, "files": files} for group, files in rows.items()]


def main(quick: Quick = False) -> None:
    """Profile the plain tower, our full depth and one exit; quickly, of a small tower."""
    reporter, architecture, runs = Reporter(), SMALL if quick else ARCHITECTURE, 2 if quick else RUNS
    encoder = load_encoder(architecture, RANDOM)
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = {PLAIN: folder / "plain.onnx"}
        head_widths = {PLAIN: encoder.embedding_width}
        reporter.say(f"exporting {PLAIN}")
        export_plain(image_tower(encoder), encoder.preprocessing.size, files[PLAIN])
        for title, layer in ((OURS, encoder.blocks), (f"exit {EXIT}", EXIT)):
            reporter.say(f"exporting {title}")
            files[title], head_widths[title] = folder / f"layer-{layer}.onnx", K
            export_exit(encoder, layer, files[title])
        reporter.say(f"profiling {runs} runs")
        recordings = record(files, folder / "profile", runs)
    profiles = [Profile.of(found, head_widths[title]) for title, found in recordings.items()]
    facts = {"architecture": architecture, "files": list(files), "runs": runs, "warm_up": WARM_UP}
    save("where_time_goes", {"groups": make_rows(profiles)}, facts, quick=quick)


if __name__ == "__main__":
    typer.run(main)
