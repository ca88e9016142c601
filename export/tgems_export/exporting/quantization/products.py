"""The linear maps of a graph, which are nearly all of its work, and the part of the tower each belongs to.

Only they become INT8. Norms, softmax, activations and the two products of attention stay in fp32: there is
little to gain and much to lose. So do the products behind the exit, Jumper and class-rates, which square and
cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from tgems_export.exporting.graph.onnx_graph import weight_labels

__all__ = ["Product", "find_products", "find_readouts"]


@dataclass(frozen=True)
class Product:
    """A Gemm with a constant weight (out, in)."""

    node: str
    input: str
    weight: str
    part: str  # of the tower


def find_products(model: onnx.ModelProto) -> list[Product]:
    """The products of the tower, in the order in which they are computed.

    Raises:
        ValueError: a product whose weight the graph's builder did not label.
    """
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    parts, heads = weight_labels(model)
    found = []
    for node in model.graph.node:
        if node.op_type == "Gemm" and (weight := node.input[1]) in matrices and weight not in heads:
            if weight not in parts:
                raise ValueError(f"{weight}: a weight of no known part")
            found.append(Product(node.name, node.input[0], weight, parts[weight]))
    return found


def find_readouts(model: onnx.ModelProto) -> list[str]:
    """The activations (B, D) that the heads of a graph read, in the order of its exits."""
    _, heads = weight_labels(model)
    found: dict[int, str] = {}
    for node in model.graph.node:
        for name in node.input:
            if name in heads:
                found.setdefault(heads[name], node.input[0])
    return [found[layer] for layer in sorted(found)]
