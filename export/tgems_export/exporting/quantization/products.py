"""The linear maps of a graph, which are nearly all of its work, and the part of the tower each belongs to.

Only they become INT8. Norms, softmax, activations and the two products of attention stay in fp32: there is
little to gain and much to lose. So do the products behind the exit, Jumper and class-rates, which square and
cancel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx

__all__ = ["Product", "find_products", "find_readouts"]

# Paths of the modules of ExitGraph and ExitsGraph, which name their weights in the file.
READOUT = re.compile(r"readout\.|exits\.(\d+)\.1\.")
PARTS = (
    (re.compile(r"embedding\."), "patch embedding"),
    (re.compile(r"blocks\.(\d+)\."), "block {}"),
    (re.compile(r"last\."), "last block"),
    (re.compile(r"exits\.(\d+)\.0\."), "last block of exit {}"),
)


@dataclass(frozen=True)
class Product:
    """A Gemm with a constant weight (out, in)."""

    node: str
    input: str
    weight: str
    part: str  # of the tower


def find_products(model: onnx.ModelProto) -> list[Product]:
    """The products of the tower, in the order in which they are computed."""
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [
        Product(node.name, node.input[0], node.input[1], _part(node.input[1]))
        for node in model.graph.node
        if node.op_type == "Gemm" and node.input[1] in matrices and not READOUT.match(node.input[1])
    ]


def _part(weight: str) -> str:
    for pattern, title in PARTS:
        if found := pattern.match(weight):
            return title.format(*(int(number) + 1 for number in found.groups()))
    raise ValueError(f"{weight}: a weight of no known part")


def find_readouts(model: onnx.ModelProto) -> list[str]:
    """The activations (B, D) that the heads of a graph read, in the order of its exits."""
    found: dict[str, str] = {}
    for node in model.graph.node:
        for name in node.input:
            if head := READOUT.match(name):
                found.setdefault(head[0], node.input[0])
    return list(found.values())
