"""Dynamic files as they run: how long they take, and whether they are the segments they are made of.

The part of dynamic_exits.py that needs real graphs, all INT8, T-GEM, seed 0.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import onnx
from numpy.typing import NDArray

from dynamic.answers import INT8, Costs, Tower
from tgems_edge.maths.rates import posterior
from tgems_edge.model_file.card import Exit
from tgems_edge.model_file.gate import INPUT, OUTPUTS
from tgems_edge.progress import Reporter
from tgems_edge.runtime.session import open_session
from tgems_export.exporting.dynamic.decisions import Decision, decide, write
from tgems_export.exporting.dynamic.gates import exits_taken, features
from tgems_export.exporting.graph.assembly import flat, nested, split

__all__ = ["Equality", "Latency", "compare_with_segments", "decided", "gated", "time_files"]

WARM_UP = 5
Pixels = NDArray[np.uint8]


def decided(tower: Tower, layers: Sequence[int], budget: float) -> Decision:
    """Decide about these exits as `export` would."""
    heads = tower.heads
    answers = tower.said(heads, INT8).calibration
    exits = [
        Exit(part.layer, part.head.k, part.pool, "tgem", operations, None, None)
        for part, operations in zip(
            (heads.parts[layer - 1] for layer in layers), heads.costs.operations(layers), strict=True
        )
    ]
    chosen = [answers[layer - 1] for layer in layers]
    return decide(chosen, heads.material.calibration.labels, exits, heads.costs.full, budget)


def gated(tower: Tower, decision: Decision) -> onnx.ModelProto:
    """The INT8 graph of all exits, with temperatures and gates of some set."""
    model = copy.deepcopy(tower.int8)
    write(model, decision.exits)
    return model


@dataclass(frozen=True)
class Latency:
    """A file on single pictures, in turn with others."""

    name: str
    seconds: NDArray[np.float64]  # (n,) one for each picture
    operations: float  # of a mean picture of these, as a share of the full tower's


def time_files(
    tower: Tower, layers: Sequence[int], decisions: Mapping[float, Decision], middle: float, pixels: Pixels
) -> dict[int, list[Latency]]:
    """Latency of nested, flat and static files, by the number of threads.

    Args:
        tower: whose INT8 graph it is.
        layers: of the exits of the dynamic files, each of which is also a static one.
        decisions: by budget, a nested file each.
        middle: the budget that has a flat file as well.
        pixels: (n, H, W, 3), one after the other.
    """
    heads = tower.heads
    files = {f"nested, budget {budget:g}": nested(gated(tower, d), layers) for budget, d in decisions.items()}
    files[f"flat, budget {middle:g}"] = flat(gated(tower, decisions[middle]), layers)
    costs = heads.costs.dynamic(layers)
    for layer in (*layers, heads.material.layers[-1]):
        files[static_name(layer)] = tower.static(layer)
    found = {}
    for threads in (1, 2):
        sessions = {name: open_session(m.SerializeToString(), threads=threads) for name, m in files.items()}
        runs = {name: partial(s.run, ["label", "exit_layer"]) for name, s in sessions.items()}
        seconds, exits = time_each(runs, pixels, threads, heads.reporter)
        found[threads] = [
            Latency(name, times, _operations(name, exits[name], layers, costs, heads.costs))
            for name, times in seconds.items()
        ]
    return found


def static_name(layer: int) -> str:
    """Figures of the file of one exit."""
    return f"static, exit {layer}"


def _operations(
    name: str, exits: NDArray[np.int64], layers: Sequence[int], costs: Sequence[float], all_costs: Costs
) -> float:
    """Operations of a mean picture; a flat file computes everything, whoever leaves where."""
    if name.startswith("static"):
        return all_costs.static[exits[0] - 1]
    if name.startswith("flat"):
        return costs[-1]
    return float(np.mean([costs[layers.index(layer)] for layer in exits]))


def time_each(
    runs: Mapping[str, Callable], pixels: Pixels, threads: int, reporter: Reporter
) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """Seconds and exits of every file on every picture; the order is another for each picture."""
    seconds, exits = ({name: np.zeros(len(pixels), kind) for name in runs} for kind in (float, int))
    order, shuffle = list(runs), random.Random(0).shuffle
    for run in runs.values():
        for picture in pixels[:WARM_UP]:
            run({INPUT: picture[None]})
    with reporter.task(f"timing, {threads} threads", len(pixels), unit="pictures") as task:
        for number, picture in enumerate(pixels):
            shuffle(order)
            for name in order:
                fed = {INPUT: picture[None]}
                started = perf_counter()
                _, layer = runs[name](fed)
                seconds[name][number] = perf_counter() - started
                exits[name][number] = layer[0]
            task.advance(1)
    return seconds, exits


@dataclass(frozen=True)
class Equality:
    """The nested file beside its segments as sessions of their own, with gates in numpy."""

    batch: int
    pictures: int
    exits: int  # pictures that leave elsewhere
    labels: int  # pictures whose label differs
    rates: float  # the largest difference of a rate, of those that leave at the same exit
    probabilities: float


def compare_with_segments(
    model: onnx.ModelProto, exits: Sequence[Exit], pixels: Pixels, batch: int
) -> Equality:
    """Runs both over all pictures.

    Args:
        model: the graph of all exits, gates set.
        exits: what was decided.
        pixels: (n, H, W, 3).
        batch: how many run together.
    """
    layers = [exit_.layer for exit_ in exits]
    whole = open_session(nested(model, layers).SerializeToString())
    segments = [open_session(segment.SerializeToString()) for segment in split(model, layers)]
    ours, theirs = [], []
    for start in range(0, len(pixels), batch):
        some = pixels[start : start + batch]
        ours.append(whole.run(OUTPUTS, {INPUT: some}))
        theirs.append(_by_segments(segments, exits, some))
    one, other = ([np.concatenate(column) for column in zip(*runs, strict=True)] for runs in (ours, theirs))
    same = one[3] == other[3]
    return Equality(
        batch=batch,
        pictures=len(pixels),
        exits=int((~same).sum()),
        labels=int((one[2] != other[2]).sum()),
        rates=float(np.abs(one[0] - other[0])[same].max()),
        probabilities=float(np.abs(one[1] - other[1])[same].max()),
    )


def _by_segments(segments: Sequence, exits: Sequence[Exit], pixels: Pixels) -> list[NDArray]:
    """Rates, probabilities, label and exit of pictures, where numpy decides who goes on."""
    known, go_on, rates, probabilities = {INPUT: pixels}, [], [], []
    for session, exit_ in zip(segments, exits, strict=True):
        names = [output.name for output in session.get_outputs()]
        inputs = {value.name: known[value.name] for value in session.get_inputs()}
        known |= dict(zip(names, session.run(names, inputs), strict=True))
        rates.append(known[f"rates_{exit_.layer}"])
        probabilities.append(posterior(rates[-1].astype(np.float64), exit_.k, exit_.temperature))
        if gate := exit_.gate:
            seen = features(probabilities[-1], known[f"spread_{exit_.layer}"])
            score = 1 / (1 + np.exp(-(seen @ np.array(gate.weights) + gate.bias)))
            go_on.append((score < gate.threshold) | (gate.threshold == 1))
    taken, rows = exits_taken(go_on), np.arange(len(pixels))
    own = np.stack(rates)[taken, rows]
    layers = np.array([exit_.layer for exit_ in exits])
    return [own, np.stack(probabilities)[taken, rows], own.argmin(1), layers[taken]]
