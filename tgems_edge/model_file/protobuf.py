"""Reads messages of protobuf: fields one after the other, and messages within messages.

Nothing in the file is trusted. Every length has to fit into what is around it, and there is an end to how
many fields and how long texts may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

__all__ = ["Messages", "Nonsense", "Span", "as_number", "as_span", "require"]

MOST_FIELDS = 1_000_000  # the largest towers have some ten thousand
LONGEST_TEXT = 1 << 26  # bytes


class Nonsense(Exception):
    """The bytes cannot be what they are said to be."""


class Span(NamedTuple):
    """The place in the file of a text, a message or anything else with a length."""

    start: int
    stop: int


class Messages:
    """Reads the fields of messages in a file."""

    # How a value is written. Groups, types 3 and 4, are older than ONNX.
    _NUMBER, _WITH_LENGTH, _FIXED = 0, 2, {1: 8, 5: 4}
    _LONGEST_HEAD = 20  # bytes of a field's key and its number or length, ten for each
    _WINDOW = 4096  # bytes that are read at once

    def __init__(self, file: BinaryIO):
        """An open file."""
        self._file = file
        self._left = MOST_FIELDS
        self._window, self._window_start = b"", 0

    def fields(self, message: Span, names: Mapping[int, str]) -> Iterator[tuple[str, int | Span]]:
        """Those fields of a message that have a name here, in their order: a number, or where it lies."""
        at = message.start
        while at < message.stop:
            self._left -= 1
            require(self._left >= 0, f"more than {MOST_FIELDS} fields")
            head = self._read(Span(at, min(at + self._LONGEST_HEAD, message.stop)))
            key, used = _varint(head, 0)
            number, kind = key >> 3, key & 7
            if kind == self._NUMBER:
                found, used = _varint(head, used)
                value: int | Span = found
                at += used
            else:
                length = self._FIXED.get(kind)
                if kind == self._WITH_LENGTH:
                    length, used = _varint(head, used)
                if length is None:
                    raise Nonsense(f"a field of type {kind}")
                value = Span(at + used, at + used + length)
                at = value.stop
            require(number > 0 and at <= message.stop, "a field that does not fit")
            if number in names:
                yield names[number], value

    def once(self, message: Span, names: Mapping[int, str]) -> dict[str, int | Span]:
        """The same fields, each of which may be there once: of two, readers would take one or merge them."""
        found: dict[str, int | Span] = {}
        for name, value in self.fields(message, names):
            require(name not in found, f"two values of {name}")
            found[name] = value
        return found

    def text(self, fields: Mapping[str, int | Span], name: str) -> str:
        """A field of text; empty where it is missing."""
        where = as_span(fields.get(name, Span(0, 0)))
        require(where.stop - where.start <= LONGEST_TEXT, "a text without an end")
        try:
            return self._read(where).decode()
        except UnicodeDecodeError:
            raise Nonsense("a text that is none") from None

    def numbers(self, packed: Span, most: int) -> list[int]:
        """Read at most so many numbers, one after the other."""
        require(packed.stop - packed.start <= 10 * most, f"more than {most} numbers")
        data, at = self._read(packed), 0
        numbers = []
        while at < len(data):
            number, at = _varint(data, at)
            numbers.append(as_number(number))
        return numbers

    def _read(self, where: Span) -> bytes:
        """Bytes of the file; those of small fields next to each other are read at once."""
        if where.stop - where.start > self._WINDOW:
            self._file.seek(where.start)
            return self._file.read(where.stop - where.start)
        start = where.start - self._window_start
        if start < 0 or where.stop > self._window_start + len(self._window):
            self._file.seek(where.start)
            self._window, self._window_start = self._file.read(self._WINDOW), where.start
            start = 0
        return self._window[start : start + where.stop - where.start]


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the lowest first, and where it ends."""
    if start < len(data) and data[start] < 0x80:  # as most are
        return data[start], start + 1
    number = 0
    for place, byte in enumerate(data[start : start + 10]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, start + place + 1
    raise Nonsense("a number without an end")


def as_number(value: int | Span) -> int:
    """A signed number of 64 bits."""
    if isinstance(value, Span):
        raise Nonsense("a text in place of a number")
    return value - (1 << 64) if value >= 1 << 63 else value


def as_span(value: int | Span) -> Span:
    """Read where a text or a message lies."""
    if isinstance(value, int):
        raise Nonsense("a number in place of a text")
    return value


def require(condition: bool, otherwise: str) -> None:
    """Raises Nonsense unless a condition holds."""
    if not condition:
        raise Nonsense(otherwise)
