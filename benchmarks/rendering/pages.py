"""Pages from records: a template for each result says what its captions and columns are.

A template fills the blocks of `report.md.j2`; with `excerpt.md.j2` in its place the same blocks make the
shorter text that stands in the README.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader

from rendering.cells import Columns, Row, cells, fill
from tgems_export.study.reporting.page import make_environment
from tgems_export.study.reporting.parts import holds_figures
from tgems_export.study.reporting.wording import count, percent

__all__ = [
    "RESULTS",
    "Record",
    "environment",
    "load",
    "make_excerpt",
    "make_report",
    "read_notes",
]

FOLDER = Path(__file__).parent.parent
RESULTS = FOLDER / "results"
TEMPLATES = FOLDER / "templates"
VARIANTS = {"int8_accuracy_190": "int8_accuracy"}  # results that share a template

Record = Mapping[str, Any]


def load(name: str) -> Record:
    """Return the record of a result."""
    record: Record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def read_notes(name: str) -> str:
    """Return what a person concluded from a result; empty where nobody did."""
    path = RESULTS / f"{name}.notes.md"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def make_report(record: Record, notes: str) -> str:
    """Return the page of a result."""
    return _render(record, notes, "report.md.j2")


def make_excerpt(record: Record, notes: str, folder: str) -> str:
    """Return caption, first table and conclusion, and where the others are: `folder`/NAME.md."""
    return _render(record, notes, "excerpt.md.j2", folder=folder)


def _render(record: Record, notes: str, layout: str, **more: str) -> str:
    name = record["benchmark"]
    template = environment().get_template(f"{VARIANTS.get(name, name)}.md.j2")
    text = template.render(**record, notes=notes, layout=layout, **more)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"  # blocks may be empty


def environment() -> Environment:
    """Templates of this folder and of studies, with tables, cells and the wording of figures."""
    made = make_environment()
    made.loader = ChoiceLoader([FileSystemLoader(TEMPLATES), made.loader])
    made.filters |= {"count": count, "percent": percent, "set_title": _set_title}
    made.globals |= {"table": lambda rows, columns: _make_table(made, rows, columns)}
    return made


def _make_table(made: Environment, rows: list[Row], columns: Columns) -> str:
    """Return rows as a Markdown table; see `rendering.cells`."""
    found = [[cell.replace("|", r"\|") for cell in row] for row in cells(rows, columns)]
    right = holds_figures(list(zip(*found, strict=True)))
    return made.get_template("table.md.j2").module.table(list(columns), found, right)


def _set_title(exits: list[int]) -> str:
    return fill("{exits:set}", {"exits": exits})
