"""A graph in fp32 and a recipe to a graph in INT8: matrices with onnxruntime's own quantiser.

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
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode

from tgems_export.exporting.quantization.convolutions import quantise_convolutions
from tgems_export.exporting.quantization.products import Product, find_products
from tgems_export.exporting.quantization.ranges import Range, RangeMethod

__all__ = ["Recipe", "Target", "quantise"]

Target = Literal["generic", "x86-vnni", "x86", "arm64", "tensorrt"]


@dataclass(frozen=True)
class _Integers:
    """Integers that a processor multiplies well."""

    signed: bool  # activations that matrices take; weights always are
    signed_maps: bool  # activations that convolutions take and give
    symmetric: bool = False  # activations have no zero point
    reduced: bool = False  # weights of 7 bits, so that two products fit into 16


INTEGERS: dict[Target, _Integers] = {
    # Without VNNI an x86 adds two products of u8 and s8 in 16 bits, which overflow silently; in one line of
    # onnxruntime an ARM has only a scalar kernel for u8 times s8. So what may run anywhere avoids both. Of
    # convolutions an ARM has kernels for u8 and s8, an x86 for u8 alone: s8 takes it twice the time.
    "generic": _Integers(signed=True, signed_maps=False, reduced=True),
    "x86-vnni": _Integers(signed=False, signed_maps=False),
    "x86": _Integers(signed=False, signed_maps=False, reduced=True),
    "arm64": _Integers(signed=True, signed_maps=True),
    "tensorrt": _Integers(signed=True, signed_maps=True, symmetric=True),  # all that TensorRT takes
}


@dataclass(frozen=True)
class Recipe:
    """Choices with which a graph becomes INT8."""

    target: Target = "generic"
    ranges: RangeMethod | None = "minmax"  # None: dynamic
    equalised: bool = False
    kept: tuple[str, ...] = ()  # parts that stay in fp32


def quantise(
    model: onnx.ModelProto,
    recipe: Recipe,
    ranges: Mapping[str, Range],
    means: Mapping[str, NDArray[np.float64]] | None = None,
) -> onnx.ModelProto:
    """Return an INT8 copy of a graph.

    Args:
        model: in fp32, equalised already if the recipe says so.
        recipe: see `Recipe`.
        ranges: of the activations of every product, unless dynamic.
        means: (C,) of the channels of every map, with which biases of convolutions are corrected.
    """
    products = [product for product in find_products(model) if product.part not in recipe.kept]
    matrices = [product for product in products if product.operator != "Conv"]
    convolutions = [product for product in products if product.operator == "Conv"]
    integers = INTEGERS[recipe.target]
    if recipe.ranges is None:
        return _quantise_dynamic(model, [product.node for product in matrices], integers)
    graph = copy.deepcopy(model)
    if matrices:  # none at all would mean every one to the quantiser
        graph = _quantise_matrices(graph, matrices, integers, ranges)
    if convolutions:
        quantise_convolutions(
            graph.graph,
            convolutions,
            ranges,
            means or {},
            signed=integers.signed_maps,
            symmetric=integers.symmetric,
            reduced=integers.reduced,
        )
    return graph


def _quantise_matrices(
    graph: onnx.ModelProto, matrices: Sequence[Product], integers: _Integers, ranges: Mapping[str, Range]
) -> onnx.ModelProto:
    """Make matrices of a graph INT8, in place."""
    bounds = {
        product.input: TensorData(
            lowest=np.array(ranges[product.input][0], np.float32),
            highest=np.array(ranges[product.input][1], np.float32),
        )
        for product in matrices
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
        [product.node for product in matrices],
        [],
        ["Gemm", "MatMul"],
        {
            "ActivationSymmetric": integers.symmetric,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
        },
    )
    quantised = _run(quantiser)
    if not integers.signed:
        _take_pixels_as_they_are(quantised)
    return quantised


def _pixels(model: onnx.ModelProto) -> str | None:
    """Return the tensor of the patches as float, if they go straight into a product."""
    inputs = {product.input for product in find_products(model)}
    casts = (node.output[0] for node in model.graph.node if node.op_type == "Cast")
    return next((name for name in casts if name in inputs), None)


def _take_pixels_as_they_are(model: onnx.ModelProto) -> None:
    """Drop the cast of pixels to float and their quantisation back to the same u8."""
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
    """Quantize products of matrices for ranges that are found at run time.

    onnxruntime does so for MatMul alone, and with activations in u8.
    """
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
    """Return a copy with each Gemm as MatMul and Add.

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
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
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
