"""The header of an ONNX file, read with neither onnx nor onnxruntime.

An ONNX file is a message of protobuf: fields one after the other, each with its number, the type of its value
and, where that is long, its length. What is not needed is jumped over, so weights are never read, and a
machine without a working onnxruntime can still be told what it holds in its hands. What such a file may
contain before onnxruntime gets to see it is decided elsewhere (`tgems_edge.model_file.gate`).

Nothing in the file is trusted: see `tgems_edge.model_file.protobuf`. Graphs within graphs wait in a list
instead of calling for each other.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from tgems_edge.errors import ModelFileError
from tgems_edge.model_file.protobuf import Messages, Nonsense, Span, as_number, as_span, require

__all__ = ["Header", "Value", "Weights", "check_file", "model_name", "open_model_file", "read_header"]

MOST_AXES = 64
MOST_PARAMETERS = 1 << 62


@dataclass(frozen=True)
class Weights:
    """Initialisers of one element type, those of subgraphs included."""

    parameters: int
    bytes: int  # in the file


@dataclass(frozen=True)
class Value:
    """An input or an output of the graph."""

    name: str
    element: str | None  # its type, such as `uint8`; None where it is no tensor
    shape: (
        tuple[int | str, ...] | None
    )  # an axis of any length has a name, or ""; None where it is not stated


@dataclass(frozen=True)
class Header:
    """The header of an ONNX file."""

    ir_version: int
    opsets: dict[str, int]  # by domain; that of ONNX itself is ""
    producer: str  # with its version
    metadata: dict[str, str]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operators: Counter[str]  # nodes of each type, those of subgraphs included; of other domains a.b.Type
    weights: dict[str, Weights]  # by element type
    external: frozenset[str]  # files that hold tensors of this one, as it names them
    extras: frozenset[str]  # other parts that it has: functions, training, sparse tensors

    @property
    def opset(self) -> int:
        """The opset of ONNX's own operators."""
        return self.opsets[""]


def check_file(path: Path) -> None:
    """Raises ModelFileError where no file lies that could be read."""
    if not path.exists():
        raise ModelFileError(f"{path}: no such model file; make one with `tgems-edge export --layer 5`")
    if path.is_dir():
        raise ModelFileError(f"{path}: a folder, not a model file; give the .onnx file in it")
    if not path.is_file():
        raise ModelFileError(f"{path}: a device or a pipe; copy the model into a file")
    if not os.access(path, os.R_OK):
        raise ModelFileError(f"{path}: may not be read; check its permissions")


def model_name(model: Path | bytes) -> str:
    """Return the name of a file, or of a serialised model, in messages."""
    return str(model) if isinstance(model, Path) else "the model"


def open_model_file(model: Path | bytes) -> AbstractContextManager[BinaryIO]:
    """A file, or a serialised model, as a stream; unbuffered."""
    return model.open("rb", buffering=0) if isinstance(model, Path) else BytesIO(model)


def read_header(model: Path | bytes) -> Header:
    """Reads what an ONNX file says about itself; its weights are left where they are.

    Args:
        model: the file, or its bytes.

    Raises:
        ModelFileError: no such file, not ONNX, cut short, or nonsensical.
    """
    if isinstance(model, Path):
        check_file(model)
    try:
        with open_model_file(model) as file:
            return _read_model(Messages(file), Span(0, file.seek(0, os.SEEK_END)))
    except Nonsense as error:
        name = model_name(model)
        raise ModelFileError(
            f"{name}: not an ONNX file, or damaged or cut short ({error}); export or copy it again"
        ) from None


# The fields that are read, by their numbers in onnx.proto; the names are ONNX's own.
_MODEL = {
    **{1: "ir_version", 2: "producer_name", 3: "producer_version", 7: "graph", 8: "opset_import"},
    **{14: "metadata_props", 20: "training_info", 25: "functions"},
}
_OPSET = {1: "domain", 2: "version"}
_ENTRY = {1: "key", 2: "value"}
_GRAPH = {
    **{1: "node", 2: "name", 5: "initializer", 11: "input", 12: "output", 13: "value_info"},
    15: "sparse_initializer",
}
_NODE = {1: "input", 2: "output", 3: "name", 4: "op_type", 5: "attribute", 7: "domain"}
_ATTRIBUTE = {
    **{1: "name", 5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},  # one, or several
    **{22: "sparse_tensor", 23: "sparse_tensor"},
}
_TENSOR = {
    **{1: "dims", 2: "data_type", 8: "name", 9: "raw_data", 13: "external_data", 14: "data_location"},
    **dict.fromkeys((4, 5, 6, 7, 10, 11), "data"),
}
_VALUE = {1: "name", 2: "type"}
_TYPE = {1: "tensor_type"}
_TENSOR_TYPE = {1: "elem_type", 2: "shape"}
_SHAPE = {1: "dim"}
_AXIS = {1: "length", 2: "name"}

