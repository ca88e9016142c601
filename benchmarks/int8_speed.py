"""Speed, size and memory of early exits in INT8, beside the same in fp32 and the full image tower.

    python benchmarks/int8_speed.py photos/

The ranges of static INT8 are found on the pictures of a folder, at least 32 of them. Everything runs in
turn: the *plain* tower, which is open_clip's own module, exported by torch.onnx and by nothing of ours;
full depth and exits of ours in fp32, dynamic INT8 and static INT8; exit 5 with a last block that is computed
for all tokens, and with the integers of other processors; and one large product in fp32 and INT8, which says
what the machine's kernels allow. Export, each INT8 file and each number of threads has a process of its own,
which gives its memory back. Random weights, so no network is needed.

Half an hour on two cores that do nothing else, 12 GB of memory, 5 GB of temporary files. Expect exit 5 of
ViT-B-32 to be seven times as fast as the plain tower in fp32, where the processor has VNNI.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from measuring.files import CLASSES, OURS, PLAIN, Model
from measuring.int8 import AIMED, DYNAMIC, FILES, OTHER_TARGETS, PLAIN_LAST, STATIC, TARGET, Files, make_all
from measuring.machine import refuse_thread_limit
from measuring.memory import PROCESSES, in_own_process
from measuring.options import Quick
from measuring.products import FLOAT_PRODUCT, INT8_PRODUCT, product_runs
from measuring.profile import RUNS, WARM_UP, Recording, record, sum_by_operator
from measuring.result import save
from measuring.timing import SECONDS, Times, session_run, time_in_turn

from tgems_edge.progress import Reporter
from tgems_edge.runtime.session import open_session
from tgems_edge.sources.folders import find_pictures

Case = tuple[int, int]  # batch size and number of threads

CASES: tuple[Case, ...] = ((1, 1), (16, 1), (1, 2), (16, 2))
REPEATS = 10  # of a product, each time that it is its turn
LEAST_ROUNDS = 3
LEAST_SHARE = 0.01  # of the time that an operator takes to have a row of its own


@dataclass(frozen=True)
class Architecture:
    """An image tower, and in which cases its files run."""

    name: str
    product: tuple[int, int, int]  # of an MLP: tokens, width, hidden
    cases: tuple[Case, ...]
    seconds: float = SECONDS


ARCHITECTURES = (
    Architecture("ViT-B-32", (50, 768, 3072), CASES),
    Architecture("ViT-L-14", (257, 1024, 4096), ((1, 1), (1, 2))),  # with 16 pictures over 20 GB at once
)
QUICK = (Architecture("ViT-S-32", (50, 384, 1536), ((1, 1),), seconds=0),)


def measure(architecture: Architecture, models: Sequence[Model], threads: int) -> list[Times]:
    """Run everything at every batch size for a number of threads."""
    sessions = {model.name: open_session(model.path, threads=threads) for model in models}
    tokens, width, hidden = architecture.product
    found = []
    for batch in (batch for batch, wanted in architecture.cases if wanted == threads):
        runs = {title: session_run(session, batch) for title, session in sessions.items()}
        runs |= product_runs(tokens * batch, width, hidden, TARGET, threads, REPEATS)
        title = f"{architecture.name}, batch {batch}, threads {threads}"
        seconds = time_in_turn(
            runs, title, Reporter(), least_rounds=LEAST_ROUNDS, seconds=architecture.seconds
        )
        found.append(Times(batch, threads, seconds))
    return found


def by_case(found: Sequence[Times], name: str, than: str) -> list[float | None]:
    """Return how many times faster one file is than another in each of CASES; None where it did not run."""
    faster = {(times.batch, times.threads): times.faster(name, than) for times in found}
    return [faster.get(case) for case in CASES]


def model_rows(name: str, files: Files, found: Sequence[Times]) -> list[dict[str, object]]:
    """One row for each file: its size and memory, and how many times faster than the plain full tower."""
    rows = []
    for model in files.models:
        source = FILES[model.name][0] if model.name in FILES else None
        making = files.makings.get(model.name)
        rows.append(
            {
                "model": f"{name}, {model.name}",
                "mb": model.megabytes,
                "of_fp32": model.megabytes / files.model(source).megabytes if source else None,
                "peak_mb": model.peak,
                "seconds_to_make": making.seconds if making else None,
                "peak_mb_to_make": making.peak if making else None,
                "faster": by_case(found, model.name, PLAIN),
            }
        )
    return rows


def comparison_rows(name: str, found: Sequence[Times]) -> list[dict[str, object]]:
    """Return how many times faster one INT8 file is than another."""
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
        {"comparison": f"{name}: {title}", "faster": by_case(found, *pair)} for title, pair in pairs.items()
    ]


def limit_rows(architecture: Architecture, files: Files, found: Sequence[Times]) -> list[dict[str, object]]:
    """One row for each case: the product in fp32 and INT8, and the exit beside what it could be at best."""
    saved = files.model(PLAIN).operations / files.model(AIMED).operations
    tokens, width, hidden = architecture.product
    rows = []
    for times in found:
        work = REPEATS * times.batch * math.prod(architecture.product) / 1e9
        gain = times.faster(INT8_PRODUCT, FLOAT_PRODUCT)
        rows.append(
            {
                "architecture": architecture.name,
                "batch": times.batch,
                "threads": times.threads,
                "product": [tokens * times.batch, width, hidden],
                "fp32_gmacs": work / times.median(FLOAT_PRODUCT),
                "int8_gmacs": work / times.median(INT8_PRODUCT),
                "gain": gain,
                "at_best": saved * gain,
                "measured": times.faster(f"{AIMED}, {STATIC}", PLAIN),
            }
        )
    return rows


def time_rows(name: str, files: Files, found: Sequence[Times]) -> list[dict[str, object]]:
    """One row for each file in each case."""
    return [
        {
            "architecture": name,
            "model": model.name,
            **times.row(model.name, PLAIN),
            "fewer_operations": files.model(PLAIN).operations / model.operations,
            "gmacs": times.batch * model.operations / 2e9 / times.median(model.name),
        }
        for times in found
        for model in files.models
    ]


def operator_rows(recordings: dict[str, Recording]) -> list[dict[str, object]]:
    """Time, share and nodes of each type of operator; the rare ones together, and all."""
    runs = {name: [sum_by_operator(run) for run in found.kernels] for name, found in recordings.items()}

    def share(name: str, members: Sequence[str]) -> float:
        return median(sum(run[operator] for operator in members) / run.total() for run in runs[name])

    last = list(runs)[-1]
    types = sorted(
        {operator for found in runs.values() for run in found for operator in run},
        key=lambda operator: [-share(name, [operator]) for name in (last, AIMED)],
    )
    shown = [op for op in types if any(share(name, [op]) >= LEAST_SHARE for name in runs)]
    groups = {operator: [operator] for operator in shown}
    groups |= {"others": [operator for operator in types if operator not in shown], "**all**": types}
    return [
        {
            "operator": title,
            "files": [
                {
                    "ms": median(sum(run[operator] for operator in members) for run in found),
                    "share": share(name, members),
                    "nodes": sum(
                        kernel["args"]["op_name"] in members for kernel in recordings[name].kernels[-1]
                    ),
                }
                for name, found in runs.items()
            ],
        }
        for title, members in groups.items()
    ]


def profile(files: Files, folder: Path, runs: int) -> dict[str, Recording]:
    """Record the aimed exit in fp32, dynamic and static."""
    names = (AIMED, f"{AIMED}, {DYNAMIC}", f"{AIMED}, {STATIC}")
    return record({name: files.model(name).path for name in names}, folder / "profile", runs)


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of pictures to find ranges on.")],
    quick: Quick = False,
) -> None:
    """Measure both architectures; quickly, a small one."""
    refuse_thread_limit()
    pictures, runs = find_pictures(photos).paths, 2 if quick else RUNS
    tables: dict[str, list] = {"models": [], "comparisons": [], "limits": [], "times": [], "rounds": []}
    for architecture in QUICK if quick else ARCHITECTURES:
        name = architecture.name
        with TemporaryDirectory() as folder:
            files = make_all(name, pictures, Path(folder), Reporter())
            threads = dict.fromkeys(number for _, number in architecture.cases)
            found = [
                times
                for number in threads
                for times in in_own_process(measure, architecture, files.models, number)
            ]
            tables["models"] += model_rows(name, files, found)
            if "operators" not in tables:
                recordings = profile(files, Path(folder), runs)
                tables["operators"] = operator_rows(recordings)
        tables["comparisons"] += comparison_rows(name, found)
        tables["limits"] += limit_rows(architecture, files, found)
        tables["times"] += time_rows(name, files, found)
        tables["rounds"].append({"architecture": name, "rounds": [times.rounds for times in found]})
    facts = {
        "target": TARGET,
        "classes": CLASSES,
        "processes": PROCESSES,
        "repeats": REPEATS,
        "runs": runs,
        "warm_up": WARM_UP,
        "profiled": list(recordings),
        "fp32_gmacs": recordings[AIMED].rate("Gemm"),
        "int8_gmacs": recordings[f"{AIMED}, {STATIC}"].rate("QGemm"),
    }
    save("int8_speed", tables, facts, quick=quick)


if __name__ == "__main__":
    typer.run(main)
