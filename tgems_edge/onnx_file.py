"""What an ONNX file says about itself, read with neither onnx nor onnxruntime.

An ONNX file is a message of protobuf: fields one after the other, each with its number, the type of its value
and, where that is long, its length. What is not needed is jumped over, so weights are never read, and a
machine without a working onnxruntime can still be told what it holds in its hands.

Nothing in the file is trusted. Every length has to fit into what is around it, messages within messages wait
in a list instead of calling for each other, and there is an end to how many fields and how long texts may be.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tgems_edge.errors import ModelFileError

__all__ = ["Header", "Weights", "check_file", "read_header"]

MOST_FIELDS = 1_000_000  # the largest towers have some ten thousand
LONGEST_TEXT = 1 << 26  # bytes; the card names the pictures of its calibration, with 8 bytes each
MOST_AXES = 64
MOST_PARAMETERS = 1 << 62


@dataclass(frozen=True)
class Weights:
    """Initialisers of one element type, those of subgraphs included."""

    parameters: int
    bytes: int  # in the file


@dataclass(frozen=True)
class Header:
    """What an ONNX file says about itself."""

    ir_version: int
    opsets: dict[str, int]  # by domain; that of ONNX itself is ""
    producer: str  # with its version
    metadata: dict[str, str]
    operators: Counter[str]  # nodes of each type, those of subgraphs included; of other domains a.b.Type
    weights: dict[str, Weights]  # by element type

    @property
    def opset(self) -> int:
        """Of ONNX's own operators."""
        return self.opsets[""]


def check_file(path: Path) -> None:
    """Raises ModelFileError where no file lies that could be read."""
    if not path.exists():
        raise ModelFileError(f"{path}: no such model file; make one with `tgems-edge export --layer 5`")
    if path.is_dir():
        raise ModelFileError(f"{path}: a folder, not a model file")
    if not path.is_file():
        raise ModelFileError(f"{path}: a device or a pipe; copy the model into a file")
    if not os.access(path, os.R_OK):
        raise ModelFileError(f"{path}: may not be read; check its permissions")


