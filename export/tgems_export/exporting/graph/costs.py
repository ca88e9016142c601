"""What an exit keeps of a tower and what it saves: parameters and operations, counted from shapes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.towers.base import ExitPoint
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.heads.tgem import TGemHead

__all__ = ["Cost", "count_exit", "count_full"]


@dataclass(frozen=True)
class Cost:
    """Of one exit, or of the full tower. Of two operations, one multiplies and one adds."""

    parameters: int
    operations: int  # for one picture


def count_full(encoder: Encoder) -> Cost:
    """The full image tower, as its library built it."""
    return Cost(encoder.tower.parameters, encoder.tower.operations)


def count_exit(encoder: Encoder, point: ExitPoint, k: int, text: Tensor) -> Cost:
    """Count one exit with its head.

    It keeps what is in front of its point, Jumper and T-GEM; operations are those of the graph that `export`
    writes.

    Args:
        encoder: whose tower is cut.
        point: where it is cut.
        k: K, the width of the Jumper's output; D where that is less.
        text: (C, E) embeddings of the classes.
    """
    head = TGemHead(point.width, encoder.embedding_width, min(k, point.width)).eval()
    graph = ExitGraph(encoder, [Cut(point.number, point.pools[0], head)], text)
    parameters = point.parameters + sum(parameter.numel() for parameter in head.parameters())
    return Cost(parameters, graph.operations[0])
