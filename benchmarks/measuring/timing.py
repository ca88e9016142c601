"""Contenders that run in turn, so that each has the same neighbours on the machine.

Single times on a machine with other work move by 30 % and more; the ratio of two contenders within a round
does not, and its median over many rounds less still.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter

import numpy as np
import onnxruntime

from tgems_edge.progress import Reporter

__all__ = ["SECONDS", "Times", "session_run", "time_in_turn"]

SECONDS = 90.0  # for all rounds together, if `least_rounds` fit in


@dataclass(frozen=True)
class Times:
    """All contenders at one batch size and number of threads."""

    batch: int
    threads: int
    seconds: Mapping[str, list[float]]  # of every round, by contender

    @property
    def rounds(self) -> int:
        """The number of runs of each contender."""
        return len(next(iter(self.seconds.values())))

    def median(self, name: str) -> float:
        """Seconds of a contender."""
        return median(self.seconds[name])

    def faster(self, name: str, than: str) -> float:
        """Return how many times faster one contender is than another: the median ratio within a round."""
        pairs = zip(self.seconds[than], self.seconds[name], strict=True)
        return median(other / own for other, own in pairs)

    def row(self, name: str, plain: str) -> dict[str, float]:
        """The times of one contender, and how many times faster it is than another."""
        return {
            "batch": self.batch,
            "threads": self.threads,
            "median_ms": 1000 * self.median(name),
            "p90_ms": 1000 * float(np.percentile(self.seconds[name], 90)),
            "faster": self.faster(name, plain),
        }


def time_in_turn(
    runs: Mapping[str, Callable[[], object]],
    title: str,
    reporter: Reporter,
    *,
    least_rounds: int = 2,
    seconds: float = SECONDS,
) -> dict[str, list[float]]:
    """Runs every contender once a round, each round in another order, as many rounds as time allows.

    Args:
        runs: what to time, by name.
        title: what progress is called.
        reporter: where it goes.
        least_rounds: even if they take longer.
        seconds: for all rounds together.

    Returns:
        seconds of every round, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0).shuffle

    def run_round() -> float:
        shuffle(order)
        for name in order:
            started = perf_counter()
            runs[name]()
            times[name].append(perf_counter() - started)
        return sum(elapsed[-1] for elapsed in times.values())

    rounds = max(least_rounds, int(seconds / run_round()))
    with reporter.task(title, rounds, done=1, unit="rounds") as task:
        for _ in range(rounds - 1):
            run_round()
            task.advance(1)
    return times


def session_run(session: onnxruntime.InferenceSession, batch: int) -> Callable[[], object]:
    """Runs a file on drawn pictures."""
    value, rng = session.get_inputs()[0], np.random.default_rng(0)
    shape = (batch, *value.shape[1:])
    if value.type == "tensor(uint8)":
        pictures = rng.integers(0, 256, shape, dtype=np.uint8)
    else:
        pictures = rng.standard_normal(shape, dtype=np.float32)
    return partial(session.run, None, {value.name: pictures})
