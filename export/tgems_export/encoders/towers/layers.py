"""Layers that a runtime likes: the same numbers as torch's own, in the form that ONNX Runtime fuses."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Gelu", "make_linear"]


class Gelu(nn.Module):
    """GELU in the one spelling that onnxruntime takes for a GELU."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply GELU to a tensor of any shape."""
        return tokens * (torch.erf(tokens / math.sqrt(2)) + 1.0) * 0.5


def make_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear map of a weight (out, in) and a bias (out,), or none."""
    linear = _Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


class _Linear(nn.Linear):
    """A linear map that is one product of two matrices in ONNX too, whose weight keeps its name."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(L, B, in) to (L, B, out), or (B, in) to (B, out)."""
        if tokens.ndim == 2:
            return super().forward(tokens)
        return super().forward(tokens.flatten(0, 1)).unflatten(0, (len(tokens), -1))
