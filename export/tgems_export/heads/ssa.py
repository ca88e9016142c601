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

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tgems_export.heads.file import SsaHead
from tgems_export.heads.losses import cosines
from tgems_export.heads.training import TrainingSet, make_seed, one_thread, validate

__all__ = ["SsaSettings", "Teacher", "train_ssa_head"]


@dataclass(frozen=True)
class SsaSettings:
    """How an SSA head is trained; the reason stands beside each value."""

    epochs: int = 3  # the paper, as are batch, learning rate and share
    batch: int = 64
    learning_rate: float = 5e-4
    share: float = 0.1  # of the pictures
    least_pictures: int = 5000  # or all, where there are fewer; a tenth of few teaches an MLP little
    least_steps: int = 235  # three epochs over those; three over 1 000 pictures end 10 points below
    alignment: float = 1.0  # w; 0 for the hard-label twin
    seed: int = 0

    def pictures(self, available: int) -> int:
        """How many pictures train, of those that could."""
        return min(available, max(self.least_pictures, math.ceil(self.share * available)))

    def passes(self, available: int) -> int:
        """Epochs, all told."""
        steps = math.ceil(self.pictures(available) / self.batch)
        return max(self.epochs, math.ceil(self.least_steps / steps))


@dataclass(frozen=True)
class Teacher:
    """The full CLIP, as far as an SSA head learns from it."""

    embeddings: Tensor  # (n, E) of the pictures to train on
    logit_scale: float  # s


def train_ssa_head(
    data: TrainingSet,
    teacher: Teacher,
    settings: SsaSettings,
    *,
    layer: int,
    on_epoch: Callable[[int, Callable[[], float]], None] = lambda epoch, accuracy: None,
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
        for epoch in range(1, settings.passes(available) + 1):
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
