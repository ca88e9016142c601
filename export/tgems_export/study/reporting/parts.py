"""Tables and plots of a report, before they are Markdown, HTML or plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Plot", "Table", "holds_figures"]

NUMBER = re.compile(r"[−–-]?$|[+−-]?\d")  # what a cell of figures starts with; a dash stands for none
LONG = 60  # characters; cells of such columns break into lines


def holds_figures(columns: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each column but the first holds nothing but figures; such columns stand at the right."""
    return [n > 0 and all(NUMBER.match(cell) for cell in column) for n, column in enumerate(columns)]


@dataclass(frozen=True)
class Table:
    """Cells are plain text."""

    title: str
    text: str  # what one has to know to read it
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numeric(self) -> list[bool]:
        """The columns that hold figures."""
        return holds_figures(list(zip(*self.rows, strict=True)))

    @property
    def long(self) -> list[bool]:
        """The columns with a cell that breaks into lines."""
        return [max(map(len, column)) > LONG for column in zip(*self.rows, strict=True)]


@dataclass(frozen=True)
class Plot:
    """A picture; `caption` says what it shows."""

    name: str  # of its file, without ending
    caption: str
    svg: str
