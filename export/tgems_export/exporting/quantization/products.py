"""The linear maps of a graph, which are nearly all of its work, and the part of the tower each belongs to.

Only they become INT8. Norms, softmax, activations and the two products of attention stay in fp32: there is
little to gain and much to lose. So do the products behind the exit, Jumper and class-rates, which square and
cancel, and convolutions in groups of several channels, which onnxruntime computes group by group when they
are INT8: twice the time of fp32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from tgems_export.exporting.graph.onnx_graph import weight_labels

__all__ = ["DEPTHWISE", "Product", "find_products", "find_readouts", "following_clip"]

DEPTHWISE = "depthwise"  # behind the name of a part: its convolutions of single channels


@dataclass(frozen=True)
class Product:
    """A linear map with a constant weight.

    The weight is (in, out) for a matrix, (out, in) for a Gemm with transB, and for a Conv (out, in / groups,
    height, width).
    """

    node: str
    operator: str
    input: str
    output: str  # that of the ReLU or Clip behind a convolution, if there is one
    weight: str
    part: str  # of the tower

    @property
    def activations(self) -> tuple[str, ...]:
        """Names of the tensors that are quantized around it.

        A matrix gives floats to what follows it. A convolution is computed in integers only if its output is
        quantized as well.
        """
        return (self.input, self.output) if self.operator == "Conv" else (self.input,)


def find_products(model: onnx.ModelProto) -> list[Product]:
    """Return the products of the tower, in the order in which they are computed.

    The exporter names weights anew that it merged with a scale, or turned. Such a weight belongs to the part
    of its bias, or else to the one that is computed before it.

    Raises:
        ValueError: the graph's builder did not label the weight of the first product.
    """
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    parts, _ = weight_labels(model)
    found: list[Product] = []
    for node in _tower(model):
        weight = node.input[1] if len(node.input) > 1 else ""
        rank = {"Gemm": 2, "MatMul": 2, "Conv": 4}.get(node.op_type)
        if weight not in shapes or len(shapes[weight]) != rank:
            continue
        labelled = [name for name in node.input[1:] if name in parts]
        if labelled:
            part = parts[labelled[0]]
        elif found:
            part = found[-1].part.removesuffix(f" {DEPTHWISE}")
        else:
            raise ValueError(f"{weight}: a weight of no known part")
        output = node.output[0]
        if node.op_type == "Conv":
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            if groups > 1:
                if groups != shapes[weight][0] or shapes[weight][1] != 1:
                    continue
                part = f"{part} {DEPTHWISE}"
            clip = following_clip(model.graph, node)
            output = clip.output[0] if clip else output
        found.append(Product(node.name, node.op_type, node.input[0], output, weight, part))
    return found


def following_clip(graph: onnx.GraphProto, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return the ReLU or Clip that alone reads what a node gives, and lets zero through."""
    readers = [reader for reader in graph.node if node.output[0] in reader.input]
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        low, high = _bounds(graph, readers[0])
        return readers[0] if low <= 0 <= high else None
    return None


def _bounds(graph: onnx.GraphProto, clip: onnx.NodeProto) -> tuple[float, float]:
    """Return the smallest and the largest value that a ReLU or Clip lets through; NaN: not a constant."""
    if clip.op_type == "Relu":
        return 0.0, math.inf
    bounds = [-math.inf, math.inf]
    for place, name in enumerate(clip.input[1:]):
        if name:
            values = [tensor for tensor in graph.initializer if tensor.name == name]
            bounds[place] = float(onnx.numpy_helper.to_array(values[0])) if values else math.nan
    return bounds[0], bounds[1]


def _tower(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that no head comes before."""
    _, heads = weight_labels(model)
    behind = set(heads)
    for node in model.graph.node:
        if behind.intersection(node.input):
            behind.update(node.output)
        else:
            yield node


def find_readouts(model: onnx.ModelProto) -> list[str]:
    """Return the activations (B, D) that the heads of a graph read, in the order of its exits."""
    _, heads = weight_labels(model)
    found: dict[int, str] = {}
    for node in model.graph.node:
        for name in node.input:
            if name in heads:
                found.setdefault(heads[name], node.input[0])
    return [found[layer] for layer in sorted(found)]
