"""timm's ViTs that need a graph of the library's own: ViTamin, and ViTs with relative positions."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from tgems_edge.errors import EncoderError
from tgems_export.encoders.towers.stages.tower import TOKENS, Step, Structure

__all__ = ["relative_structure", "vitamin_structure"]


def vitamin_structure(module: TimmModel) -> Structure:
    """The structure of a ViTamin: two stages of convolutions, and one of residual blocks on tokens."""
    trunk: Any = module.trunk
    convolutions = trunk.patch_embed.backbone
    if trunk.num_prefix_tokens or trunk.dynamic_img_size:
        raise EncoderError("it is a ViTamin with prefix tokens or of any size")
    first, *others = trunk.blocks
    tokens = _Tokens(nn.Sequential(convolutions.pool, trunk.patch_embed.proj), trunk.pos_embed)
    stages = [[Step((block,)) for block in stage] for stage in convolutions.stages]
    opening = Step((tokens, trunk.norm_pre, first), TOKENS)
    stages.append([opening, *(Step((block,), TOKENS) for block in others)])
    return Structure(convolutions.stem, stages, _Behind(module))


def relative_structure(module: TimmModel) -> Structure:
    """The structure of a ViT with relative positions: one stage of all its blocks."""
    trunk: Any = module.trunk
    if trunk.shared_rel_pos is not None:
        raise EncoderError("its blocks share their relative positions")
    prefix = trunk.num_prefix_tokens
    stem = nn.Sequential(trunk.patch_embed, _Prefixed(trunk.cls_token)) if prefix else trunk.patch_embed
    return Structure(stem, [[Step((block,), TOKENS, prefix) for block in trunk.blocks]], _Behind(module))


class _Tokens(nn.Module):
    """A map (B, D, h, w) to tokens (B, L, D), positions added."""

    def __init__(self, convolutions: nn.Module, positions: nn.Parameter | None):
        super().__init__()
        self.convolutions = convolutions
        self.positions = positions

    def forward(self, state: Tensor) -> Tensor:
        tokens = self.convolutions(state).flatten(2).transpose(1, 2)
        return tokens if self.positions is None else tokens + self.positions


class _Prefixed(nn.Module):
    """Tokens (B, L, D) with a class token in front."""

    def __init__(self, token: nn.Parameter):
        super().__init__()
        self.token = token

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)


class _Behind(nn.Module):
    """The layers behind the last block: tokens (B, L, D) to (B, E)."""

    def __init__(self, module: TimmModel):
        super().__init__()
        trunk: Any = module.trunk
        self.norm = trunk.norm
        self.prefix = trunk.num_prefix_tokens
        self.pool = trunk.global_pool
        self.pooling = getattr(trunk, "attn_pool", None)
        if self.pool not in ("avg", "token") or self.pooling is not None:
            raise EncoderError(f"it pools its tokens by {self.pool}")
        self.after = nn.Sequential(trunk.fc_norm, trunk.head, module.head)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        return self.after(tokens[:, 0] if self.pool == "token" else tokens[:, self.prefix :].mean(1))
