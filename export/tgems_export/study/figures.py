"""Figures that a report reads from the results of a study: means, pairs, and an oracle's.

B pictures that measure, N layers. "The method" is T-GEM + Jumper with the pool that did better on the
training pictures that watched; pictures that measure choose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tgems_edge.maths.metrics import coverage_interval
from tgems_edge.maths.sets import COVERAGES
from tgems_export.encoders.towers.base import Pool
from tgems_export.exporting.graph.costs import Cost
from tgems_export.study.measures import right_answers
from tgems_export.study.plan import (
    FULL,
    Ablation,
    Plan,
    Results,
    ablations,
    few_shot_rivals,
    rivals_task,
    sampling_task,
)
from tgems_export.study.rivals import FORMS, RIVALS, SAMPLES
from tgems_export.study.subject import Subject
from tgems_export.study.variations import Variation

__all__ = [
    "EARLY",
    "PAPER_EARLY",
    "PAPER_ORACLE",
    "Difference",
    "Study",
    "auroc_half_width",
    "share_half_width",
]

PAPER_ORACLE = 0.94  # of pictures that some layer is right about, CIFAR-10 and ViT-B-32, arXiv 2605.17499
PAPER_EARLY = 0.536  # resolved before the block behind this one, there
EARLY = 5
NORMAL = 1.96  # standard errors to either side hold 95 of 100 cases


@dataclass(frozen=True)
class Difference:
    """The difference of two accuracies on the same pictures, as shares."""

    mean: float
    half_width: float  # of the interval that holds 95 of 100 cases

    @property
    def verdict(self) -> Literal["better", "no difference", "worse"]:
        """Compare the first with the second on the same pictures."""
        if abs(self.mean) <= self.half_width:
            return "no difference"
        return "better" if self.mean > 0 else "worse"


@dataclass(frozen=True)
class Study:
    """A finished study."""

    plan: Plan
    subject: Subject
    full: Cost
    exits: tuple[Cost, ...]  # N
    results: Results

    @property
    def layers(self) -> range:
        """The N layers, counted from 1."""
        return range(1, self.subject.layers + 1)

    @property
    def pictures(self) -> int:
        """B."""
        return sum(self.subject.evaluation)

    @cached_property
    def pools(self) -> dict[int, Pool]:
        """The method's pool at each layer."""
        return {
            layer: self.plan.better_pool(self.results, self.subject.pools, layer) for layer in self.layers
        }

    def heads(self, layer: int, pool: Pool | None = None) -> list[Variation]:
        """The method at one layer, for each seed."""
        return self.plan.heads(layer, pool or self.pools[layer])

    def unprojected(self, layer: int, pool: Pool | None = None) -> Variation:
        """The T-GEM without Jumper, seed 0."""
        return self.plan.unprojected(layer, pool or self.pools[layer])

    def value(self, task: str, measure: str) -> Any:
        """One figure of one task."""
        return self.results[task][measure]

    def values(self, heads: Sequence[Variation], measure: str) -> list[float]:
        """The figure for each seed."""
        return [self.value(head.name, measure) for head in heads]

    def mean(self, layer: int, measure: str) -> float:
        """Figures of the method at one layer, over the seeds."""
        return float(np.mean(self.values(self.heads(layer), measure)))

    def first(self, layer: int, measure: str) -> Any:
        """A figure of the method at one layer, of seed 0."""
        return self.value(self.heads(layer)[0].name, measure)

    def best_rival(self, layer: int, pool: Pool) -> str:
        """The most accurate on the same activations; chosen by the pictures that measure, in its favour."""
        return max(RIVALS, key=lambda rival: self.value(rivals_task(layer, pool), f"{rival} top1"))

    def against_rival(self, layer: int, pool: Pool) -> Difference:
        """T-GEM + Jumper of seed 0 minus the best rival."""
        rival = f"{self.best_rival(layer, pool)} right"
        return self._compare(
            self.value(self.heads(layer, pool)[0].name, "right"), self.value(rivals_task(layer, pool), rival)
        )

    def against_full(self, layer: int) -> Difference:
        """T-GEM + Jumper of seed 0 minus the full CLIP."""
        return self._compare(self.first(layer, "right"), self.value(FULL, "right"))

    def best_sampling(self, layer: int, pool: Pool) -> float:
        """The most that sampling reaches with any S and either form of the rate."""
        task = sampling_task(layer, pool)
        return max(self.value(task, f"{form} {size}") for form in FORMS for size in SAMPLES)

    def few_shot(self, heads: Sequence[Variation], rival: str) -> list[float]:
        """Figures of a rival that learned from the same few pictures as these heads, for each of them."""
        return [self.value(few_shot_rivals(head), f"{rival} top1") for head in heads]

    @property
    def ablations(self) -> list[Ablation]:
        """One factor at a time, around the method at the plan's layer."""
        return ablations(self.plan, self.subject, self.pools[self.plan.layer])

    @cached_property
    def first_right(self) -> NDArray[np.int64]:
        """(B,) the first layer whose method, seed 0, is right about a picture; 0 where none is."""
        right = np.stack([self._bits(self.first(layer, "right")) for layer in self.layers])
        return np.where(right.any(0), right.argmax(0) + 1, 0)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of the measured coverage, for each promised one."""
        return {c: coverage_interval(self.subject.calibration, self.pictures, float(c)) for c in COVERAGES}

    def _bits(self, text: str) -> NDArray[np.bool_]:
        return right_answers(text, self.pictures)

    def _compare(self, ours: str, theirs: str) -> Difference:
        difference = self._bits(ours).astype(float) - self._bits(theirs)
        error = difference.std(ddof=1) / math.sqrt(len(difference))
        return Difference(float(difference.mean()), NORMAL * float(error))


def share_half_width(share: float, pictures: int) -> float:
    """Return half the width of the 95 % interval of a share."""
    return NORMAL * math.sqrt(share * (1 - share) / pictures)


def auroc_half_width(auroc: float, known: int, unknown: int) -> float:
    """Return half the width of the 95 % interval of an AUROC (Hanley and McNeil 1982)."""
    of_unknown = auroc / (2 - auroc) - auroc**2
    of_known = 2 * auroc**2 / (1 + auroc) - auroc**2
    variance = auroc * (1 - auroc) + (unknown - 1) * of_unknown + (known - 1) * of_known
    return NORMAL * math.sqrt(variance / (known * unknown))
