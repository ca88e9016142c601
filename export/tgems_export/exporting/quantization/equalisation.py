"""Outliers moved from activations into weights (SmoothQuant, arXiv 2211.10438, eq. 4, alpha = 1/2).

An activation has one scale for all its channels, so one channel of outliers coarsens the others; a weight can
take them. Where products read what a LayerNorm gives, and nothing else does, channel j of its gain and offset
is divided by s_j, and column j of the weights is multiplied by it, which changes nothing in exact arithmetic:

    s_j = sqrt(max |x_j| / max |W_j|)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tgems_export.exporting.quantization.products import Product, find_products
from tgems_export.exporting.quantization.ranges import Seen

__all__ = ["can_equalise", "equalise"]

LEAST = 1e-5  # below it a channel is as good as silent


def can_equalise(model: onnx.ModelProto) -> bool:
    """Whether there is a LayerNorm that only products read."""
    return any(True for _ in _normed(model))


def equalise(model: onnx.ModelProto, seen: Mapping[str, Seen]) -> onnx.ModelProto:
    """Return a copy that computes the same with outliers in its weights.

    Args:
        model: in fp32.
        seen: of the input of every product.
    """
    graph = copy.deepcopy(model)
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    for norm, readers in _normed(graph):
        largest = seen[readers[0].input].largest
        columns = [numpy_helper.to_array(weights[product.weight]) for product in readers]  # (out, in)
        factor = _factor(largest, np.abs(np.concatenate(columns)).max(0))
        for position in (1, 2):  # gain and offset, which other norms may share
            old = weights[norm.input[position]]
            new = numpy_helper.from_array(
                (numpy_helper.to_array(old) / factor).astype(np.float32), f"{old.name}/{norm.name}"
            )
            graph.graph.initializer.append(new)
            norm.input[position] = new.name
        for product, column in zip(readers, columns, strict=True):
            scaled = (column * factor).astype(np.float32)
            weights[product.weight].CopyFrom(numpy_helper.from_array(scaled, product.weight))
    _drop_unused(graph)
    return graph


def _factor(activation: NDArray[np.float32] | None, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    if activation is None:
        return np.ones_like(weight)
    factor = np.sqrt(np.maximum(activation, LEAST) / np.maximum(weight, LEAST))
    return factor / np.exp(np.log(factor).mean())  # the overall scale stays


def _normed(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, list[Product]]]:
    """Yield every LayerNorm that only products with weights (out, in) read, reshaped or not, and these."""
    products = {product.node: product for product in find_products(model)}
    uses = [name for node in model.graph.node for name in node.input]
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    turned = {
        node.name for node in model.graph.node if any(a.name == "transB" and a.i for a in node.attribute)
    }
    for norm in model.graph.node:
        if norm.op_type != "LayerNormalization" or len(norm.input) < 3:
            continue
        found = readers.get(norm.output[0], [])
        while any(node.op_type == "Reshape" for node in found):
            found = [
                later
                for node in found
                for later in (readers.get(node.output[0], []) if node.op_type == "Reshape" else [node])
            ]
        if found and all(node.name in products.keys() & turned for node in found):
            own = [products[node.name] for node in found]
            if all(uses.count(product.weight) == 1 for product in own):
                yield norm, own


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [t for t in model.graph.initializer if t.name not in used]:
        model.graph.initializer.remove(tensor)
