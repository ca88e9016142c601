"""The four losses a head can be trained with.

z (B, K) are Jumper outputs, mu and variance (C, K) the class Gaussians, and target (B, C) a
distribution over the classes: one-hot with labels, soft with a teacher. R are class-rates (eq. 1).

    L_r = CE(softmax(-s R), target) + w <target, R>     s learnable, w small
    L_s = CE(softmax(cos(z, mu) / 0.07), target)

    tgems    L_r + L_s
    rate     L_r
    cosine   L_s
    paper    <target, R> + 1 - <target, cos(z, mu)>

`paper` is the letter of arXiv 2605.17499, and has a constant solution: z = mu_c = v for every class
costs it nothing. It is here because an ablation needs it; the contrastive terms of the others are what
keeps the classes apart.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from tgems_edge.maths.rates import class_rates

__all__ = ["Loss", "LossName"]

LossName = Literal["tgems", "rate", "cosine", "paper"]

COSINE_TEMPERATURE = 0.07
RATE_WEIGHT = 0.01  # enough to keep the rate of the true class a code length, too little to dominate


class Loss(nn.Module):
    """One of the four losses; `tgems` and `rate` learn the scale s along with the head."""

    def __init__(self, name: LossName, k: int):
        """Make the loss for Jumper outputs of width K."""
        super().__init__()
        self.name = name
        self.log_scale = nn.Parameter(torch.tensor(math.log(k * math.log(2) / 2)))  # nats of K dimensions

    def forward(self, z: Tensor, mu: Tensor, variance: Tensor, target: Tensor) -> Tensor:
        """The mean loss over B, a scalar."""
        if self.name == "rate":
            return self._rate(z, mu, variance, target)
        if self.name == "cosine":
            return self._cosine(z, mu, target)
        if self.name == "paper":
            rate = expected(class_rates(z, mu, variance, log2=torch.log2), target)
            return rate + 1 - expected(cosines(z, mu), target)
        return self._rate(z, mu, variance, target) + self._cosine(z, mu, target)

    def _rate(self, z: Tensor, mu: Tensor, variance: Tensor, target: Tensor) -> Tensor:
        rates = class_rates(z, mu, variance, log2=torch.log2)
        contrast = nn.functional.cross_entropy(-self.log_scale.exp() * rates, target)
        return contrast + RATE_WEIGHT * expected(rates, target)

    def _cosine(self, z: Tensor, mu: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(cosines(z, mu) / COSINE_TEMPERATURE, target)


def expected(values: Tensor, target: Tensor) -> Tensor:
    """Mean over B of <target, values>, both (B, C)."""
    return (values * target).sum(1).mean()


def cosines(z: Tensor, mu: Tensor) -> Tensor:
    """Cosine of every z (B, K) with every mu (C, K): (B, C)."""
    return nn.functional.normalize(z, dim=1) @ nn.functional.normalize(mu, dim=1).T
