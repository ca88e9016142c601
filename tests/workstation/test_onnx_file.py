"""The device's own reader of ONNX files against the onnx package."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tgems_edge.model_file.default import built_in_model
from tgems_edge.model_file.onnx_file import read_header


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2])


def branch(name, *nodes, weights=()):
    return helper.make_graph(nodes, name, [], [value("y")], list(weights))


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    """A file with branches within branches, several domains, and weights stored in every way."""
    raw = numpy_helper.from_array(np.ones((3, 2), np.float32), "raw")
    listed = [
        helper.make_tensor("floats", TensorProto.FLOAT, [2, 2], [1, 2, 3, 4]),
        helper.make_tensor("doubles", TensorProto.DOUBLE, [3], [1, 2, 3]),
        helper.make_tensor("integers", TensorProto.INT64, [2], [-1, 1 << 40]),
        helper.make_tensor("bytes", TensorProto.INT8, [3], [-1, 0, 1]),
        helper.make_tensor("halves", TensorProto.FLOAT16, [2], [0.5, 1]),
        helper.make_tensor("large", TensorProto.UINT64, [1], [1 << 63]),
        helper.make_tensor("words", TensorProto.STRING, [2], ["a", "bc"]),
    ]
    inner = helper.make_node(
        "If",
        ["c"],
        ["y"],
        then_branch=branch("deep", helper.make_node("Exp", ["x"], ["y"]), weights=[raw]),
        else_branch=branch("deeper", helper.make_node("Constant", [], ["y"], value=raw)),
    )
    outer = helper.make_node(
        "If",
        ["c"],
        ["y"],
        then_branch=branch("first", inner),
        else_branch=branch("second", helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")),
    )
    graph = helper.make_graph([outer], "all", [value("x")], [value("y")], listed)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="me")
    helper.set_model_props(model, {"a": "1", "ü": "猫" * 1000})
    path = tmp_path_factory.mktemp("models") / "every.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(params=["built-in", "every kind"])
def path(request, every_kind):
    return built_in_model() if request.param == "built-in" else every_kind


def graphs(graph):
    """A graph and all within its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def test_the_header_is_what_onnx_reads(path):
    header, model = read_header(path), onnx.load(path)
    assert header.ir_version == model.ir_version
    assert header.opsets == {entry.domain: entry.version for entry in model.opset_import}
    assert header.producer == f"{model.producer_name} {model.producer_version}".strip()
    assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}


def test_operators_and_weights_are_what_onnx_counts(path):
    header, found = read_header(path), list(graphs(onnx.load(path).graph))
    nodes = [node for graph in found for node in graph.node]
    assert header.operators == Counter(".".join(filter(None, [node.domain, node.op_type])) for node in nodes)
    parameters = Counter()
    for tensor in (tensor for graph in found for tensor in graph.initializer):
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        parameters[{"float": "float32", "double": "float64"}.get(kind, kind)] += int(np.prod(tensor.dims))
    assert {kind: weights.parameters for kind, weights in header.weights.items()} == parameters


def test_element_types_have_the_names_of_onnx(tmp_path):
    for name, kind in TensorProto.DataType.items():
        if 1 <= kind <= 28:  # of onnx 1.23
            tensor = TensorProto(data_type=kind, dims=[0], name="w")
            graph = helper.make_graph([], name, [], [], [tensor])
            opsets = [helper.make_opsetid("", 18)]
            onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "model.onnx")
            (found,) = read_header(tmp_path / "model.onnx").weights
            assert found == {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())