# Element types and their bits, in the order of their numbers in ONNX; without bits where they differ.
_ELEMENT_TYPES = (
    "float32:32 uint8:8 int8:8 uint16:16 int16:16 int32:32 int64:64 string bool:8 float16:16 float64:64 "
    "uint32:32 uint64:64 complex64:64 complex128:128 bfloat16:16 float8e4m3fn:8 float8e4m3fnuz:8 "
    "float8e5m2:8 float8e5m2fnuz:8 uint4:4 int4:4 float4e2m1:4 float8e8m0:8 uint2:2 int2:2 float6e2m3 "
    "float6e3m2"
)
_ELEMENTS = {
    number: (name, int(bits or 0))
    for number, (name, _, bits) in enumerate(
        (kind.partition(":") for kind in _ELEMENT_TYPES.split()), start=1
    )
}
_OWN_DOMAINS = ("", "ai.onnx")  # two names of the same


@dataclass
class _Contents:
    """Findings in the graphs so far."""

    operators: Counter[str] = field(default_factory=Counter)
    weights: dict[str, Weights] = field(default_factory=dict)
    external: set[str] = field(default_factory=set)
    extras: set[str] = field(default_factory=set)


def _read_model(messages: Messages, whole: Span) -> Header:
    ir_version = 0
    texts: dict[str, str] = {}
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    graphs: list[Span] = []
    found = _Contents()
    for name, value in messages.fields(whole, _MODEL):
        if name == "ir_version":
            ir_version = as_number(value)
        elif name == "opset_import":
            opset = messages.once(as_span(value), _OPSET)
            domain, version = _read_domain(messages, opset), as_number(opset.get("version", 0))
            require(opsets.setdefault(domain, version) == version, f"two opsets of {domain or 'ONNX'}")
        elif name == "metadata_props":
            entry = messages.once(as_span(value), _ENTRY)
            key = messages.text(entry, "key")
            require(key not in metadata, f"two values of {key[:40]!r}")
            metadata[key] = messages.text(entry, "value")
        elif name == "graph":
            graphs.append(as_span(value))
        elif name in ("training_info", "functions"):
            found.extras.add(name.removesuffix("_info"))
        else:
            texts[name] = messages.text({name: value}, name)
    require(ir_version > 0, "no IR version")
    require(opsets.get("", 0) > 0, "no opset of ONNX's own operators")
    require(bool(graphs), "no graph")
    require(len(graphs) == 1, "two graphs")
    inputs, outputs = _read_graphs(messages, graphs[0], found)
    return Header(
        ir_version=ir_version,
        opsets=opsets,
        producer=" ".join(filter(None, (texts.get(f"producer_{part}") for part in ("name", "version")))),
        metadata=metadata,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        operators=found.operators,
        weights=found.weights,
        external=frozenset(found.external),
        extras=frozenset(found.extras),
    )


def _read_graphs(messages: Messages, main: Span, found: _Contents) -> tuple[list[Value], list[Value]]:
    """Reads a graph and all graphs within its nodes; the inputs and outputs of the outermost."""
    ends: dict[str, list[Value]] = {"input": [], "output": [], "value_info": []}
    graphs = [main]
    while graphs:
        graph = graphs.pop()
        for name, value in messages.fields(graph, _GRAPH):
            if name == "node":
                graphs += _read_node(messages, as_span(value), found)
            elif name == "initializer":
                _read_weights(messages, as_span(value), found)
            elif name == "sparse_initializer":
                found.extras.add("sparse tensors")
            elif name == "name":
                messages.text({name: value}, name)
            else:
                end = _read_value(messages, as_span(value))
                if graph is main:
                    ends[name].append(end)
    return ends["input"], ends["output"]


