"""Convolutions in INT8: QuantizeLinear and DequantizeLinear around each of them.

onnxruntime computes a convolution in integers if its input and weights are dequantized and its output is
quantized again. So every map between convolutions is kept in 8 bits, and whatever else reads it (a sum, a
pooling, a hard-swish) reads it dequantized; onnxruntime computes a sum of such maps in integers as well.
Weights have one scale for each output channel, biases are 32-bit integers in the scale of input times weight.

Rounding the weights of a channel shifts its mean output, by what it changed in them times the mean inputs.
The bias makes up for it (Nagel et al., arXiv 1906.04721, section 4.2): most of the error is such shifts.

A ReLU or Clip behind a convolution disappears: the range of the quantized output starts and ends where it
does. Symmetric integers go below zero whatever the range, so there it stays, and TensorRT fuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from tgems_edge.model_file.gate import INPUT
from tgems_export.exporting.quantization.products import Product, following_clip
from tgems_export.exporting.quantization.ranges import Range

__all__ = ["quantise_convolutions"]

LEAST = 1e-30  # scale of what is always zero
MOST_BIAS = 2.0**30  # leaves room for the sum that the bias is added to
HARD_SWISH_ZERO = -3.0  # below it a hard-swish is zero


@dataclass(frozen=True)
class Levels:
    """The integers of one activation: `scale * (level - zero)`."""

    scale: np.float32
    zero: NDArray[np.integer]  # () int8 or uint8

    @property
    def bounds(self) -> Range:
        """The smallest and the largest value that they can hold."""
        kind, zero = np.iinfo(self.zero.dtype), int(self.zero)
        return float(self.scale) * (kind.min - zero), float(self.scale) * (kind.max - zero)


def levels(kept: Range, *, signed: bool, symmetric: bool) -> Levels:
    """Return 256 levels that span a range, one of them zero; 255 around zero if they are symmetric."""
    low, high = kept
    kind = np.dtype(np.int8 if signed else np.uint8)
    if symmetric:
        return Levels(_scale(max(-low, high) / 127), np.zeros((), kind))
    scale = _scale((high - low) / 255)
    least = np.iinfo(kind).min
    return Levels(scale, np.array(np.clip(np.rint(least - low / scale), least, least + 255), kind))


def _scale(value: float) -> np.float32:
    return np.float32(max(value, LEAST))


def quantise_convolutions(
    graph: GraphProto,
    convolutions: Sequence[Product],
    ranges: Mapping[str, Range],
    means: Mapping[str, NDArray[np.float64]],
    *,
    signed: bool,
    symmetric: bool,
    reduced: bool,
) -> None:
    """Make convolutions of a graph INT8, in place.

    Args:
        graph: in fp32 around them, its nodes in the order in which they are computed.
        convolutions: those to quantize; others keep their weights in fp32.
        ranges: of the activations of each.
        means: (C,) of the channels of the maps that they read; biases are not corrected without.
        signed: maps as s8, else u8; weights always are s8.
        symmetric: maps without zero point.
        reduced: weights of 7 bits, but where no two products are added in 16 bits: depthwise.
    """
    maps = {
        name: levels(range_, signed=signed, symmetric=symmetric)
        for name, range_ in _map_ranges(graph, convolutions, ranges).items()
    }
    chosen = {product.node for product in convolutions}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Conv"]:
        if node.name in chosen and not symmetric and (clip := following_clip(graph, node)):
            node.output[0] = clip.output[0]
            graph.node.remove(clip)
    rewritten: list[NodeProto] = []
    constants: dict[str, NDArray[np.generic]] = {}
    given = {name for node in graph.node for name in node.output}
    for name in [name for name in maps if name not in given]:
        rewritten += _quantised_map(name, maps[name], constants)
    for node in graph.node:
        if node.name in chosen:
            depthwise = weights[node.input[1]].shape[1] == 1
            most = 64 if reduced and not depthwise else 127
            map_ = node.input[0]
            rewritten += _quantised_weights(node, maps[map_].scale, means.get(map_), most, weights, constants)
        elif node.op_type == "Conv" and node.input[0] in maps:
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            channels = groups * weights[node.input[1]].shape[1]
            rewritten += _read_in_fp32(node, maps[node.input[0]], channels, constants)
        for position, name in enumerate(node.input):
            if name in maps:
                node.input[position] = f"{name}_DequantizeLinear_Output"
        rewritten.append(node)
        for name in node.output:
            if name in maps:
                rewritten += _quantised_map(name, maps[name], constants)
    del graph.node[:]
    graph.node.extend(rewritten)
    used = {name for node in rewritten for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())


def _map_ranges(
    graph: GraphProto, convolutions: Sequence[Product], ranges: Mapping[str, Range]
) -> dict[str, Range]:
    """Return the range that each map keeps, in the order in which they are computed."""
    kept = {name: ranges[name] for product in convolutions for name in product.activations}
    makers = {node.output[0]: node for node in graph.node}
    for name in kept:
        if _are_pixels(name, makers):
            kept[name] = (0.0, 255.0)
        readers = [node for node in graph.node if name in node.input]
        if readers and all(node.op_type == "HardSwish" for node in readers):
            kept[name] = (max(kept[name][0], HARD_SWISH_ZERO), kept[name][1])
    return kept


def _are_pixels(name: str, makers: Mapping[str, NodeProto]) -> bool:
    """Whether a tensor holds the pixels as they come, padded or not: whole numbers from 0 to 255."""
    while (maker := makers.get(name)) and maker.op_type in ("Cast", "Transpose", "Pad"):
        name = maker.input[0]
    return name == INPUT


def _read_in_fp32(
    node: NodeProto, held: Levels, channels: int, constants: dict[str, NDArray[np.generic]]
) -> list[NodeProto]:
    """Return the nodes through which a convolution that stays in fp32 reads a quantized map.

    onnxruntime quantizes the weights of any convolution that reads a DequantizeLinear of one scale, and with
    one scale for all channels. So this one reads a scale for each channel, all equal; where a runtime takes
    no such scales of a map, a Clip that changes nothing is between.
    """
    name, map_ = node.name, node.input[0]
    node.input[0] = f"{name}_input"
    if not held.zero.any() and held.zero.dtype == np.int8:
        low, high = held.bounds
        constants |= {f"{name}_low": np.array(low, np.float32), f"{name}_high": np.array(high, np.float32)}
        inputs = [f"{map_}_DequantizeLinear_Output", f"{name}_low", f"{name}_high"]
        return [helper.make_node("Clip", inputs, [node.input[0]], name=f"{name}_input")]
    constants |= {
        f"{name}_scale": np.full(channels, held.scale),
        f"{name}_zero": np.full(channels, held.zero),
    }
    inputs = [f"{map_}_QuantizeLinear_Output", f"{name}_scale", f"{name}_zero"]
    return [helper.make_node("DequantizeLinear", inputs, [node.input[0]], name=f"{name}_input", axis=1)]


def _quantised_map(name: str, held: Levels, constants: dict[str, NDArray[np.generic]]) -> list[NodeProto]:
    """Return the nodes that quantize and dequantize a map, and add their constants."""
    constants[f"{name}_scale"] = np.asarray(held.scale)
    constants[f"{name}_zero_point"] = held.zero
    parameters = [f"{name}_scale", f"{name}_zero_point"]
    integers, floats = f"{name}_QuantizeLinear_Output", f"{name}_DequantizeLinear_Output"
    return [
        helper.make_node("QuantizeLinear", [name, *parameters], [integers], name=f"{name}_QuantizeLinear"),
        helper.make_node(
            "DequantizeLinear", [integers, *parameters], [floats], name=f"{name}_DequantizeLinear"
        ),
    ]


def _quantised_weights(
    node: NodeProto,
    input_scale: np.float32,
    means: NDArray[np.float64] | None,
    most: int,
    weights: Mapping[str, NDArray[np.generic]],
    constants: dict[str, NDArray[np.generic]],
) -> list[NodeProto]:
    """Quantize weights and bias of a convolution, and return the nodes that dequantize them for it.

    Args:
        node: the convolution, which reads those nodes afterwards.
        input_scale: of the map that it reads.
        means: (C,) of the channels of that map, if they are known.
        most: the largest weight as an integer.
        weights: constants of the graph in fp32.
        constants: where those in integers are added.
    """
    kernel = weights[node.input[1]].astype(np.float64)  # (out, in / groups, height, width)
    bias = weights[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(len(kernel))
    scale = np.abs(kernel).reshape(len(kernel), -1).max(1) / most
    # A channel of tiny weights has so fine a scale that its bias would not fit.
    scale = np.maximum(scale, np.abs(bias) / (MOST_BIAS * float(input_scale)))
    scale = np.maximum(scale, LEAST).astype(np.float32)
    integers = np.rint(kernel / scale.reshape(-1, 1, 1, 1)).clip(-most, most).astype(np.int8)
    if means is not None:
        change = integers * scale.astype(np.float64).reshape(-1, 1, 1, 1) - kernel
        # A depthwise channel reads that of its own number, any other reads all.
        read = means.reshape(-1, 1) if kernel.shape[1] == 1 < len(means) else means.reshape(1, -1)
        bias -= (change.sum((2, 3)) * read).sum(1)
    bias_scale = (scale * input_scale).astype(np.float32)
    bias_name = node.input[2] if len(node.input) > 2 else "bias"
    del node.input[2:]
    node.input.append(bias_name)
    quantised = [
        (1, node.input[1], integers, scale),
        (2, bias_name, np.rint(bias / bias_scale).astype(np.int32), bias_scale),
    ]
    nodes = []
    for position, constant, values, scales in quantised:
        name = f"{node.name}/{constant}"  # two convolutions may share a constant, but not its scale
        constants[f"{name}_quantized"] = values
        constants[f"{name}_scale"] = scales
        constants[f"{name}_zero_point"] = np.zeros(len(scales), values.dtype)
        inputs = [f"{name}_{what}" for what in ("quantized", "scale", "zero_point")]
        output = f"{name}_DequantizeLinear_Output"
        nodes.append(
            helper.make_node("DequantizeLinear", inputs, [output], name=f"{name}_DequantizeLinear", axis=0)
        )
        node.input[position] = output
    return nodes
