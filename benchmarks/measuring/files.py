"""Files to measure: the plain image tower, our graph at full depth and at exits; weights are random.

The *plain* tower is open_clip's own module, exported by torch.onnx and by nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn

from measuring.memory import peak_of_file
from measuring.operations import count_operations
from tgems_edge.progress import Reporter
from tgems_export.encoders.encoder import Encoder
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.full_tower import export_plain
from tgems_export.heads.tgem import TGemHead

__all__ = [
    "CLASSES",
    "EXITS",
    "OPSET",
    "OURS",
    "PLAIN",
    "K",
    "Model",
    "exit_graph",
    "export_architecture",
    "export_exit",
    "export_graph",
    "image_tower",
    "plain_model",
]

EXITS = (3, 5, 8)
CLASSES = 10
K = 128
OPSET = 18
PLAIN, OURS = "full, plain ONNX", "full, our ONNX"


@dataclass(frozen=True)
class Model:
    """An ONNX file and what it takes."""

    name: str
    path: Path
    operations: int  # floating-point, of the products, for one picture
    peak: float  # megabytes of a process that runs it on one picture

    @classmethod
    def of(cls, name: str, path: Path) -> Model:
        """Counts and runs a file."""
        return cls(name, path, count_operations(path), peak_of_file(path))

    @property
    def megabytes(self) -> float:
        """Size of the file."""
        return self.path.stat().st_size / 1e6


def image_tower(encoder: Encoder) -> nn.Module:
    """Return open_clip's own image tower."""
    return encoder.tower.module


def exit_graph(encoder: Encoder, layer: int) -> ExitGraph:
    """Return the graph of one exit, with an untrained head and drawn class embeddings."""
    torch.manual_seed(0)
    head = TGemHead(encoder.tower.points[-1].width, encoder.embedding_width, K).eval()
    text = nn.functional.normalize(torch.randn(CLASSES, encoder.embedding_width), dim=-1)
    return ExitGraph(encoder, [Cut(layer, "cls", head)], text)


def export_graph(graph: ExitGraph, encoder: Encoder, path: Path) -> None:
    """Write a graph."""
    onnx.save(to_onnx(graph, encoder.preprocessing.size, OPSET), path)


def export_exit(encoder: Encoder, layer: int, path: Path) -> None:
    """Write the graph of one exit."""
    export_graph(exit_graph(encoder, layer), encoder, path)


def plain_model(name: str, tower: nn.Module, size: tuple[int, int], folder: Path) -> Model:
    """Export a tower in the plain way."""
    path = folder / f"{name}.onnx"
    export_plain(tower, size, path)
    return Model.of(name, path)


def export_architecture(name: str, encoder: Encoder, folder: Path, reporter: Reporter) -> list[Model]:
    """Write the files of the plain tower, of our full depth and of the exits."""
    reporter.say(f"{name}: exporting {PLAIN}")
    models = [plain_model(PLAIN, image_tower(encoder), encoder.preprocessing.size, folder)]
    layers = {OURS: encoder.blocks} | {f"exit {layer}": layer for layer in EXITS}
    for title, layer in layers.items():
        reporter.say(f"{name}: exporting {title}")
        path = folder / f"{title}.onnx"
        export_exit(encoder, layer, path)
        models.append(Model.of(title, path))
    return models
