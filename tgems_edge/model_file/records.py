"""JSON to frozen dataclasses and back: strict, with errors that say where."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from typing import Any, Literal, TypeVar

__all__ = [
    "LARGEST_INTEGER",
    "NewerSchema",
    "from_json",
    "from_object",
    "meant_by_missing",
    "parse",
    "to_json",
]

T = TypeVar("T")

LARGEST_INTEGER = (1 << 63) - 1

_MEANT = "meant by missing"
_kinds = functools.cache(typing.get_type_hints)  # of a dataclass's fields; it compiles them each time


def meant_by_missing(value: Any) -> dict[str, Any]:
    """Metadata of a field that the first records of its schema did not have, and meant this."""
    return {_MEANT: value}


def to_json(record: Any) -> str:
    """A dataclass as JSON with sorted keys, so that equal records are equal bytes.

    A field that is null by default is left out while it is null: so a record that does not need it is the
    same bytes as before there was such a field.
    """
    return json.dumps(record, default=_fields, ensure_ascii=False, sort_keys=True)


def _fields(record: Any) -> dict[str, Any]:
    values = {field: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {f.name: value for f, value in values.items() if value is not None or f.default is not None}


class NewerSchema(ValueError):
    """A record of a schema that this version does not know yet."""


def from_json(kind: type[T], text: str, *, schema: int, key: str = "schema") -> T:
    """`parse` and `from_object` in one: for records of one schema only."""
    return from_object(kind, parse(text, schema=schema, key=key)[0])


def parse(text: str, *, schema: int, key: str = "schema") -> tuple[dict[str, Any], int]:
    """The JSON of a record, and the schema version it was written in.

    Args:
        text: the JSON.
        schema: the newest schema version this program knows.
        key: the field that holds the version it was written in.

    Raises:
        NewerSchema: the record was written in a later one.
        ValueError: not the JSON of an object, or one that does not say its version.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ValueError("it is not valid JSON") from None
    _require_object(data, "")
    if key not in data:
        raise ValueError(f"it lacks {key}")
    written = _read(int, data[key], key)
    if written > schema:
        raise NewerSchema(
            f"written by a newer tgems-edge (schema {written}, this one reads {schema}); "
            "pip install --upgrade tgems-edge"
        )
    return data, written


def from_object(kind: type[T], data: dict[str, Any]) -> T:
    """The object of a JSON text as an instance of the dataclass `kind`.

    Fields it does not know are ignored, and one that may be null may be missing, as may one that says what
    that means: so that files of earlier and later versions are read as long as nothing changed its meaning.

    Supported annotations: str, int, float, bool, `X | None`, Literal, tuple, dict[str, X], dataclasses.

    Raises:
        ValueError: a field is missing, or it is of another type; the message says which.
    """
    return _read(kind, data, "")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read(kind: type[T], value: Any, where: str) -> T:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    result: Any
    if _may_be_null(kind):  # X | None
        result = None if value is None else _read(arguments[0], value, where)
    elif origin is Literal:
        if value not in arguments:
            raise _unexpected(where, f"one of {', '.join(map(str, arguments))}")
        result = value
    elif origin is tuple:
        repeated = arguments[-1] is ...
        if not isinstance(value, list) or not (repeated or len(value) == len(arguments)):
            raise _unexpected(where, "a list" if repeated else f"a list of {len(arguments)}")
        kinds = arguments[:1] * len(value) if repeated else arguments
        result = tuple(
            _read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
        )
    elif origin is dict:
        _require_object(value, where)
        result = {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    elif dataclasses.is_dataclass(kind):
        _require_object(value, where)
        hints = _kinds(kind)
        names = [field.name for field in dataclasses.fields(kind)]
        given = {name: None for name in names if _may_be_null(hints[name])}
        given |= {f.name: f.metadata[_MEANT] for f in dataclasses.fields(kind) if _MEANT in f.metadata}
        given |= value
        if missing := [name for name in names if name not in given]:
            raise ValueError(f"it lacks {f'{where}.{missing[0]}'.lstrip('.')}")
        result = kind(**{name: _read(hints[name], given[name], f"{where}.{name}") for name in names})
    elif kind is float and type(value) in (int, float):
        result = _finite(value, where)
    elif type(value) is int and abs(value) > LARGEST_INTEGER:
        raise _unexpected(where, "a number of 64 bits")
    elif type(value) is not kind:
        raise _unexpected(where, f"of type {kind.__name__}")
    else:
        result = value
    return typing.cast(T, result)


def _may_be_null(kind: Any) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union)


def _require_object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise _unexpected(where, "an object")


def _finite(value: float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _unexpected(where, "a finite number")
    return number


def _unexpected(where: str, expected: str) -> ValueError:
    return ValueError(f"{where.lstrip('.') or 'it'} is not {expected}")