def read_header(path: Path) -> Header:
    """Reads what an ONNX file says about itself; its weights are left where they are.

    Raises:
        ModelFileError: no such file, not ONNX, cut short, or nonsensical.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            return _read_model(_Messages(file), _Span(0, path.stat().st_size))
    except _Nonsense as error:
        raise ModelFileError(
            f"{path}: not an ONNX file, or damaged or cut short ({error}); export or copy it again"
        ) from None


class _Nonsense(Exception):
    """What was read cannot be ONNX."""


class _Span(NamedTuple):
    """Where a text, a message or anything else with a length lies in the file."""

    start: int
    stop: int


# The fields that are read, by their numbers in onnx.proto; the names are ONNX's own.
_MODEL = {
    **{1: "ir_version", 2: "producer_name", 3: "producer_version"},
    **{7: "graph", 8: "opset_import", 14: "metadata_props"},
}
_OPSET = {1: "domain", 2: "version"}
_ENTRY = {1: "key", 2: "value"}
_GRAPH = {1: "node", 5: "initializer"}
_NODE = {4: "op_type", 5: "attribute", 7: "domain"}
_ATTRIBUTE = {6: "graph", 11: "graph"}  # one, or several
_TENSOR = {1: "dims", 2: "data_type", **dict.fromkeys((4, 5, 6, 7, 9, 10, 11), "data")}

_ELEMENT_TYPES = (
    "float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 uint64 complex64 "
    "complex128 bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz uint4 int4 float4e2m1 "
    "float8e8m0 uint2 int2 float6e2m3 float6e3m2"
)
_ELEMENTS = dict(enumerate(_ELEMENT_TYPES.split(), start=1))  # by their number in ONNX
_OWN_DOMAINS = ("", "ai.onnx")  # two names of the same


def _read_model(messages: _Messages, whole: _Span) -> Header:
    ir_version = 0
    producer: dict[str, str] = {}
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    graphs: list[_Span] = []
    for name, value in messages.fields(whole, _MODEL):
        if name == "ir_version":
            ir_version = _number(value)
        elif name == "opset_import":
            opset = dict(messages.fields(_span(value), _OPSET))
            opsets[messages.domain(opset)] = _number(opset.get("version", 0))
        elif name == "metadata_props":
            entry = dict(messages.fields(_span(value), _ENTRY))
            key = messages.text(entry, "key")
            _require(key not in metadata, f"two values of {key[:40]!r}")
            metadata[key] = messages.text(entry, "value")
        elif name == "graph":
            graphs.append(_span(value))
        else:
            producer[name] = messages.text({name: value}, name)
    _require(ir_version > 0, "no IR version")
    _require(opsets.get("", 0) > 0, "no opset of ONNX's own operators")
    _require(bool(graphs), "no graph")
    operators, weights = _read_graphs(messages, graphs)
    parts = (producer.get(f"producer_{part}", "") for part in ("name", "version"))
    return Header(ir_version, opsets, " ".join(filter(None, parts)), metadata, operators, weights)


def _read_graphs(messages: _Messages, graphs: list[_Span]) -> tuple[Counter[str], dict[str, Weights]]:
    """Operators and weights of graphs and of all graphs within their nodes."""
    operators: Counter[str] = Counter()
    weights: dict[str, Weights] = {}
    while graphs:
        for name, value in messages.fields(graphs.pop(), _GRAPH):
            if name == "node":
                operator, branches = _read_node(messages, _span(value))
                operators[operator] += 1
                graphs += branches
            else:
                element, own = _read_tensor(messages, _span(value))
                others = weights.get(element, Weights(0, 0))
                weights[element] = Weights(others.parameters + own.parameters, others.bytes + own.bytes)
    return operators, weights


def _read_node(messages: _Messages, node: _Span) -> tuple[str, list[_Span]]:
    """Its type, and the graphs that it holds."""
    texts: dict[str, int | _Span] = {}
    graphs: list[_Span] = []
    for name, value in messages.fields(node, _NODE):
        if name == "attribute":
            graphs += (_span(graph) for _, graph in messages.fields(_span(value), _ATTRIBUTE))
        else:
            texts[name] = value
    operator = messages.text(texts, "op_type")
    _require(bool(operator), "a node without a type")
    domain = messages.domain(texts)
    return f"{domain}.{operator}" if domain else operator, graphs


def _read_tensor(messages: _Messages, tensor: _Span) -> tuple[str, Weights]:
    """Its element type and its size; the elements are jumped over."""
    shape: list[int] = []
    kind = size = 0
    for name, value in messages.fields(tensor, _TENSOR):
        if name == "dims":
            shape += messages.numbers(value) if isinstance(value, _Span) else [_number(value)]
        elif name == "data_type":
            kind = _number(value)
        else:
            data = _span(value)
            size += data.stop - data.start
    _require(kind > 0, "weights without a type")
    _require(len(shape) <= MOST_AXES and min(shape, default=0) >= 0, "weights of an impossible shape")
    parameters = 1
    for length in shape:
        parameters *= length
        _require(parameters <= MOST_PARAMETERS, "weights of an impossible shape")
    return _ELEMENTS.get(kind, f"type {kind}"), Weights(parameters, size)


class _Messages:
    """Reads the fields of messages in a file."""

    # How a value is written. Groups, types 3 and 4, are older than ONNX.
    _NUMBER, _WITH_LENGTH, _FIXED = 0, 2, {1: 8, 5: 4}
    _LONGEST_HEAD = 20  # bytes of a field's key and its number or length, ten for each

    def __init__(self, file: BinaryIO):
        self._file = file
        self._left = MOST_FIELDS

    def fields(self, message: _Span, names: Mapping[int, str]) -> Iterator[tuple[str, int | _Span]]:
        """Those fields of a message that have a name here, in their order: a number, or where it lies."""
        at = message.start
        while at < message.stop:
            self._left -= 1
            _require(self._left >= 0, f"more than {MOST_FIELDS} fields")
            head = self._read(_Span(at, min(at + self._LONGEST_HEAD, message.stop)))
            key, used = _varint(head, 0)
            number, kind = key >> 3, key & 7
            if kind == self._NUMBER:
                found, used = _varint(head, used)
                value: int | _Span = found
                at += used
            else:
                length = self._FIXED.get(kind)
                if kind == self._WITH_LENGTH:
                    length, used = _varint(head, used)
                if length is None:
                    raise _Nonsense(f"a field of type {kind}")
                value = _Span(at + used, at + used + length)
                at = value.stop
            _require(number > 0 and at <= message.stop, "a field that does not fit")
            if number in names:
                yield names[number], value

    def text(self, fields: Mapping[str, int | _Span], name: str) -> str:
        """A field of text; empty where it is missing."""
        where = _span(fields.get(name, _Span(0, 0)))
        _require(where.stop - where.start <= LONGEST_TEXT, "a text without an end")
        try:
            return self._read(where).decode()
        except UnicodeDecodeError:
            raise _Nonsense("a text that is none") from None

    def domain(self, fields: Mapping[str, int | _Span]) -> str:
        """Whose operators are meant; empty for ONNX's own."""
        domain = self.text(fields, "domain")
        return "" if domain in _OWN_DOMAINS else domain

    def numbers(self, packed: _Span) -> list[int]:
        """Numbers one after the other, no more than a tensor has axes."""
        _require(packed.stop - packed.start <= 10 * MOST_AXES, "weights of an impossible shape")
        data, at = self._read(packed), 0
        numbers = []
        while at < len(data):
            number, at = _varint(data, at)
            numbers.append(_number(number))
        return numbers

    def _read(self, where: _Span) -> bytes:
        self._file.seek(where.start)
        return self._file.read(where.stop - where.start)


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the lowest first, and where it ends."""
    number = 0
    for place, byte in enumerate(data[start : start + 10]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, start + place + 1
    raise _Nonsense("a number without an end")


def _number(value: int | _Span) -> int:
    """A signed number of 64 bits."""
    if isinstance(value, _Span):
        raise _Nonsense("a text in place of a number")
    return value - (1 << 64) if value >= 1 << 63 else value


def _span(value: int | _Span) -> _Span:
    if isinstance(value, int):
        raise _Nonsense("a number in place of a text")
    return value


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _Nonsense(otherwise)
