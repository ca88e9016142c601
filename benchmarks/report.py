"""Markdown tables with the command and the machine that made them."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from tgems_export.provenance import processor, versions

__all__ = ["table", "write_report"]

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "open_clip_torch", "onnxruntime", "numpy", "Pillow", "typer")


def write_report(
    name: str,
    title: str,
    command: str,
    text: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    behind: str = "",
) -> None:
    """Prints a table, with text before and behind it, and writes it to benchmarks/results/NAME.md."""
    parts = [f"# {title}", f"`{command}`", text, table(header, rows), behind, _machine()]
    report = "\n\n".join(part for part in parts if part) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(report, encoding="utf-8")
    print(report)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as Markdown."""
    return "\n".join(_row(row) for row in (header, ["---"] * len(header), *rows))


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _machine() -> str:
    found = ", ".join(f"{name} {version}" for name, version in versions(*PACKAGES).items())
    return (
        f"{os.cpu_count()} cores of {processor()}, Python {platform.python_version()}, {found}. "
        "Other work on the machine moves single times by 30 % and more; ratios within a table hold."
    )
