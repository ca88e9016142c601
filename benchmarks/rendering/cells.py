"""Cells of a table, written as format strings over a row: `{accuracy:percent} ± {spread:percent}`."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from tgems_export.study.reporting.wording import NONE, count, percent, points

__all__ = ["cells", "fill"]

Row = Mapping[str, Any]
Columns = Mapping[str, str]  # by title, the format of its cells

# What may stand behind the colon besides Python's own format specifications.
SPECIFICATIONS = {"count": count, "percent": percent, "points": points}


class _Missing(Exception):
    """A figure that the row does not have."""


class _Formatter(string.Formatter):
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        """Finds a value; what should hold it may be missing itself."""
        try:
            return super().get_field(field_name, args, kwargs)
        except TypeError:  # None has no items
            raise _Missing from None

    def format_field(self, value: Any, specification: str) -> str:
        """Formats a value, or each of a list; None is missing."""
        if value is None:
            raise _Missing
        if specification == "set":
            return "{" + ", ".join(map(str, value)) + "}"
        if isinstance(value, list):
            return ", ".join(self.format_field(each, specification) for each in value)
        if specification in SPECIFICATIONS:
            return SPECIFICATIONS[specification](value)
        return format(value, specification)


def fill(template: str, row: Row) -> str:
    """One cell; a dash where a figure of it is None.

    Raises:
        KeyError: a figure that rows do not have at all.
    """
    try:
        return _Formatter().vformat(template, (), row)
    except _Missing:
        return NONE


def cells(rows: Sequence[Row], columns: Columns) -> list[list[str]]:
    """The cells of all rows."""
    return [[fill(template, row) for template in columns.values()] for row in rows]
