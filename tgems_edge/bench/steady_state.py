"""Steady state: run several opened files in turn in one process, all on the same pictures in each round.

Each round shuffles the order of the files.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from tgems_edge.bench.candidates import STAGES, Candidate, Run, run
from tgems_edge.bench.pictures import PictureCycle
from tgems_edge.bench.report import ExitRuns, Quantiles, Stages

__all__ = ["Runs", "run_interleaved"]

WARM_UP = 0.1  # share of the measuring time, added before it
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Runs:
    """The runs of one file, one a round."""

    runs: tuple[Run, ...]
    batch: int  # B, pictures in a run

    @property
    def totals(self) -> list[float]:
        """Return the seconds of each run, from bytes to labels."""
        return [sum(run.seconds) for run in self.runs]

    @property
    def latency(self) -> Quantiles:
        """Return the latency of whole runs."""
        return Quantiles.of(self.totals)

    @property
    def stages(self) -> Stages:
        """Return the latency of each stage."""
        columns = zip(*(run.seconds for run in self.runs), strict=True)
        return Stages(**dict(zip(STAGES, map(Quantiles.of, columns), strict=True)))

    @property
    def pictures_per_second(self) -> float:
        """Return the throughput of one run after the other, decoding included."""
        return self.batch * len(self.runs) / sum(self.totals)

    def times_faster(self, than: Runs, stage: str | None = None) -> float:
        """Return the speed-up over other runs: the median of the ratios within a round.

        Args:
            than: the runs of the baseline, in the same rounds.
            stage: one of STAGES; default: the whole run.
        """
        return median(
            other / own for other, own in zip(than._seconds(stage), self._seconds(stage), strict=True)
        )

    def _seconds(self, stage: str | None) -> list[float]:
        return self.totals if stage is None else [run.seconds[STAGES.index(stage)] for run in self.runs]

    def exits(self, layers: Sequence[int]) -> tuple[ExitRuns, ...]:
        """Return share and latency of each exit of a dynamic file, given the exit layers."""
        answered = [layer for run in self.runs for layer in run.exit_layers]
        exits = []
        for layer in layers:
            pictures = answered.count(layer)
            single = [sum(run.seconds) for run in self.runs if run.exit_layers == [layer]]
            latency = Quantiles.of(single) if single else None
            exits.append(ExitRuns(layer, pictures, pictures / len(answered), latency))
        return tuple(exits)


def run_interleaved(
    candidates: Sequence[Candidate], pictures: PictureCycle, batch: int, seconds: float
) -> list[Runs]:
    """Warm up, then run all candidates in turn, round after round.

    No progress is shown meanwhile, because drawing it would take time from the runs.

    Args:
        candidates: opened files.
        pictures: the pictures; each call continues where the last one stopped.
        batch: B, pictures in a run.
        seconds: time for each file.

    Raises:
        DataError: no picture can be read.
    """
    order, shuffle = list(range(len(candidates))), random.Random(0).shuffle

    def run_round() -> list[Run]:
        files = [path.read_bytes() for path in pictures.take(batch)]
        shuffle(order)
        runs = {position: run(candidates[position], files) for position in order}
        return [runs[position] for position in range(len(candidates))]

    def rounds_for(share: float) -> list[list[Run]]:
        end = perf_counter() + share * seconds * len(candidates)
        rounds = [run_round() for _ in range(LEAST_ROUNDS)]
        while perf_counter() < end:
            rounds.append(run_round())
        return rounds

    rounds_for(WARM_UP)
    return [Runs(runs, batch) for runs in zip(*rounds_for(1), strict=True)]
