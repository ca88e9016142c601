"""Trains one SSA head on cached activations, as LRA-EE does (arXiv 2605.26415).

y (B, E) are outputs of the head, v (B, E) the full CLIP's embeddings of the same pictures, t (C, E) the
embeddings of the classes, s is CLIP's own logit scale, and target (B, C) a distribution over the classes:
one-hot with labels, soft with a teacher.

    L = CE(softmax(s cos(y, t)), target) + w (1 - cos(y, v))

w = 0 is the hard-label twin of a head: the control that tells what v is good for.

Shuffles come from a generator seeded with (seed, layer, epoch), on one thread, so the same data ends in the
same bytes. It takes seconds; nothing is kept for a training that is interrupted.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from tgems_export.encoders.towers.base import Pool
from tgems_export.heads.base import ExitHead
from tgems_export.heads.losses import cosines
from tgems_export.heads.ssa import SsaHead
from tgems_export.heads.training.base import (
    Figures,
    HeadSettings,
    OnEpoch,
    Teacher,
    TrainingSet,
    make_seed,
    validate,
)
from tgems_export.heads.training.health import guessing
from tgems_export.threads import one_thread

__all__ = ["SsaSettings", "train_ssa_head"]


@dataclass(frozen=True)
class SsaSettings(HeadSettings):
    """Settings of an SSA head's training; the reason stands beside each value."""

    epochs: int = 3  # the paper, as are batch, learning rate and share
    batch: int = 64
    learning_rate: float = 5e-4
    share: float = 0.1  # of the pictures
    least_pictures: int = 5000  # or all, where there are fewer; a tenth of few teaches an MLP little
    least_steps: int = 235  # three epochs over those; three over 1 000 pictures end 10 points below
    alignment: float = 1.0  # w; 0 for the hard-label twin
    seed: int = 0

    options: ClassVar = frozenset[str]()

    def pictures(self, available: int) -> int:
        """Return how many of the available pictures train."""
        return min(available, max(self.least_pictures, math.ceil(self.share * available)))

    def compared_in(self, width: int, embedding_width: int, whose: str) -> int:
        """See `HeadSettings`: it compares in the joint embedding."""
        return embedding_width

    def pools(self, available: tuple[Pool, ...]) -> tuple[Pool, ...]:
        """See `HeadSettings`: it reads the mean of the patch tokens."""
        return tuple(pool for pool in available if pool == "mean")

    def epochs_for(self, pictures: int) -> int:
        """See `HeadSettings`."""
        steps = math.ceil(self.pictures(pictures) / self.batch)
        return max(self.epochs, math.ceil(self.least_steps / steps))

    def trial(self) -> SsaSettings:
        """See `HeadSettings`; it is short as it is."""
        return self

    def train(
        self,
        data: TrainingSet,
        teacher: Teacher,
        *,
        layer: int,
        checkpoint: Path | None = None,
        on_epoch: OnEpoch = lambda epoch, accuracy: None,
    ) -> SsaHead:
        """See `HeadSettings`; keeps no checkpoint."""
        return train_ssa_head(data, teacher, self, layer=layer, on_epoch=on_epoch)

    def examine(
        self, head: ExitHead, data: TrainingSet, held_out_text: Tensor | None, classes: tuple[str, ...]
    ) -> Figures:
        """See `HeadSettings`."""
        accuracy = validate(head, data)
        held_out = None if held_out_text is None else dataclasses.replace(data, text=held_out_text)
        guessed = (
            f"accuracy {accuracy:.0%} on {len(data.validation_labels)} held-out pictures cannot be told from "
            "guessing; check the labels, give more pictures, or use a later layer"
        )
        return Figures(
            pictures=self.pictures(len(data.activations)),
            accuracy=accuracy,
            accuracy_held_out_templates=None if held_out is None else validate(head, held_out),
            warnings=(guessed,) if accuracy <= guessing(data.validation_labels) else (),
        )


def train_ssa_head(
    data: TrainingSet,
    teacher: Teacher,
    settings: SsaSettings,
    *,
    layer: int,
    on_epoch: OnEpoch = lambda epoch, accuracy: None,
) -> SsaHead:
    """Trains an SSA head with Adam.

    Args:
        data: see `TrainingSet`; its activations are means of the patch tokens.
        teacher: see `Teacher`.
        settings: see `SsaSettings`.
        layer: of the activations; part of the seed.
        on_epoch: called after each epoch with its number and a function that measures accuracy.
    """
    generator = torch.Generator()
    generator.manual_seed(make_seed(settings.seed, layer, 0))
    available = len(data.activations)
    chosen = torch.randperm(available, generator=generator)[: settings.pictures(available)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_seed(settings.seed, layer, 0))
        head = SsaHead(data.activations.shape[1], data.text.shape[1])
    optimiser = torch.optim.Adam(head.parameters(), lr=settings.learning_rate, fused=True)
    with one_thread():
        for epoch in range(1, settings.epochs_for(available) + 1):
            generator.manual_seed(make_seed(settings.seed, layer, epoch))
            head.train()
            shuffled = chosen[torch.randperm(len(chosen), generator=generator)]
            for members in shuffled.split(settings.batch):
                optimiser.zero_grad()
                _loss(head, data, teacher, members, settings.alignment).backward()
                optimiser.step()
            on_epoch(epoch, lambda: validate(head, data))
    return head.eval().requires_grad_(False)


def _loss(head: SsaHead, data: TrainingSet, teacher: Teacher, members: Tensor, alignment: float) -> Tensor:
    """L, the mean over the pictures of a batch, a scalar."""
    embeddings = head(data.activations[members])
    logits = teacher.logit_scale * cosines(embeddings, data.text)
    distance = 1 - nn.functional.cosine_similarity(embeddings, teacher.embeddings[members])
    return nn.functional.cross_entropy(logits, data.targets[members]) + alignment * distance.mean()
