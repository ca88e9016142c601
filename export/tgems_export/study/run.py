"""Runs a study: many small tasks in as many processes as there are cores, each result kept at once."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import torch
from threadpoolctl import threadpool_limits

from tgems_edge.children import end_with
from tgems_edge.errors import InputError
from tgems_edge.progress import Reporter
from tgems_export.storage.files import write_atomically
from tgems_export.study.material import Material
from tgems_export.study.measures import Value
from tgems_export.study.plan import Plan, Results, Task, ablation_tasks, layer_tasks
from tgems_export.study.subject import Subject

__all__ = ["load_results", "run"]


def run(
    plan: Plan,
    material: Material,
    identity: dict[str, Any],
    heading: dict[str, str],
    path: Path,
    reporter: Reporter,
    *,
    overwrite: bool,
) -> Results:
    """All figures of a study; those that are in the file already are not computed again.

    Args:
        plan: see `Plan`.
        material: see `Material`.
        identity: what the study is of; a file of another study is not continued.
        heading: of the report, kept for it; a study with another one is the same study.
        path: the JSON file that keeps identity, heading and figures.
        reporter: where progress goes.
        overwrite: replace the file of another study.

    Raises:
        InputError: the file is of another study, or no such file at all.
    """
    results: Results = {}
    if not overwrite:
        try:  # the name belongs to this study from now on
            write_atomically(path, _to_json(identity, results).encode(), overwrite=False)
        except FileExistsError:
            results = load_results(path, identity)

    def keep() -> None:
        write_atomically(path, _to_json(identity | {"heading": heading}, results).encode())

    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "material.pickle"
        shared.write_bytes(pickle.dumps(material))

        def finish(tasks: Mapping[str, Task], what: str) -> None:
            pending = {name: task for name, task in tasks.items() if name not in results}
            done = len(tasks) - len(pending)
            with reporter.task(what, len(tasks), done=done, unit="tasks") as progress:
                parallel = joblib.Parallel(n_jobs=-1, return_as="generator_unordered")
                for name, figures in parallel(
                    joblib.delayed(_work)(shared, name, task, os.getpid()) for name, task in pending.items()
                ):
                    results[name] = figures
                    keep()
                    progress.advance(1, name)

        subject = Subject.of(material)
        finish(layer_tasks(plan, subject), "every layer")
        pool = plan.better_pool(results, subject.pools, plan.layer)
        finish(ablation_tasks(plan, subject, pool), f"one factor at a time, layer {plan.layer}")
    keep()
    return results


def load_results(path: Path, identity: dict[str, Any]) -> Results:
    """The figures of an earlier run of the same study.

    Raises:
        InputError: not such a file, or of another study.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        results: Results = found.pop("results")
    except (OSError, ValueError, KeyError, AttributeError):
        raise InputError(f"{path}: not the file of a study; give --overwrite or another --out") from None
    asked = json.loads(json.dumps(identity))  # in the file tuples are lists
    if changed := [key for key in asked if found.get(key) != asked[key]]:
        raise InputError(
            f"{path}: of a study with another {' and '.join(changed)}; give --overwrite or another --out"
        )
    return results


def _to_json(identity: dict[str, Any], results: Results) -> str:
    """One line for each task, so that a long study can be looked through."""
    lines = [f"  {json.dumps(name)}: {json.dumps(figures)}" for name, figures in sorted(results.items())]
    opened = json.dumps(identity, indent=1).removesuffix("\n}")
    return opened + ',\n "results": {\n' + ",\n".join(lines) + "\n }\n}\n"


def _work(shared: Path, name: str, task: Task, parent: int) -> tuple[str, dict[str, Value]]:
    """One task, in a process of its own; the matrices are too small for more than one thread."""
    end_with(parent)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        return name, {measure: _rounded(value) for measure, value in task(_load(shared))}


def _rounded(value: Any) -> Any:
    """Six digits behind the point: more than any table shows, and a file of a third of the size."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


@lru_cache(maxsize=1)
def _load(shared: Path) -> Material:
    material: Material = pickle.loads(shared.read_bytes())
    return material
