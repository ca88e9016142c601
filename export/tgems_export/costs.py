"""What an exit keeps of a tower and what it saves: parameters and operations, counted from shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from tgems_export.encoders.encoder import Encoder
from tgems_export.exporting.graph import ExitGraph
from tgems_export.heads.tgem import TGemHead
from tgems_export.operations import count_tower

__all__ = ["Cost", "count_exit", "count_full"]


BLOCK = re.compile(r"(?:^|\.)(?:res)?blocks\.(\d+)\.")
BEHIND = re.compile(r"(?:trunk\.)?(?:ln_post|proj|attn_pool|attn_pool_contrastive|norm|fc_norm|head)\b")


@dataclass(frozen=True)
class Cost:
    """Of one exit, or of the full tower. Of two operations, one multiplies and one adds."""

    parameters: int
    operations: int  # for one picture


def count_full(encoder: Encoder) -> Cost:
    """The full image tower, as its library built it."""
    parameters = sum(p.numel() for p in encoder.tower.module.parameters())
    return Cost(parameters, count_tower(encoder.tower, encoder.preprocessing.size))


def count_exit(encoder: Encoder, layer: int, k: int, text: Tensor) -> Cost:
    """One exit with its head.

    It keeps the patch embedding, its blocks, Jumper and T-GEM; operations are those of the graph that
    `export` writes.

    Args:
        encoder: whose tower is cut.
        layer: block, counted from 1.
        k: K, the width of the Jumper's output.
        text: (C, E) embeddings of the classes.
    """
    head = TGemHead(encoder.width, encoder.embedding_width, k).eval()
    graph = ExitGraph(encoder, layer, encoder.tower.pools[0], head, text)
    kept = _kept(encoder.tower.module, layer) + sum(p.numel() for p in head.parameters())
    return Cost(kept, graph.operations(encoder.preprocessing.size))


def _kept(module: nn.Module, layer: int) -> int:
    """Parameters in front of and in the first `layer` blocks."""

    def is_kept(name: str) -> bool:
        block = BLOCK.search(name)
        return int(block[1]) < layer if block else not BEHIND.match(name)

    return sum(p.numel() for name, p in module.named_parameters() if is_kept(name))
