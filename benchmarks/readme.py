"""Copies what commands printed into README, guides and the demo's card, so that nobody types a number.

    python benchmarks/readme.py

Between `<!-- benchmarks/results/NAME.md -->` and `<!-- end -->` goes the table of that report, and between
`<!-- benchmarks/studies/NAME/study.md: TITLE -->` and `<!-- end -->` the part of that study under this
title; in a console block behind `<!-- run -->`, the standard output of its command.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "export" / "tgems_export" / "demo" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
REPORT = re.compile(r"(<!-- (benchmarks/results/\w+\.md) -->\n).*?(<!-- end -->)", re.DOTALL)
STUDY = re.compile(r"(<!-- (benchmarks/studies/[\w-]+/study\.md): ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TRANSCRIPT = re.compile(r"(<!-- run -->\n```console\n\$ tgems-edge ([^\n]*)\n).*?(```)", re.DOTALL)


def fill(text: str) -> str:
    """A page with every report and transcript as the commands print them now."""
    text = REPORT.sub(lambda slot: slot[1] + _body(ROOT / slot[2]) + slot[3], text)
    text = STUDY.sub(lambda slot: slot[1] + _part(ROOT / slot[2], slot[3]) + slot[4], text)
    return TRANSCRIPT.sub(lambda slot: slot[1] + _run(slot[2]) + slot[3], text)


def _body(report: Path) -> str:
    """A report without its title and its machine, up to its first table; then where the others are."""
    _, *parts, _ = report.read_text(encoding="utf-8").strip().split("\n\n")
    first_table = next(place for place, part in enumerate(parts) if part.startswith("|"))
    shown, behind = parts[: first_table + 1], parts[first_table + 1 :]
    if behind:
        shown.append(f"Behind these figures: [{report.stem}]({report.relative_to(ROOT)}).")
    return "\n" + "\n\n".join(shown) + "\n\n"


def _part(study: Path, title: str) -> str:
    """What stands under one heading, without what stands under the next."""
    behind = study.read_text(encoding="utf-8").split(f"# {title}\n", 1)[1]
    return "\n" + re.split(r"^#+ ", behind, maxsplit=1, flags=re.MULTILINE)[0].strip() + "\n\n"


def _run(arguments: str) -> str:
    command = [sys.executable, "-m", "tgems_edge", *shlex.split(arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
