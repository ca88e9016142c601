"""onnxruntime's own profile of files, which run in turn on one picture and one thread."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime

from tgems_edge.runtime.session import open_session

__all__ = ["RUNS", "WARM_UP", "Kernel", "Recording", "record", "shapes", "sum_by_operator"]

WARM_UP = 3
RUNS = 30

Kernel = dict[str, Any]  # an event of onnxruntime's profile


@dataclass(frozen=True)
class Recording:
    """Kernels and clock of each run of a file; in milliseconds."""

    kernels: list[list[Kernel]]  # in the order in which they ran
    profiled: list[float]  # from call to return, with profiling on
    bare: list[float]  # the same without profiling

    def rate(self, operator: str) -> float:
        """Billions of multiply-adds a second of the products of one type."""
        work = sum(
            math.prod(shapes(kernel["args"], "output")[0]) * shapes(kernel["args"], "input")[0][-1]
            for kernel in self.kernels[-1]
            if kernel["args"]["op_name"] == operator
        )
        return work / 1e6 / median(sum_by_operator(kernels)[operator] for kernels in self.kernels)


def record(files: Mapping[str, Path], prefix: Path, runs: int = RUNS) -> dict[str, Recording]:
    """Run files in turn, with and without profiling.

    Args:
        files: by name.
        prefix: of the files that onnxruntime writes its profiles to.
        runs: that count, after some to warm up.
    """
    watched = {name: _open_profiled(path, prefix) for name, path in files.items()}
    bare = {name: open_session(path, threads=1) for name, path in files.items()}
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(WARM_UP + runs):
        for name in files:
            picture = _picture(bare[name])
            watched[name].run(None, picture)
            started = perf_counter()
            bare[name].run(None, picture)
            times[name].append(1000 * (perf_counter() - started))

    recordings = {}
    for name in files:
        events = json.loads(Path(watched[name].end_profiling()).read_text(encoding="utf-8"))
        found = [event for event in events if event["name"] == "model_run"][WARM_UP:]
        recordings[name] = Recording(
            kernels=[_kernels(events, run) for run in found],
            profiled=[run["dur"] / 1000 for run in found],
            bare=times[name][WARM_UP:],
        )
    return recordings


def shapes(kernel: Kernel, of: str) -> list[list[int]]:
    """Return the shapes of the inputs or outputs of a kernel, from its event's arguments."""
    return [shape for typed in kernel[f"{of}_type_shape"] for shape in typed.values()]


def sum_by_operator(kernels: Sequence[Kernel]) -> Counter[str]:
    """Return the milliseconds of each type of operator in one run."""
    total: Counter[str] = Counter()
    for kernel in kernels:
        total[kernel["args"]["op_name"]] += kernel["dur"] / 1000
    return total


def _open_profiled(path: Path, prefix: Path) -> onnxruntime.InferenceSession:
    """Open a session as `open_session` does on one thread, but profiled."""
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
