"""Single matrix products, which say what the kernels of this machine allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from measuring.files import OPSET
from measuring.machine import Target
from tgems_edge.runtime.session import open_session
from tgems_export.exporting.graph.onnx_graph import label_weights
from tgems_export.exporting.quantization.recipe import Recipe, quantise

__all__ = ["FLOAT_PRODUCT", "INT8_PRODUCT", "MATMUL_SIZE", "matmul_runs", "peak_rate", "product_runs"]

MATMULS = ("torch matmul", "onnxruntime MatMul")
MATMUL_SIZE = 1024  # N of the N×N products that measure the machine's peak
FLOAT_PRODUCT, INT8_PRODUCT = "product, fp32", "product, static INT8"


def matmul_runs(threads: int) -> dict[str, Callable[[], object]]:
    """Return runs of one large product, as near to the machine's peak as software comes."""
    left, right = _drawn((MATMUL_SIZE, MATMUL_SIZE), (MATMUL_SIZE, MATMUL_SIZE))
    model = _one_node("MatMul", "right", MATMUL_SIZE, MATMUL_SIZE, right)
    session = open_session(model.SerializeToString(), threads=threads)
    products = (
        partial(torch.matmul, torch.from_numpy(left), torch.from_numpy(right)),
        partial(session.run, None, {"x": left}),
    )
    return dict(zip(MATMULS, products, strict=True))


def peak_rate(seconds: Sequence[dict[str, list[float]]]) -> float:
    """Return the operations a second of the fastest large product."""
    return 2 * MATMUL_SIZE**3 / min(min(times[name]) for times in seconds for name in MATMULS)


def product_runs(
    rows: int, width: int, hidden: int, target: Target, threads: int, repeats: int
) -> dict[str, Callable[[], object]]:
    """Return runs of the product of an MLP, in fp32 and as INT8 with the quantisation of its input.

    Args:
        rows: tokens of all pictures.
        width: of a token.
        hidden: width behind the product.
        target: of INT8.
        threads: of the session.
        repeats: products in a run.
    """
    left, right = _drawn((rows, width), (hidden, width))
    model = _one_node("Gemm", "right", width, hidden, right, transB=1)
    label_weights(model, {"right": "product"}, {})
    int8 = quantise(model, Recipe(target), {"x": (float(left.min()), float(left.max()))})
    sessions = [open_session(made.SerializeToString(), threads=threads) for made in (model, int8)]

    def repeat(session) -> None:
        for _ in range(repeats):
            session.run(None, {"x": left})

    return dict(
        zip((FLOAT_PRODUCT, INT8_PRODUCT), (partial(repeat, session) for session in sessions), strict=True)
    )


def _drawn(*shapes: tuple[int, int]) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def _one_node(
    operator: str, weight: str, width: int, columns: int, values: NDArray[np.float32], **attributes: int
) -> onnx.ModelProto:
    """A graph that multiplies x (B, width) with a weight."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", weight], ["y"], name="product", **attributes)],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", columns])],
        [numpy_helper.from_array(values, weight)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
