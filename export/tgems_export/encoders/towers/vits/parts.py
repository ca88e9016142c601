"""Parts of ViTs, in one vocabulary for all libraries: a stem and a chain of residual blocks.

B pictures, L tokens of which the first P are prefix tokens (class token, registers), D width of the tower, H
heads of width d.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tgems_edge.errors import EncoderError

__all__ = [
    "Attention",
    "Block",
    "Rotary",
    "Stem",
    "known",
    "norm",
    "pairs_apart",
    "scaled",
    "scaled_block",
    "thirds",
]


@dataclass(frozen=True)
class Stem:
    """Pictures to tokens: unpadded convolutions, prefix tokens in front, positions added, maybe a norm."""

    convolutions: nn.Sequential  # float (B, 3, H, W) to (B, D, h, w), h w = L - P; the first has no padding
    prefix: Tensor  # (P, D), their positions added already
    positions: Tensor  # (L - P, D)
    norm: nn.LayerNorm | None


@dataclass(frozen=True)
class Rotary:
    """Turns each pair (x_j, x_{j + d/2}) of a query or key by an angle that depends on its token."""

    cos: Tensor  # (L, d/2); 1 for prefix tokens
    sin: Tensor  # (L, d/2); 0 for prefix tokens


@dataclass(frozen=True)
class Attention:
    """Multi-head attention; scaling of single heads is in `value`."""

    heads: int
    query: nn.Linear  # D to H d
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear  # H d to D
    query_norm: nn.LayerNorm | None = None  # over d
    key_norm: nn.LayerNorm | None = None
    rotary: Rotary | None = None
    norm: nn.LayerNorm | None = None  # over H d, before `out`


@dataclass(frozen=True)
class Block:
    """x + post_1(attention(pre_1(x))), then the same with the MLP; LayerScale is in what precedes it."""

    pre_1: nn.LayerNorm | None
    attention: Attention
    post_1: nn.LayerNorm | None
    pre_2: nn.LayerNorm | None
    gate: nn.Linear | None  # the hidden activation is activation(gate(x)) * expand(x), or
    expand: nn.Linear  # activation(expand(x)) without a gate
    activation: nn.Module
    norm: nn.LayerNorm | None  # of the hidden activation
    contract: nn.Linear
    post_2: nn.LayerNorm | None


def known(part: Any, parts: Mapping[type[nn.Module], set[str]]) -> Any:
    """A part of a tower, if all that it holds is listed; what a later version adds is not forgotten.

    Args:
        part: a module.
        parts: by kind of module, the names of all that it may hold.

    Raises:
        EncoderError: it holds something else.
    """
    kind = type(part)
    if kind not in parts:
        raise EncoderError(f"it has a {kind.__name__}, which cannot be cut out of it")
    held = {name for name, _ in (*part.named_children(), *part.named_parameters(recurse=False))}
    if unknown := sorted(held - parts[kind]):
        raise EncoderError(f"its {kind.__name__} has {unknown[0]}, which the graph has not")
    return part


def norm(module: nn.Module) -> nn.LayerNorm | None:
    """A norm, or None where there is none.

    Raises:
        EncoderError: it normalises otherwise.
    """
    if isinstance(module, nn.Identity):
        return None
    if isinstance(module, nn.LayerNorm) and module.weight is not None and module.bias is not None:
        return module
    raise EncoderError(f"it normalises with a {type(module).__name__}")


def thirds(weight: Tensor, bias: Tensor | None) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Query, key and value from their joint product, (3 H d, D)."""
    biases = (None, None, None) if bias is None else bias.detach().chunk(3)
    query, key, value = (_linear(w, b) for w, b in zip(weight.detach().chunk(3), biases, strict=True))
    return query, key, value


def pairs_apart(linear: nn.Linear, heads: int) -> nn.Linear:
    """Moves the pairs (x_2j, x_2j+1) of every head to (x_j, x_j+d/2); done to both, q k is the same."""
    order = torch.arange(linear.out_features).view(heads, -1, 2).transpose(1, 2).flatten()
    return _linear(
        linear.weight.detach()[order], None if linear.bias is None else linear.bias.detach()[order]
    )


def scaled_block(block: Block, scale_1: Tensor | None, scale_2: Tensor | None) -> Block:
    """The block with its LayerScales (D,) put into what precedes them: a norm, or a linear map."""
    if scale_1 is not None and block.post_1:
        block = replace(block, post_1=_scaled_norm(block.post_1, scale_1.detach()))
    elif scale_1 is not None:
        attention = replace(block.attention, out=scaled(block.attention.out, scale_1.detach()))
        block = replace(block, attention=attention)
    if scale_2 is not None:
        block = replace(block, contract=scaled(block.contract, scale_2.detach()))
    return block


def scaled(linear: nn.Linear, scale: Tensor) -> nn.Linear:
    """A linear map whose outputs are multiplied by `scale`."""
    bias = None if linear.bias is None else linear.bias.detach() * scale
    return _linear(linear.weight.detach() * scale[:, None], bias)


def _scaled_norm(norm: nn.LayerNorm, scale: Tensor) -> nn.LayerNorm:
    """A norm whose outputs are multiplied by `scale`."""
    scaled = copy.deepcopy(norm)
    scaled.weight = nn.Parameter(norm.weight.detach() * scale)
    scaled.bias = nn.Parameter(norm.bias.detach() * scale)
    return scaled


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear
