"""The head of a file that nobody trained: the full tower's embedding, and the texts of the classes.

It is a T-GEM without a Jumper: mu_c is the text embedding of the class, and sigma is the same everywhere.
With z and mu of length 1 and sigma^2 = 1 / s, for CLIP's own logit scale s,

    K R_c = K log2(sigma^2) + s |z - mu_c|^2 / 2 = const - s cos(z, mu_c),

so softmax(-K R) is the posterior of CLIP itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tgems_export.encoders.towers.layers import make_linear
from tgems_export.heads.base import ExitHead

__all__ = ["ZeroShotHead"]


class ZeroShotHead(ExitHead):
    """Class-rates of joint embeddings under one Gaussian for each class text."""

    def __init__(self, embedding_width: int, logit_scale: float):
        """For joint embeddings of width E, and CLIP's logit scale s."""
        super().__init__()
        self.k = embedding_width
        self.register_buffer("logit_scale", torch.tensor(float(logit_scale)))

    def rates(self, activation: Tensor, text: Tensor) -> Tensor:
        """Class-rates (B, C) of embeddings (B, E) under texts (C, E), all of length 1."""
        scale = self.get_buffer("logit_scale")
        distances = 2 - 2 * activation @ text.T
        return -torch.log2(scale) + scale / (2 * self.k) * distances

    def readout(self, text: Tensor) -> nn.Module:
        """One product with the texts of the classes."""
        scale = float(self.get_buffer("logit_scale"))
        offset = scale / self.k - math.log2(scale)
        return _Readout(make_linear(-scale / self.k * text, torch.full((len(text),), offset)))


class _Readout(nn.Module):
    """Class tables, from embeddings (B, E) to class-rates (B, C)."""

    def __init__(self, tables: nn.Linear):
        super().__init__()
        self.tables = tables

    def forward(self, activation: Tensor) -> Tensor:
        return self.tables(activation)
