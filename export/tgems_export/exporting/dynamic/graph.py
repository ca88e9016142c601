"""Several exits of a tower as one graph, from uint8 pixels to what every exit says and whether to go on.

An exit that reads the class token runs its block for that token alone, on the tokens in front of the block,
as it does in a file of its own: so an early exit costs as little as there. A picture that goes on has the
block computed for all tokens, and the one row more is a few per cent of a block. An exit that reads the mean
of the patch tokens has its gate look at their spread as well, which takes the whole block; so that is
computed once and shared. Only the last exit, which has no gate, spares itself what its mean does not need.

A picture leaves at an exit (LRA-EE, arXiv 2605.26415, eq. 4) if

    sigmoid(w . (confidence, margin, spread) + b) >= threshold

for the largest probability, its lead over the second, and the mean squared distance of the patch tokens
from their mean. With logit(threshold) inside b it goes on if w . (confidence, margin, spread) + b < 0.

This graph computes everything, whatever its gates say, so it can be quantised, calibrated and have its gates
fitted; `nesting` makes the file of it. It has, for an exit behind block l,

    rates_l (B, C), probabilities_l (B, C)      and, for all but the last, spread_l (B,), go_on_l (B,)

and constants that can be set: posterior_scale_l and, for all but the last, gate_weight_l (3,), gate_bias_l.

B pictures, L tokens, P prefix tokens, D width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.towers.blocks import Embedding, ExitBlock, ResidualBlock
from tgems_export.encoders.towers.vit import Pool
from tgems_export.exporting.graph import POSTERIOR_SCALE, set_constant, to_onnx
from tgems_export.heads.base import ExitHead
from tgems_export.operations import count_linears

__all__ = ["ExitPart", "ExitsGraph", "count_operations", "exits_to_onnx"]

OWN = ("rates", "probabilities")  # of every exit
GATED = (*OWN, "spread", "go_on")  # of every exit but the last


@dataclass(frozen=True)
class ExitPart:
    """One of the exits: a block, counted from 1, the tokens that are read behind it, and the head."""

    layer: int
    pool: Pool
    head: ExitHead


class ExitsGraph(nn.Module):
    """Several exits of an image tower, from pixels to what each of them says."""

    def __init__(self, encoder: Encoder, parts: Sequence[ExitPart], text: Tensor):
        """For classes with text embeddings (C, E); exits in the order of their layers."""
        super().__init__()
        tower = encoder.tower
        *gated, last = (part.layer for part in parts)
        self.layers = (*gated, last)
        self.prefix = tower.prefix
        self.embedding = Embedding(tower.stem(), encoder.preprocessing)
        self.blocks: Any = nn.ModuleList(ResidualBlock(tower.block(i)) for i in range(last - 1))
        self.exits = nn.ModuleList()  # from the tokens behind so many blocks to rates
        self.depths: list[int] = []
        for part in parts:
            shares_block = part.pool == "mean" and part.layer != last
            block = tower.block(part.layer - 1)
            pool = _Mean(tower.prefix) if shares_block else ExitBlock(block, part.pool, tower.prefix)
            self.exits.append(nn.Sequential(pool, part.head.readout(text)))
            self.depths.append(part.layer if shares_block else part.layer - 1)
            self.register_buffer(f"{POSTERIOR_SCALE}_{part.layer}", torch.tensor(-float(part.head.k)))
        for layer in gated:
            self.register_buffer(f"gate_weight_{layer}", torch.zeros(3))
            self.register_buffer(f"gate_bias_{layer}", torch.tensor(0.0))
        self.eval().requires_grad_(False)

    @property
    def outputs(self) -> list[str]:
        """Names of what `forward` returns."""
        *gated, last = self.layers
        return [f"{what}_{layer}" for layer in gated for what in GATED] + [f"{what}_{last}" for what in OWN]

    @property
    def constants(self) -> list[str]:
        """Names of what can be set in the graph."""
        *gated, _ = self.layers
        scales = [f"{POSTERIOR_SCALE}_{layer}" for layer in self.layers]
        return scales + [f"gate_{part}_{layer}" for layer in gated for part in ("weight", "bias")]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, H, W, 3) to `outputs`."""
        return tuple(tensor for answer in self.answers(pixels) for tensor in answer)

    def answers(self, pixels: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """What each exit says; nothing behind an exit is computed before the next is asked for."""
        tokens, computed = self.embedding(pixels), 0
        for layer, depth, exit_ in zip(self.layers, self.depths, self.exits, strict=True):
            for block in self.blocks[computed:depth]:
                tokens = block(tokens)
            computed = depth
            rates = exit_(tokens)
            probabilities = torch.softmax(self.get_buffer(f"{POSTERIOR_SCALE}_{layer}") * rates, 1)
            if layer == self.layers[-1]:
                yield rates, probabilities
            else:
                spread = self._spread(tokens)
                yield rates, probabilities, spread, self._go_on(layer, probabilities, spread)

    def _spread(self, tokens: Tensor) -> Tensor:
        """(L, B, D) to the mean squared distance of the patch tokens from their mean, (B,)."""
        patches = tokens[self.prefix :]
        return (patches - patches.mean(0)).square().sum(-1).mean(0)

    def _go_on(self, layer: int, probabilities: Tensor, spread: Tensor) -> Tensor:
        """Whether pictures go on behind this exit, (B,)."""
        best, second = probabilities.topk(2)[0].chunk(2, 1)  # (B, 1)
        features = torch.cat([best, best - second, spread.unsqueeze(1)], 1)
        # A sum and no product of matrices, which a quantiser would take for one of the tower's.
        score = (features * self.get_buffer(f"gate_weight_{layer}")).sum(1)
        return score + self.get_buffer(f"gate_bias_{layer}") < 0


class _Mean(nn.Module):
    """The mean of the patch tokens, (L, B, D) to (B, D)."""

    def __init__(self, prefix: int):
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[self.prefix :].mean(0)


def exits_to_onnx(graph: ExitsGraph, size: tuple[int, int], opset: int) -> onnx.ModelProto:
    """The graph as an ONNX model (`to_onnx`), in which each of its `constants` has its name.

    Equal constants become one when a graph is exported, and one that adds nothing is left out. So it is
    exported with constants no two of which are alike, and then they are set to what they are.
    """
    actual = {name: graph.get_buffer(name).clone() for name in graph.constants}
    try:
        for number, name in enumerate(graph.constants):
            graph.get_buffer(name).fill_(math.pi + number)
        model = to_onnx(graph, size, opset, graph.outputs)
    finally:
        for name, value in actual.items():
            graph.get_buffer(name).copy_(value)
    for name, value in actual.items():
        set_constant(model, name, value.numpy())
    return model


def count_operations(graph: ExitsGraph, size: tuple[int, int]) -> list[int]:
    """Floating-point operations of one picture that leaves at each exit, heads of earlier ones included.

    They are counted as those of a static exit are (`operations`).

    Args:
        graph: see `ExitsGraph`.
        size: (H, W) of its input.
    """
    tokens = len(graph.embedding.offset)
    total, counts, computed = graph.embedding.operations(size), [], 0
    for depth, exit_ in zip(graph.depths, graph.exits, strict=True):
        pool, readout = exit_.children()
        total += sum(block.operations(tokens) for block in graph.blocks[computed:depth])
        total += count_linears(1, readout)
        if isinstance(pool, ExitBlock):
            total += pool.operations(tokens)
        computed = depth
        counts.append(total)
    return counts
