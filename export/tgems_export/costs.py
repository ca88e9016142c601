"""What an exit keeps of a tower and what it saves: parameters and operations, counted from the modules."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tgems_export.encoders.encoder import Encoder
from tgems_export.exporting.graph import ExitGraph
from tgems_export.heads.tgem import TGemHead

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
    height, width = encoder.preprocessing.size
    module = encoder.tower.module
    pixels = torch.zeros(1, 3, height, width, device=encoder.device)
    return Cost(sum(p.numel() for p in module.parameters()), _operations(module, pixels))


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
    pixels = torch.zeros(1, *encoder.preprocessing.size, 3, dtype=torch.uint8)
    kept = _kept(encoder.tower.module, layer) + sum(p.numel() for p in head.parameters())
    return Cost(kept, _operations(graph, pixels))


def _kept(module: nn.Module, layer: int) -> int:
    """Parameters in front of and in the first `layer` blocks."""

    def is_kept(name: str) -> bool:
        block = BLOCK.search(name)
        return int(block[1]) < layer if block else not BEHIND.match(name)

    return sum(p.numel() for name, p in module.named_parameters() if is_kept(name))


@torch.no_grad()
def _operations(module: nn.Module, pixels: Tensor) -> int:
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into torch's fused attention
    try:
        with FlopCounterMode(display=False) as counter:
            module(pixels)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())
