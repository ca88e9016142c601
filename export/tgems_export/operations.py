"""Floating-point operations of one picture, counted from shapes.

Counted are products of matrices and convolutions, of which a multiply-add is two operations; they are
nearly all of the work. The count is a formula of the sizes of weights and tokens, so it is the same under
every version of torch.

L tokens, Q of them queries.
"""

from __future__ import annotations

from typing import Any

from open_clip.timm_model import TimmModel
from open_clip.transformer import AttentionalPooler
from timm.layers import AttentionPoolLatent
from torch import nn

from tgems_edge.errors import EncoderError
from tgems_export.encoders.towers.vit import Block, Tower

__all__ = ["count_attention", "count_convolutions", "count_linears", "count_tower"]


def count_linears(rows: int, module: nn.Module) -> int:
    """All linear maps of a module, each applied to this many rows."""
    return sum(2 * rows * m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def count_attention(queries: int, tokens: int, width: int) -> int:
    """Scores of Q queries with L keys and the mix of L values, all heads together `width` wide."""
    return 2 * 2 * queries * tokens * width


def count_convolutions(convolutions: nn.Module, size: tuple[int, int]) -> int:
    """A chain of convolutions on a picture of this size (H, W)."""
    total, (height, width) = 0, size
    for module in convolutions.modules():
        if isinstance(module, nn.Conv2d):
            height, width = _convolved(module, 0, height), _convolved(module, 1, width)
            total += 2 * height * width * module.weight.numel()
    return total


def _convolved(module: nn.Conv2d, axis: int, length: int) -> int:
    """The length of an axis behind a convolution."""
    reach = module.dilation[axis] * (module.kernel_size[axis] - 1)
    return (length + 2 * int(module.padding[axis]) - reach - 1) // module.stride[axis] + 1


def count_tower(tower: Tower, size: tuple[int, int]) -> int:
    """A full image tower, from a picture (H, W) to its embedding."""
    stem = tower.stem()
    tokens = len(stem.prefix) + len(stem.positions)
    blocks = sum(_count_block(tower.block(index), tokens) for index in range(tower.blocks))
    return count_convolutions(stem.convolutions, size) + blocks + _count_readout(tower.module, tokens)


def _count_block(block: Block, tokens: int) -> int:
    """A block of which every token is read."""
    attention = block.attention
    maps = [attention.query, attention.key, attention.value, attention.out, block.expand, block.contract]
    if block.gate is not None:
        maps.append(block.gate)
    return count_linears(tokens, nn.ModuleList(maps)) + count_attention(
        tokens, tokens, attention.key.out_features
    )


def _count_readout(module: Any, tokens: int) -> int:
    """Pooling and projection."""
    if isinstance(module, TimmModel):
        pool = getattr(module.trunk, "attn_pool", None)
        pooling = 0 if pool is None else _count_latent_pool(pool, tokens)
        return pooling + count_linears(1, module.trunk.head) + count_linears(1, module.head)
    total = 0 if module.proj is None else 2 * module.proj.numel()
    if module.attn_pool is not None:
        total += _count_query_pool(module.attn_pool, tokens)
        if module.attn_pool_contrastive is not None:
            cascade = module.attn_pool_type == "cascade"
            seen = len(module.attn_pool.query) if cascade else tokens
            total += _count_query_pool(module.attn_pool_contrastive, seen)
    return total


def _count_latent_pool(pool: Any, tokens: int) -> int:
    """timm's: a latent query attends to the tokens; an MLP follows."""
    if not isinstance(pool, AttentionPoolLatent):
        raise EncoderError(
            f"its tokens are pooled by a {type(pool).__name__}, whose operations are not known"
        )
    queries, keys_and_values = pool.latent_len, pool.kv
    per_query = count_linears(queries, pool) - count_linears(queries, keys_and_values)
    attention = count_attention(queries, tokens, keys_and_values.out_features // 2)
    return per_query + count_linears(tokens, keys_and_values) + attention


def _count_query_pool(pool: AttentionalPooler, tokens: int) -> int:
    """open_clip's, of CoCa: many queries of width D attend to the tokens."""
    queries, width = pool.query.shape
    in_and_out = 2 * queries * 2 * width * width
    keys_and_values = 2 * tokens * width * (pool.attn.kdim + pool.attn.vdim)
    return in_and_out + keys_and_values + count_attention(queries, tokens, width)
