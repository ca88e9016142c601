"""Floating-point operations of a graph, counted from the shapes of its products."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from onnx import TensorProto

__all__ = ["count_operations"]


def count_operations(path: Path) -> int:
    """Return the operations of all products of a graph for one picture; a multiply-add is two.

    Raises:
        ValueError: the shapes of a product are not known.
    """
    model = onnx.load(path)
    graph = model.graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    del graph.value_info[:]  # shapes with a free batch
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            weight.ClearField("raw_data")  # shapes do not depend on it, and inference would copy it
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {weight.name: list(weight.dims) for weight in graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]

    multiply_adds = 0
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        left, right, result = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
        if not all([*left, *right, *result]):
            raise ValueError(f"{path.name}: the shapes of {node.name} are not known")
        if node.op_type == "MatMul":
            depth = left[-1]
        elif node.op_type == "Gemm":
            depth = math.prod(left) // result[0]
        else:
            depth = math.prod(right[1:])
        multiply_adds += depth * math.prod(result)
    return 2 * multiply_adds
