"""Tables of text, for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tgems_edge.printable import padded, printable, width

__all__ = ["aligned", "separated"]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, the first column to the left, the others to the right."""
    cells = [list(map(printable, row)) for row in rows]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(_aligned(row, widths)).rstrip() for row in cells]


def separated(sections: Iterable[Sequence[str]]) -> list[str]:
    """Lines of sections, with an empty line between two; empty sections are left out."""
    lines = [line for section in sections if section for line in ("", *section)]
    return lines[1:]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Cells as wide as their columns."""
    others = zip(row[1:], widths[1:], strict=True)
    return [padded(row[0], widths[0]), *(" " * (wide - width(cell)) + cell for cell, wide in others)]
