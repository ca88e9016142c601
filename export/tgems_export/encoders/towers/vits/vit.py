"""ViTs: a stem and a chain of residual blocks of one width, with a point behind every block.

L tokens of which the first P are prefix tokens, D width of the tower.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tgems_edge.model_file.card import Preprocessing
from tgems_export.encoders.towers.base import Activations, ExitPoint, Part, Pool, Readout, Tower
from tgems_export.encoders.towers.operations import (
    count_attention,
    count_convolutions,
    count_linears,
    count_operations,
)
from tgems_export.encoders.towers.vits.blocks import Embedding, ExitBlock, ResidualBlock
from tgems_export.encoders.towers.vits.parts import Block, Stem

__all__ = ["ViT"]


class ViT(Tower):
    """A ViT, of which a library's own file says what its stem and its blocks are made of."""

    def __init__(
        self, module: Any, blocks: Iterable[nn.Module], width: int, prefix: int, *, has_class_token: bool
    ):
        """Read a tower of blocks of width D, with P prefix tokens, the class token first."""
        self.module = module
        self.prefix = prefix
        stem = self.describe_stem()
        self.tokens = len(stem.prefix) + len(stem.positions)
        size = _pair(module.image_size)
        pools: tuple[Pool, ...] = ("cls", "mean") if has_class_token else ("mean",)
        operations = count_convolutions(stem.convolutions, size)
        parameters = self.count_stem_parameters()
        points = []
        for number, block in enumerate(blocks, start=1):
            operations += _count_block(self.describe_block(number - 1), self.tokens)
            parameters += sum(parameter.numel() for parameter in block.parameters())
            points.append(ExitPoint(str(number), number, width, self.tokens, pools, operations, parameters))
        tokens = torch.empty(1, self.tokens, width, device="meta")
        self._behind_operations, embedding = count_operations(self.embed(), tokens)
        super().__init__(module, size, points, operations + self._behind_operations, embedding.shape[1])

    @abstractmethod
    def describe_stem(self) -> Stem:
        """Describe what is in front of the first block."""

    @abstractmethod
    def describe_block(self, index: int) -> Block:
        """Describe a block, counted from 0."""

    @abstractmethod
    def count_stem_parameters(self) -> int:
        """Parameters in front of the first block."""

    @abstractmethod
    def embed(self) -> nn.Module:
        """The library's own pooling and projection: tokens (B, L, D) behind the last block to (B, E)."""

    def stem(self, preprocessing: Preprocessing) -> Part:
        """See `Tower`."""
        module = Embedding(self.describe_stem(), preprocessing)
        return Part("patch embedding", module, module.operations(self.size))

    def segment(self, start: int, end: int) -> tuple[Part, ...]:
        """See `Tower`; the state is tokens (L, B, D)."""
        modules = {index: ResidualBlock(self.describe_block(index)) for index in range(start, end)}
        return tuple(
            Part(f"block {index + 1}", module, module.operations(self.tokens))
            for index, module in modules.items()
        )

    def readout(self, point: ExitPoint, pool: Pool, *, goes_on: bool) -> Readout:
        """See `Tower`.

        An exit that reads the class token runs its block for that token alone, on the tokens in front of the
        block. So an early exit costs as little in front of later ones as alone; for a picture that goes on,
        one row more is a few per cent of a block. One that reads the mean of the patch tokens has its gate
        look at their spread as well, which takes the whole block; so that is computed once and shared.
        """
        if point is self.full:
            behind = Part("projection", _Embedded(self.embed()), self._behind_operations)
            return Readout(len(self.points), behind)
        if pool == "mean" and goes_on:
            return Readout(point.number, Part("mean", _Mean(self.prefix), 0))
        module = ExitBlock(self.describe_block(point.number - 1), pool, self.prefix)
        return Readout(point.number - 1, Part("last block", module, module.operations(self.tokens)))

    def spread(self, point: ExitPoint) -> nn.Module:
        """See `Tower`."""
        return _Spread(self.prefix)

    def activations(self, images: Tensor) -> Activations:
        """See `Tower`."""
        result = self._intermediates(images)
        pools: dict[Pool, tuple[Tensor, ...]] = {
            pool: tuple(self._pooled(result, pool)) for pool in self.pools
        }
        return Activations(pools, nn.functional.normalize(result["image_features"], dim=-1))

    def activation(self, images: Tensor, point: ExitPoint, pool: Pool) -> Tensor:
        """See `Tower`."""
        if point is self.full:
            return nn.functional.normalize(self.module(images), dim=-1)
        only = {"indices": [point.number - 1], "stop_early": True, "intermediates_only": True}
        return self._pooled(self._intermediates(images, **only), pool)[0]

    def _intermediates(self, images: Tensor, **options: Any) -> dict[str, Any]:
        # timm fails on a tower without prefix tokens when it is asked for them
        return self.module.forward_intermediates(
            images, output_fmt="NLC", output_extra_tokens=bool(self.prefix), **options
        )

    @staticmethod
    def _pooled(result: dict[str, Any], pool: Pool) -> list[Tensor]:
        """The activation (B, D) behind each block that was asked for."""
        if pool == "cls":
            return [prefix[:, 0] for prefix in result["image_intermediates_prefix"]]
        return [patches.mean(1) for patches in result["image_intermediates"]]


class _Embedded(nn.Module):
    """The joint embedding of tokens, (L, B, D) to (B, E), of length 1."""

    def __init__(self, embed: nn.Module):
        super().__init__()
        self.embed = embed

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.normalize(self.embed(tokens.transpose(0, 1)), dim=-1)


class _Mean(nn.Module):
    """The mean of the patch tokens, (L, B, D) to (B, D)."""

    def __init__(self, prefix: int):
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[self.prefix :].mean(0)


class _Spread(nn.Module):
    """The mean squared distance of the patch tokens from their mean, (L, B, D) to (B,)."""

    def __init__(self, prefix: int):
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        patches = tokens[self.prefix :]
        return (patches - patches.mean(0)).square().sum(-1).mean(0)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width, of which one number says both."""
    height, width = size if isinstance(size, Sequence) else (size, size)
    return int(height), int(width)


def _count_block(block: Block, tokens: int) -> int:
    """A block of which every token is read."""
    attention = block.attention
    maps = [attention.query, attention.key, attention.value, attention.out, block.expand, block.contract]
    if block.gate is not None:
        maps.append(block.gate)
    return count_linears(tokens, nn.ModuleList(maps)) + count_attention(
        tokens, tokens, attention.key.out_features
    )
