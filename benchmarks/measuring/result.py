"""Keeps the result of a benchmark as JSON: figures and what they are of, no page.

Rows hold shares as numbers from 0 to 1, times in the unit that their name ends with, and null for a figure
that there is not. `python benchmarks/render.py` makes the pages.
"""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring.machine import describe_machine, installed_versions

__all__ = ["RESULTS", "save", "to_json"]

RESULTS = Path(__file__).parent.parent / "results"

Rows = Sequence[Mapping[str, Any]]


def save(name: str, tables: Mapping[str, Rows], facts: Mapping[str, Any], *, quick: bool = False) -> None:
    """Writes results/NAME.json and says how to make its page; a quick run only prints that page.

    Args:
        name: of the result.
        tables: rows by the name of their table.
        facts: what a caption tells of how they were measured.
        quick: figures that mean nothing.
    """
    record = {
        "benchmark": name,
        "command": command_line(),
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "versions": installed_versions(),
        "facts": dict(facts),
        "tables": {title: list(rows) for title, rows in tables.items()},
    }
    text = to_json(record)
    if quick:
        from rendering.pages import make_report

        print(make_report(json.loads(text), notes=""))
        return
    path = RESULTS / f"{name}.json"
    path.write_text(text, encoding="utf-8")
    print(f"{path}; its page: python benchmarks/render.py {name}")


def command_line() -> str:
    """Return the command that was typed, with the names of folders in place of their paths."""
    script, *arguments = sys.argv
    shown = [Path(value).name if "/" in value else value for value in arguments]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *shown])


def to_json(record: Mapping[str, Any]) -> str:
    """One line for each row, so that a change of one figure changes one line."""
    head = json.dumps({k: v for k, v in record.items() if k != "tables"}, indent=1, ensure_ascii=False)
    tables = [
        f"  {json.dumps(title)}: [\n" + ",\n".join(f"   {_line(row)}" for row in rows) + "\n  ]"
        for title, rows in record["tables"].items()
    ]
    return head.removesuffix("\n}") + ',\n "tables": {\n' + ",\n".join(tables) + "\n }\n}\n"


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python."""
    return value.item()
