"""A graph in torch as an ONNX model, with names for all that is done to it later.

Constants that are set later keep their names, the tables of an exit's classes get theirs, and the model says
which weight belongs to which part of the tower and to which head: in its metadata, until the file is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import onnx
import onnxsim
import torch
from numpy.typing import ArrayLike

from tgems_edge.errors import InputError
from tgems_edge.model_file.gate import INPUT
from tgems_export.exporting.graph.exit_graph import POSTERIOR_SCALE, ExitGraph, TowerGraph

__all__ = [
    "IR_VERSION",
    "OPSETS",
    "label_weights",
    "set_constant",
    "set_temperature",
    "to_onnx",
    "weight_labels",
]

IR_VERSION = 8  # onnxruntime 1.17 and later load it
OPSETS = range(18, 24)
SIZE_LIMIT = 2**31 - 2**24  # bytes of weights: a protobuf, and so a model in one file, ends at 2 GB

PARTS, HEADS = "tgems_parts", "tgems_heads"  # keys of the metadata, by weight


def to_onnx(graph: ExitGraph | TowerGraph, size: tuple[int, int], opset: int) -> onnx.ModelProto:
    """The graph as a simplified and checked ONNX model, any batch.

    Equal constants become one when a graph is exported, and one that adds nothing is left out. So it is
    exported with constants no two of which are alike, and then they are set to what they are.

    Args:
        graph: with the outputs that it names.
        size: (H, W) of its input.
        opset: ONNX operator set.

    Raises:
        InputError: an opset that cannot be written, or a graph of 2 GB and more.
    """
    if opset not in OPSETS:
        raise InputError(f"--opset {opset}: choose from {OPSETS.start} to {OPSETS.stop - 1}")
    weights = sum(p.numel() * p.element_size() for p in graph.parameters())
    if weights >= SIZE_LIMIT:
        raise InputError(
            f"{weights / 1e9:.1f} GB of weights, and one file holds less than 2; give an earlier --layer, "
            "or --precision fp16"
        )
    constants = dict(graph.named_buffers(recurse=False))
    actual = {name: constant.clone() for name, constant in constants.items()}
    try:
        for number, constant in enumerate(constants.values()):
            constant.fill_(math.pi + number)
        model = _export(graph, size, opset)
    finally:
        for name, value in actual.items():
            constants[name].copy_(value)
    for name, value in actual.items():
        set_constant(model, name, value.numpy())
    heads = graph.head_layers if isinstance(graph, ExitGraph) else {}
    label_weights(model, graph.parts, heads)
    return model


def _export(graph: ExitGraph | TowerGraph, size: tuple[int, int], opset: int) -> onnx.ModelProto:
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=graph.outputs,
        dynamic_shapes={INPUT: {0: torch.export.Dim("B")}},
        verbose=False,
    )
    if program is None:
        raise InputError("torch.onnx exported nothing; please report this model")
    model, valid = onnxsim.simplify(program.model_proto)
    if not valid:
        raise InputError("onnxsim changed what the graph computes; please report this model")
    return model


def label_weights(model: onnx.ModelProto, parts: Mapping[str, str], heads: Mapping[str, int]) -> None:
    """Writes into a model which weights belong to which part of the tower, and to the head of which exit."""
    for key, labels in ((PARTS, parts), (HEADS, heads)):
        model.metadata_props.add(key=key, value=json.dumps(dict(labels)))


def weight_labels(model: onnx.ModelProto) -> tuple[dict[str, str], dict[str, int]]:
    """Read the labels: the part of each weight of the tower, the exit of each weight of a head."""
    held = {entry.key: entry.value for entry in model.metadata_props}
    return json.loads(held[PARTS]), json.loads(held[HEADS])


def set_temperature(model: onnx.ModelProto, layer: int, k: int, temperature: float) -> None:
    """Writes -K / T into the graph, so that an exit's probabilities are those of the temperature T.

    Args:
        model: what `to_onnx` made, or a file's graph made of it.
        layer: of the exit.
        k: K of its head.
        temperature: T.
    """
    set_constant(model, f"{POSTERIOR_SCALE}_{layer}", -k / temperature)


def set_constant(model: onnx.ModelProto, name: str, value: ArrayLike) -> None:
    """Writes another value, in fp32, into a constant that has a name in the graph."""
    (constant,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    constant.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
