"""Trains one head: a Jumper and a T-GEM together, on cached activations.

Every epoch draws its shuffle and its prompts from a generator seeded with (seed, layer, epoch), so
the state between two epochs is weights, statistics and optimiser, and nothing else. That state is
saved as training goes; killed at any point and started again, it ends in the same bytes.

The work is small matrices, so it stays on one thread of the CPU: a second thread gains nothing (measured)
and would make the bytes depend on the number of cores. An accelerator only helps the encoder.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tgems_edge.errors import DataError
from tgems_export.encoders.towers.base import Pool
from tgems_export.heads.base import ExitHead
from tgems_export.heads.losses import Loss, LossName
from tgems_export.heads.tgem import Jumper, TGemHead
from tgems_export.heads.training.base import (
    Figures,
    HeadSettings,
    OnEpoch,
    Teacher,
    TrainingSet,
    make_seed,
    predict,
    validate,
)
from tgems_export.heads.training.health import examine
from tgems_export.storage.files import read_checked, write_checked
from tgems_export.threads import one_thread

__all__ = ["TGemSettings", "train_tgem_head"]

DEFAULT_K = 128
TRIAL_SHARE = 8  # of the epochs, after which the better pool shows


@dataclass(frozen=True)
class TGemSettings(HeadSettings):
    """Settings of a head's training; the reason stands beside each value."""

    k: int | None = None  # 128, or D where that is less; the paper: enough, and 4 % of one block of ViT-B/32
    epochs: int = 120  # the paper
    loss: LossName = "tgems"
    seed: int = 0
    batch: int = 2048  # at most; a third of the time of 512 at the same accuracy
    least_batch: int = 32  # enough for the Jumper's statistics
    steps_per_epoch: int = 16  # at least, so that small folders are not starved of steps
    learning_rate: float = 4e-3
    spread_learning_rate: float = 4e-4  # sigma follows mu, or it grows to explain what mu has not learnt yet
    epochs_between_checkpoints: int = 10
    few: int = (
        200  # pictures a class; fewer are learnt by heart without dropout and mixup: 70 to 73 % on 99 names
    )
    dropout: float = 0.5  # of the entries of an activation, of few pictures
    mixup: float = 0.4  # alpha of its Beta distribution, of few pictures
    options: ClassVar = frozenset({"k", "epochs", "loss"})

    def compared_in(self, width: int, embedding_width: int, whose: str) -> int:
        """See `HeadSettings`; a Jumper only makes an activation narrower."""
        if self.k is None:
            return min(DEFAULT_K, width)
        if self.k > width:
            raise DataError(f"--k {self.k}: at most {width}, the width of {whose}")
        return self.k

    def pools(self, available: tuple[Pool, ...]) -> tuple[Pool, ...]:
        """See `HeadSettings`: any of them."""
        return available

    def epochs_for(self, pictures: int) -> int:
        """See `HeadSettings`."""
        return self.epochs

    def trial(self) -> TGemSettings:
        """See `HeadSettings`."""
        return dataclasses.replace(self, epochs=max(1, self.epochs // TRIAL_SHARE))

    def train(
        self,
        data: TrainingSet,
        teacher: Teacher,
        *,
        layer: int,
        checkpoint: Path | None = None,
        on_epoch: OnEpoch = lambda epoch, accuracy: None,
    ) -> TGemHead:
        """See `HeadSettings`; learns nothing from the teacher beyond the targets."""
        return train_tgem_head(data, self, layer=layer, checkpoint=checkpoint, on_epoch=on_epoch)

    def examine(
        self, head: ExitHead, data: TrainingSet, held_out_text: Tensor | None, classes: tuple[str, ...]
    ) -> Figures:
        """See `HeadSettings`; warns of the degenerate solutions (`health`)."""
        assert isinstance(head, TGemHead)
        activations = data.validation_activations
        health = examine(
            head.jumper(activations),
            data.validation_labels,
            head.tgem(data.text),
            predict(head, activations, data.text),
            None if held_out_text is None else predict(head, activations, held_out_text),
            classes,
        )
        return Figures(
            pictures=len(data.activations),
            accuracy=health.accuracy,
            accuracy_held_out_templates=health.accuracy_held_out_templates,
            warnings=health.warnings(),
        )


def train_tgem_head(
    data: TrainingSet,
    settings: TGemSettings,
    *,
    layer: int,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch = lambda epoch, accuracy: None,
    make: Callable[[int, int, int], TGemHead] = TGemHead,
) -> TGemHead:
    """Trains Jumper and T-GEM together with Adam and a cosine schedule.

    Args:
        data: see `TrainingSet`.
        settings: see `TGemSettings`.
        layer: of the activations; part of the seed.
        checkpoint: where the state is kept between epochs; an existing one is continued.
        on_epoch: called after each epoch with its number and a function that measures accuracy.
        make: of D, E and K, the head to train.
    """
    generator = torch.Generator()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_seed(settings.seed, layer, 0))
        width, embedding_width = data.activations.shape[1], data.prompts.shape[2]
        head = make(width, embedding_width, settings.k or min(DEFAULT_K, width))
    few = len(data.activations) < settings.few * data.targets.shape[1]
    given = data.activations
    scale = _Scale.of(given) if few else None
    if scale:
        data = dataclasses.replace(
            data,
            activations=scale(given),
            validation_activations=scale(data.validation_activations),
        )
    loss = Loss(settings.loss, head.k)
    optimiser = _optimiser(head, loss, settings)
    first = _resume(checkpoint, head, loss, optimiser)
    with one_thread():
        for epoch in range(first, settings.epochs + 1):
            generator.manual_seed(make_seed(settings.seed, layer, epoch))
            _train_epoch(epoch, head, loss, optimiser, data, settings, generator, few=few)
            if checkpoint and (epoch % settings.epochs_between_checkpoints == 0 or epoch == settings.epochs):
                _save(checkpoint, epoch, head, loss, optimiser)
            on_epoch(epoch, lambda: validate(head, data))
    if scale:
        if isinstance(head.jumper, Jumper):
            _settle(head.jumper.norm, head.jumper.linear(data.activations))
            scale.fold(head)
        else:  # a normalization alone
            _settle(head.jumper, given)
    return head.eval().requires_grad_(False)


def _train_epoch(
    epoch: int,
    head: TGemHead,
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    data: TrainingSet,
    settings: TGemSettings,
    generator: torch.Generator,
    *,
    few: bool,
) -> None:
    """One pass in random order; every step says each class in a template drawn for it."""
    head.train()
    pictures, (classes, templates, _) = len(data.activations), data.prompts.shape
    batch = max(settings.least_batch, min(settings.batch, pictures // settings.steps_per_epoch))
    batches = torch.randperm(pictures, generator=generator).split(batch)
    if len(batches) > 1 and len(batches[-1]) < batch:
        batches = batches[:-1]  # a small rest would upset the Jumper's statistics; the shuffle changes it
    drawn = torch.randint(templates, (len(batches), classes), generator=generator)
    every_class = torch.arange(classes)
    for step, members in enumerate(batches):
        _set_learning_rate(optimiser, settings, (epoch - 1 + step / len(batches)) / settings.epochs)
        activations, targets = data.activations[members], data.targets[members]
        if few:
            activations, targets = _disturb(activations, targets, settings, generator)
        z = head.jumper(activations)
        mu, variance = head.tgem(data.prompts[every_class, drawn[step]])
        optimiser.zero_grad()
        loss(z, mu, variance, targets).backward()
        optimiser.step()


@dataclass(frozen=True)
class _Scale:
    """Mean and standard deviation of activations, (D,) each, that are folded into the Jumper in the end."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, activations: Tensor) -> _Scale:
        """Measure activations (n, D)."""
        return cls(activations.mean(0), activations.std(0) + 1e-5)

    def __call__(self, activations: Tensor) -> Tensor:
        """Standardize activations (n, D), so that a dropped entry is the mean."""
        return (activations - self.mean) / self.deviation

    @torch.no_grad()
    def fold(self, head: TGemHead) -> None:
        """Make a head for standardized activations one for activations as they are."""
        linear = head.jumper.linear
        linear.weight.div_(self.deviation)
        linear.bias.sub_(linear.weight @ self.mean)


@torch.no_grad()
def _settle(norm: nn.Module, inputs: Tensor) -> None:
    """Normalize by inputs (n, K) as they are: dropout and mixup changed their mean and variance."""
    norm.get_buffer("running_mean").copy_(inputs.mean(0))
    norm.get_buffer("running_var").copy_(inputs.var(0))


def _disturb(
    activations: Tensor, targets: Tensor, settings: TGemSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each picture with another, and drop entries: activations (B, D) and targets (B, C)."""
    seed = int(torch.randint(2**31, (1,), generator=generator))  # torch draws no Beta from a generator
    share = float(np.random.default_rng(seed).beta(settings.mixup, settings.mixup))
    others = torch.randperm(len(activations), generator=generator)
    mixed = share * activations + (1 - share) * activations[others]
    kept = torch.rand(mixed.shape, generator=generator) >= settings.dropout
    return mixed * kept / (1 - settings.dropout), share * targets + (1 - share) * targets[others]


def _optimiser(head: TGemHead, loss: Loss, settings: TGemSettings) -> torch.optim.Optimizer:
    spread = list(head.tgem.spread.parameters())
    rest = [p for p in [*head.parameters(), *loss.parameters()] if all(p is not s for s in spread)]
    groups = [
        {"params": rest, "peak": settings.learning_rate},
        {"params": spread, "peak": settings.spread_learning_rate},
    ]
    return torch.optim.Adam(groups, fused=True)


def _set_learning_rate(optimiser: torch.optim.Optimizer, settings: TGemSettings, progress: float) -> None:
    """Half a cosine from each group's peak to zero."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * 0.5 * (1 + math.cos(math.pi * progress))


def _save(path: Path, epoch: int, head: TGemHead, loss: Loss, optimiser: torch.optim.Optimizer) -> None:
    state = {"epoch": epoch, "head": head.state_dict(), "loss": loss.state_dict()}
    buffer = io.BytesIO()
    torch.save({**state, "optimiser": optimiser.state_dict()}, buffer)
    write_checked(path, buffer.getvalue())


def _resume(path: Path | None, head: TGemHead, loss: Loss, optimiser: torch.optim.Optimizer) -> int:
    """The epoch to go on with: 1, or the one behind the checkpoint; a damaged one is as good as none."""
    content = read_checked(path) if path else None
    if content is None:
        return 1
    state = torch.load(io.BytesIO(content), weights_only=True)
    head.load_state_dict(state["head"])
    loss.load_state_dict(state["loss"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["epoch"]) + 1
