"""Text tables for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tgems_edge.printable import padded, printable, width

__all__ = ["aligned", "separated"]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, with the first column aligned left and the others right."""
    cells = [list(map(printable, row)) for row in rows]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(_aligned(row, widths)).rstrip() for row in cells]


def separated(sections: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of all sections, with an empty line between two; skip empty sections."""
    lines = [line for section in sections if section for line in ("", *section)]
    return lines[1:]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Pad the cells of a row to the widths of their columns."""
    others = zip(row[1:], widths[1:], strict=True)
    return [padded(row[0], widths[0]), *(" " * (wide - width(cell)) + cell for cell, wide in others)]
