"""Jumper and T-GEM (arXiv 2605.17499): a Gaussian for each class, predicted from its text embedding.

The Jumper J projects an activation (D) to z (K). The T-GEM Psi predicts, from the text embedding of a class
(E), the Gaussian N(mu_c, diag(sigma_c^2)) of z. For ViT-B/32 and K = 128 both have 295 552 parameters, 4.17 %
of one residual block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tgems_edge.maths.rates import class_rates, rate_tables
from tgems_export.encoders.towers.layers import make_linear
from tgems_export.heads.base import ExitHead

__all__ = ["SIGMA_FLOOR", "Jumper", "TGem", "TGemHead", "TGemReadout"]

SIGMA_FLOOR = 0.11  # z has unit variance: no class is known better than this, and R_y cannot dive
SIGMA_CAP = 10.0
HIDDEN = 256


class Jumper(nn.Module):
    """l (B, D) to z (B, K): a linear map whose outputs have zero mean and unit variance.

    The normalisation has no gain and no offset of its own, so the scale of z is not free: shrinking z
    together with sigma, which would send the rate to minus infinity, is impossible.
    """

    def __init__(self, width: int, k: int):
        """Make a Jumper from D = `width` to K = `k`."""
        super().__init__()
        self.linear = nn.Linear(width, k)
        self.norm = nn.BatchNorm1d(k, affine=False)

    def forward(self, activation: Tensor) -> Tensor:
        """(B, D) to (B, K)."""
        return self.norm(self.linear(activation))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) of the one linear map that this is after training."""
        mean, variance = self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")
        scale = torch.rsqrt(variance + self.norm.eps)
        return self.linear.weight * scale[:, None], (self.linear.bias - mean) * scale


class TGem(nn.Module):
    """Psi: text embeddings (C, E) to mu and sigma^2, each (C, K)."""

    def __init__(self, embedding_width: int, k: int):
        """Make a T-GEM from E = `embedding_width` to twice K = `k`."""
        super().__init__()
        self.gain = embedding_width**0.5  # embeddings have length 1; this gives their entries unit size
        self.hidden = nn.Linear(embedding_width, HIDDEN)
        self.mean = nn.Linear(HIDDEN, k)
        self.spread = nn.Linear(HIDDEN, k)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """(C, E) to mu (C, K) and sigma^2 (C, K), with sigma in [0.11, 10]."""
        hidden = nn.functional.gelu(self.hidden(text * self.gain))
        sigma = (SIGMA_FLOOR + nn.functional.softplus(self.spread(hidden))).clamp(max=SIGMA_CAP)
        return self.mean(hidden), sigma.square()


class TGemHead(ExitHead):
    """A Jumper and the T-GEM that describes its outputs."""

    def __init__(self, width: int, embedding_width: int, k: int):
        """Make a head for activations of width D and text embeddings of width E."""
        super().__init__()
        self.k = k
        self.jumper = Jumper(width, k)
        self.tgem = TGem(embedding_width, k)

    def rates(self, activation: Tensor, text: Tensor) -> Tensor:
        """Class-rates (B, C) of activations (B, D) under the classes of text embeddings (C, E)."""
        return class_rates(self.jumper(activation), *self.tgem(text), log2=torch.log2)

    def readout(self, text: Tensor) -> TGemReadout:
        """See `ExitHead`: the Jumper, its normalisation folded in, and one product with class tables."""
        return TGemReadout(self, text)


class TGemReadout(nn.Module):
    """A Jumper and the tables of its classes, from activations (B, D) to class-rates (B, C)."""

    def __init__(self, head: TGemHead, text: Tensor):
        """Fold a head for classes with text embeddings (C, E)."""
        super().__init__()
        a, b, c = rate_tables(*(moment.double() for moment in head.tgem(text)), log2=torch.log2)
        self.jumper = make_linear(*head.jumper.folded())
        self.tables = make_linear(torch.cat([a, b], 1).float(), c.float())

    def forward(self, activation: Tensor) -> Tensor:
        """[z*z, z] @ [a, b]^T + c."""
        z = self.jumper(activation)
        return self.tables(torch.cat([z * z, z], 1))
