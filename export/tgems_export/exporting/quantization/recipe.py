"""A graph in fp32 and a recipe to a graph in INT8, with onnxruntime's own quantiser.

Weights have one scale for each output. An activation has one for the tensor, which is known beforehand
(static: QuantizeLinear and DequantizeLinear around a Gemm, which onnxruntime computes as one) or found when
the graph runs (dynamic). The output of a product stays in floating point, since what follows it is.

Pixels are whole numbers from 0 to 255 already, so the patch embedding takes them as they come.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode

from tgems_export.exporting.quantization.products import find_products
from tgems_export.exporting.quantization.ranges import Range, RangeMethod

__all__ = ["Recipe", "Target", "quantise"]

Target = Literal["generic", "x86-vnni", "x86", "arm64", "tensorrt"]


@dataclass(frozen=True)
class _Integers:
    """The integers that a processor multiplies well."""

    signed: bool  # activations; weights always are
    symmetric: bool = False  # activations have no zero point
    reduced: bool = False  # weights of 7 bits, so that two products fit into 16


INTEGERS: dict[Target, _Integers] = {
    # Without VNNI an x86 adds two products of u8 and s8 in 16 bits, which overflow silently; in one line of
    # onnxruntime an ARM has only a scalar kernel for u8 times s8. So what may run anywhere avoids both.
    "generic": _Integers(signed=True, reduced=True),
    "x86-vnni": _Integers(signed=False),
    "x86": _Integers(signed=False, reduced=True),
    "arm64": _Integers(signed=True),
    "tensorrt": _Integers(signed=True, symmetric=True),  # all that TensorRT takes
}


@dataclass(frozen=True)
class Recipe:
    """How to make INT8 of a graph."""

    target: Target = "generic"
    ranges: RangeMethod | None = "minmax"  # None: dynamic
    equalised: bool = False
    kept: tuple[str, ...] = ()  # parts that stay in fp32


def quantise(model: onnx.ModelProto, recipe: Recipe, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """An INT8 copy of a graph.

    Args:
        model: in fp32, equalised already if the recipe says so.
        recipe: see `Recipe`.
        ranges: of the input of every product, unless dynamic.
    """
    products = [product for product in find_products(model) if product.part not in recipe.kept]
    nodes = [product.node for product in products]
    integers = INTEGERS[recipe.target]
    if recipe.ranges is None:
        return _quantise_dynamic(model, nodes, integers)
    graph = copy.deepcopy(model)
    bounds = {
        product.input: TensorData(
            lowest=np.array(ranges[product.input][0], np.float32),
            highest=np.array(ranges[product.input][1], np.float32),
        )
        for product in products
    }
    pixels = _pixels(graph)
    if pixels in bounds:
        bounds[pixels] = TensorData(lowest=np.array(0, np.float32), highest=np.array(255, np.float32))
    quantiser = QDQQuantizer(
        graph,
        True,  # a scale for each output
        integers.reduced,
        QuantType.QInt8,
        QuantType.QInt8 if integers.signed else QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, bounds),
        nodes,
        [],
        ["Gemm"],
        {
            "ActivationSymmetric": integers.symmetric,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": ["Gemm"],
        },
    )
    quantised = _run(quantiser)
    if not integers.signed:
        _take_pixels_as_they_are(quantised)
    return quantised


def _pixels(model: onnx.ModelProto) -> str | None:
    """The tensor of the patches as float, if they go straight into a product."""
    inputs = {product.input for product in find_products(model)}
    casts = (node.output[0] for node in model.graph.node if node.op_type == "Cast")
    return next((name for name in casts if name in inputs), None)


def _take_pixels_as_they_are(model: onnx.ModelProto) -> None:
    """Drops the cast of pixels to float and their quantisation back to the same u8."""
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and (cast := casts.get(node.input[0])):
            for reader in model.graph.node:
                for position, name in enumerate(reader.input):
                    if name == node.output[0]:
                        reader.input[position] = cast.input[0]
            model.graph.node.remove(node)
            model.graph.node.remove(cast)
            return


def _quantise_dynamic(model: onnx.ModelProto, nodes: Sequence[str], integers: _Integers) -> onnx.ModelProto:
    """onnxruntime quantises MatMul alone at run time, and activations to u8."""
    graph = _gemms_as_matmuls(model)
    quantiser = ONNXQuantizer(
        graph,
        True,  # a scale for each output
        integers.reduced,
        QuantizationMode.IntegerOps,
        False,  # static
        QuantType.QInt8,
        QuantType.QUInt8,
        None,
        nodes,
        [],
        ["MatMul"],
        {"MatMulConstBOnly": True, "WeightSymmetric": True},
    )
    return _run(quantiser)


def _run(quantiser: ONNXQuantizer | QDQQuantizer) -> onnx.ModelProto:
    quantiser.quantize_model()
    quantiser.model.topological_sort()  # new nodes are at the end
    quantised: onnx.ModelProto = quantiser.model.model
    return quantised


def _gemms_as_matmuls(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with each Gemm as MatMul and Add.

    All of them, since the quantiser would do the same to the others and, from onnxruntime 1.32, rename their
    weights, which are known by name.
    """
    graph = copy.deepcopy(model)
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    rewritten = []
    for node in graph.graph.node:
        if node.op_type != "Gemm":
            rewritten.append(node)
            continue
        weight = weights[node.input[1]]
        turned = numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name)
        weight.CopyFrom(turned)
        bias = node.input[2:]
        product = f"{node.name}_product" if bias else node.output[0]
        rewritten.append(helper.make_node("MatMul", node.input[:2], [product], name=node.name))
        if bias:
            rewritten.append(
                helper.make_node("Add", [product, bias[0]], node.output, name=f"{node.name}_bias")
            )
    del graph.graph.node[:]
    graph.graph.node.extend(rewritten)
    return graph
