"""The tasks of a study."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tgems_export.encoders.towers.base import Pool
from tgems_export.study.material import Material
from tgems_export.study.measures import Value
from tgems_export.study.rivals import measure_rivals, measure_sampling, measure_zero_shot
from tgems_export.study.subject import Subject
from tgems_export.study.variations import Variation, measure_head

__all__ = [
    "FEW",
    "FEW_SHOT_RIVALS",
    "FULL",
    "LOSSES",
    "Ablation",
    "Plan",
    "Results",
    "Task",
    "ablation_tasks",
    "ablations",
    "few_shot_rivals",
    "layer_tasks",
    "rivals_task",
    "sampling_task",
]

Results = dict[str, dict[str, Value]]  # the figures of each task, by its name
Task = Callable[[Material], Iterator[tuple[str, Value]]]

FULL = "full CLIP"  # the name of its task
LOSSES = ("tgems", "rate", "cosine", "paper")
WIDTHS = (8, 16, 32, 64, 128, 256)  # K, as far as the encoder's width allows
FEW = (1, 2, 4, 8, 16)  # labelled pictures a class
TRAINING = (0.25, 1, 4)  # times as many epochs
FEW_SHOT_RIVALS = ("regression", "nearest mean")  # one picture a class has no covariance


@dataclass(frozen=True)
class Plan:
    """The plan of a study."""

    k: int
    epochs: int
    seeds: int
    layer: int  # around which one factor at a time is changed

    def head(self, layer: int, pool: Pool, seed: int) -> Variation:
        """The method itself."""
        return Variation(layer=layer, pool=pool, seed=seed, k=self.k, epochs=self.epochs)

    def heads(self, layer: int, pool: Pool, **changed: object) -> list[Variation]:
        """One for each seed, with some factors changed."""
        return [
            dataclasses.replace(self.head(layer, pool, seed), **changed)  # type: ignore[arg-type]
            for seed in range(self.seeds)
        ]

    def unprojected(self, layer: int, pool: Pool) -> Variation:
        """The T-GEM without Jumper."""
        return dataclasses.replace(self.head(layer, pool, 0), jumper=False)

    def better_pool(
        self, results: Mapping[str, Mapping[str, Value]], pools: Sequence[Pool], layer: int
    ) -> Pool:
        """The pool whose heads did better on the training pictures that watched."""

        def watched(pool: Pool) -> float:
            return float(np.mean([results[head.name]["watched"] for head in self.heads(layer, pool)]))

        return max(pools, key=watched)


def layer_tasks(plan: Plan, subject: Subject) -> dict[str, Task]:
    """Every layer with every pool: the method, what it is held against, and the full CLIP."""
    tasks: dict[str, Task] = {FULL: measure_zero_shot}
    for layer in range(1, subject.layers + 1):
        for pool in subject.pools:
            tasks |= _head_tasks([*plan.heads(layer, pool), plan.unprojected(layer, pool)])
            tasks[rivals_task(layer, pool)] = partial(measure_rivals, layer=layer, pool=pool)
            tasks[sampling_task(layer, pool)] = partial(measure_sampling, layer=layer, pool=pool)
    return tasks


def rivals_task(layer: int, pool: Pool) -> str:
    """The name of the task that measures the rivals."""
    return f"rivals, layer {layer}, {pool}"


def sampling_task(layer: int, pool: Pool) -> str:
    """The name of the task that measures sampling."""
    return f"sampling, layer {layer}, {pool}"


@dataclass(frozen=True)
class Ablation:
    """One factor, and the heads for each of its values."""

    factor: str
    heads: dict[str, list[Variation]]  # by value, the method's own among them


def ablations(plan: Plan, subject: Subject, pool: Pool) -> list[Ablation]:
    """One factor at a time, around the method at one layer."""

    def vary(**changed: object) -> list[Variation]:
        return plan.heads(plan.layer, pool, **changed)

    widths = sorted({*(k for k in WIDTHS if k <= subject.width), plan.k})
    least = min(subject.training)
    return [
        Ablation("loss", {loss: vary(loss=loss) for loss in LOSSES}),
        Ablation("K", {str(k): vary(k=k) for k in widths}),
        Ablation("epochs", {str(h[0].passes): h for h in (vary(training=times) for times in TRAINING)}),
        Ablation("templates", {"one": vary(templates="one"), "all": vary()}),
        Ablation(
            "labels",
            {str(n): vary(per_class=n) for n in FEW if n < least}
            | {"all": vary(), "none (teacher)": vary(labels="teacher")},
        ),
    ]


def ablation_tasks(plan: Plan, subject: Subject, pool: Pool) -> dict[str, Task]:
    """The heads of all ablations, and the rivals that learn from as few pictures."""
    found = ablations(plan, subject, pool)
    tasks = _head_tasks([head for ablation in found for heads in ablation.heads.values() for head in heads])
    for head in (head for heads in found[-1].heads.values() for head in heads if head.per_class):
        tasks[few_shot_rivals(head)] = partial(
            measure_rivals,
            layer=head.layer,
            pool=head.pool,
            per_class=head.per_class,
            seed=head.seed,
            which=FEW_SHOT_RIVALS,
        )
    return tasks


def few_shot_rivals(head: Variation) -> str:
    """The name of the task whose rivals learn from the same pictures as a head."""
    return f"rivals, {head.name}"


def _head_tasks(heads: list[Variation]) -> dict[str, Task]:
    return {head.name: partial(measure_head, variation=head) for head in heads}
