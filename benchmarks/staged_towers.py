"""Latency of exits of staged towers, beside the same tower at full depth.

    python benchmarks/staged_towers.py

Six towers with random weights, cut where half of the operations are done; both graphs are ours, in fp32, and
run in turns on one thread. Five minutes on two cores. Expect the ratio of times near that of operations.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
import onnx
import torch
import typer
from measuring.options import Quick
from measuring.result import save
from torch import nn

from tgems_edge.model_file.gate import INPUT
from tgems_export.encoders.encoder import Encoder, load_encoder
from tgems_export.encoders.towers.base import ExitPoint
from tgems_export.exporting.graph.assembly import flat
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.exporting.graph.onnx_graph import OPSETS, to_onnx
from tgems_export.heads.base import ExitHead
from tgems_export.heads.tgem import TGemHead
from tgems_export.heads.zero_shot import ZeroShotHead
from tgems_export.threads import open_on_one_thread

TOWERS = (
    "MobileCLIP2-S0",
    "MobileCLIP-S2",
    "RN50",
    "convnext_base",
    "ViTamin-S",
    "swin_base_patch4_window7_224",
)
CLASSES, K, LOGIT_SCALE = 10, 128, 14.0
ROUNDS, WARM_UP = 15, 3


def make_graph(encoder: Encoder, point: ExitPoint, head: ExitHead) -> onnx.ModelProto:
    """Export one exit with tables for ten classes."""
    text = nn.functional.normalize(torch.randn(CLASSES, encoder.embedding_width), dim=1)
    graph = ExitGraph(encoder, [Cut(point.number, point.pools[-1], head)], text)
    return flat(to_onnx(graph, encoder.preprocessing.size, OPSETS.start), [point.number])


def measure(name: str, rounds: int) -> dict[str, object]:
    """Measure one tower: the exit nearest to half of the operations, and all of it."""
    torch.manual_seed(0)
    encoder = load_encoder(name, "random")
    tower = encoder.tower
    half = min(tower.points, key=lambda point: abs(point.operations / tower.operations - 0.5))
    head = TGemHead(half.width, encoder.embedding_width, min(K, half.width)).eval()
    graphs = [
        make_graph(encoder, half, head),
        make_graph(encoder, tower.full, ZeroShotHead(encoder.embedding_width, LOGIT_SCALE)),
    ]
    sessions = [open_on_one_thread(graph.SerializeToString()) for graph in graphs]
    pixels = np.random.default_rng(0).integers(0, 256, (1, *encoder.preprocessing.size, 3), np.uint8)
    seconds = np.empty((WARM_UP + rounds, 2))
    for turn in seconds:
        for place, session in enumerate(sessions):
            started = perf_counter()
            session.run(None, {INPUT: pixels})
            turn[place] = perf_counter() - started
    ratios = seconds[WARM_UP:, 0] / seconds[WARM_UP:, 1]
    return {
        "encoder": name,
        "points": len(tower.points),
        "exit": half.name,
        "operations": half.operations / tower.operations,
        "time": float(np.median(ratios)),
        "megabytes": graphs[0].ByteSize() / 1e6,
        "full_megabytes": graphs[1].ByteSize() / 1e6,
    }


def main(quick: Quick = False) -> None:
    """Measure all towers; quickly, the first."""
    rows = [measure(name, 3 if quick else ROUNDS) for name in (TOWERS[:1] if quick else TOWERS)]
    save("staged_towers", {"towers": rows}, {"rounds": ROUNDS}, quick=quick)


if __name__ == "__main__":
    typer.run(main)
