"""Several files in turn, in one process: round by round, each in another order, on the same pictures."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from tgems_edge.bench.album import Album
from tgems_edge.bench.contenders import STAGES, Contender, Run, run
from tgems_edge.bench.report import ExitRuns, Quantiles, Stages

__all__ = ["Runs", "run_in_turn"]

WARM_UP = 0.1  # of the time
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Runs:
    """What one file did in every round."""

    runs: tuple[Run, ...]
    batch: int  # B, pictures of a run

    @property
    def totals(self) -> list[float]:
        """Seconds of each run, from bytes to labels."""
        return [sum(run.seconds) for run in self.runs]

    @property
    def latency(self) -> Quantiles:
        """Of whole runs."""
        return Quantiles.of(self.totals)

    @property
    def stages(self) -> Stages:
        """Of their parts."""
        columns = zip(*(run.seconds for run in self.runs), strict=True)
        return Stages(**dict(zip(STAGES, map(Quantiles.of, columns), strict=True)))

    @property
    def pictures_per_second(self) -> float:
        """One run after the other, decoding and all."""
        return self.batch * len(self.runs) / sum(self.totals)

    def times_faster(self, than: Runs, stage: str | None = None) -> float:
        """The median of the ratios within a round, of whole runs or of one stage."""
        return median(
            other / own for other, own in zip(than._seconds(stage), self._seconds(stage), strict=True)
        )

    def _seconds(self, stage: str | None) -> list[float]:
        return self.totals if stage is None else [run.seconds[STAGES.index(stage)] for run in self.runs]

    def exits(self, layers: Sequence[int]) -> tuple[ExitRuns, ...]:
        """What each of the exits of a dynamic file answered."""
        answered = [layer for run in self.runs for layer in run.exit_layers]
        found = []
        for layer in layers:
            pictures = answered.count(layer)
            alone = [sum(run.seconds) for run in self.runs if run.exit_layers == [layer]]
            latency = Quantiles.of(alone) if alone else None
            found.append(ExitRuns(layer, pictures, pictures / len(answered), latency))
        return tuple(found)


def run_in_turn(contenders: Sequence[Contender], album: Album, batch: int, seconds: float) -> list[Runs]:
    """Warms up, and then runs round after round, without a sign of life: a bar that moves takes time too.

    Args:
        contenders: opened files.
        album: the pictures, which go on where the last case stopped.
        batch: B, pictures of a run.
        seconds: for each file.
    """
    order, shuffle = list(range(len(contenders))), random.Random(0).shuffle

    def run_round() -> list[Run]:
        files = [path.read_bytes() for path in album.take(batch)]
        shuffle(order)
        found = {position: run(contenders[position], files) for position in order}
        return [found[position] for position in range(len(contenders))]

    def rounds_for(share: float) -> list[list[Run]]:
        end = perf_counter() + share * seconds * len(contenders)
        rounds = [run_round() for _ in range(LEAST_ROUNDS)]
        while perf_counter() < end:
            rounds.append(run_round())
        return rounds

    rounds_for(WARM_UP)
    return [Runs(runs, batch) for runs in zip(*rounds_for(1), strict=True)]