def _read_node(messages: Messages, node: Span, found: _Contents) -> list[Span]:
    """Counts a node; the graphs that it holds."""
    texts: dict[str, int | Span] = {}
    graphs: list[Span] = []
    for name, value in messages.fields(node, _NODE):
        if name == "attribute":
            graphs += _read_attribute(messages, as_span(value), found)
        elif name in ("op_type", "domain"):
            texts[name] = value
        else:
            messages.text({name: value}, name)
    operator = messages.text(texts, "op_type")
    require(bool(operator), "a node without a type")
    domain = _read_domain(messages, texts)
    found.operators[f"{domain}.{operator}" if domain else operator] += 1
    return graphs


def _read_domain(messages: Messages, fields: Mapping[str, int | Span]) -> str:
    """Return the domain of the operators; empty for ONNX's own."""
    domain = messages.text(fields, "domain")
    return "" if domain in _OWN_DOMAINS else domain


def _read_attribute(messages: Messages, attribute: Span, found: _Contents) -> list[Span]:
    """Looks for what tensors of an attribute need; the graphs that it holds."""
    graphs = []
    for name, value in messages.fields(attribute, _ATTRIBUTE):
        if name == "graph":
            graphs.append(as_span(value))
        elif name == "tensor":
            _read_tensor(messages, as_span(value), found)
        elif name == "sparse_tensor":
            found.extras.add("sparse tensors")
        else:
            messages.text({name: value}, name)
    return graphs


def _read_weights(messages: Messages, tensor: Span, found: _Contents) -> None:
    element, own = _read_tensor(messages, tensor, found)
    others = found.weights.get(element, Weights(0, 0))
    found.weights[element] = Weights(others.parameters + own.parameters, others.bytes + own.bytes)


def _read_tensor(messages: Messages, tensor: Span, found: _Contents) -> tuple[str, Weights]:
    """Its element type and its size; the elements are jumped over."""
    shape: list[int] = []
    kind = size = 0
    raw = external = False
    locations: set[str] = set()
    for name, value in messages.fields(tensor, _TENSOR):
        if name == "dims":
            shape += messages.numbers(value, MOST_AXES) if isinstance(value, Span) else [as_number(value)]
        elif name == "data_type":
            kind = as_number(value)
        elif name == "name":
            messages.text({name: value}, name)
        elif name == "external_data":
            external = True
            entry = messages.once(as_span(value), _ENTRY)
            if messages.text(entry, "key") == "location":
                locations.add(messages.text(entry, "value"))
        elif name == "data_location":
            external = external or as_number(value) != 0
        else:
            raw = raw or name == "raw_data"
            # One that repeats is written one by one: each is a field, of 1 byte at least.
            size += value.stop - value.start if isinstance(value, Span) else 1
    require(kind > 0, "weights without a type")
    require(len(shape) <= MOST_AXES and min(shape, default=0) >= 0, "weights of an impossible shape")
    parameters = 1
    for length in shape:
        parameters *= length
        require(parameters <= MOST_PARAMETERS, "weights of an impossible shape")
    element, bits = _ELEMENTS.get(kind, (f"type {kind}", 0))
    if external:
        found.external |= locations or {""}  # without a location it is no less external
    elif raw and bits:
        require(size == -(-parameters * bits // 8), "weights that are not as many as their shape says")
    elif bits:  # the shortest number takes a byte, and holds no more than two of the short ones
        require(parameters <= 4 * size, "weights that are not as many as their shape says")
    return element, Weights(parameters, size)


def _read_value(messages: Messages, value: Span) -> Value:
    fields = messages.once(value, _VALUE)
    name = messages.text(fields, "name")
    kind = messages.once(as_span(fields.get("type", Span(0, 0))), _TYPE)
    if "tensor_type" not in kind:
        return Value(name, None, None)
    tensor = messages.once(as_span(kind["tensor_type"]), _TENSOR_TYPE)
    number = as_number(tensor.get("elem_type", 0))
    element, _ = _ELEMENTS.get(number, (f"type {number}", 0))
    if "shape" not in tensor:
        return Value(name, element, None)
    shape: list[int | str] = []
    for _, axis in messages.fields(as_span(tensor["shape"]), _SHAPE):
        require(len(shape) < MOST_AXES, "a value of an impossible shape")
        length = messages.once(as_span(axis), _AXIS)
        shape.append(as_number(length["length"]) if "length" in length else messages.text(length, "name"))
    return Value(name, element, tuple(shape))
