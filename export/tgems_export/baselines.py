"""What the T-GEM is held against: class Gaussians measured on pictures instead of predicted from text."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sampling"]

LEAST_VARIANCE = 1e-6  # of a dimension that is constant in the sample


def sampling(activations: Tensor, labels: Tensor, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Moments of S pictures a class on the raw activation, the sampling baseline of arXiv 2605.17499.

    Args:
        activations: (n, D), without a Jumper.
        labels: (n,) with classes 0 to C - 1.
        per_class: S.
        seed: of the draw.

    Returns:
        mu and sigma^2, each (C, D).
    """
    generator = torch.Generator().manual_seed(seed)
    means, variances = [], []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero()[:, 0]
        drawn = members[torch.randperm(len(members), generator=generator)[:per_class]]
        sample = activations[drawn]
        means.append(sample.mean(0))
        variances.append(sample.var(0, unbiased=False).clamp(min=LEAST_VARIANCE))
    return torch.stack(means), torch.stack(variances)
