"""Copies what commands printed into README, guides and the demo's card, so that nobody types a number.

    python benchmarks/readme.py

Between `<!-- benchmarks/results/NAME.md -->` and `<!-- end -->` goes the excerpt of that result, and between
`<!-- benchmarks/studies/NAME/study.md: TITLE -->` and `<!-- end -->` the part of that study under this
title; in a console block behind `<!-- run -->`, the standard output of its command. Some seconds; expect no
change of what is committed.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from rendering.pages import load, make_excerpt, read_notes

ROOT = Path(__file__).parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "export" / "tgems_export" / "demo" / "README.md",
    ROOT / "export" / "tgems_export" / "builtin" / "photo" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
RESULT = re.compile(r"(<!-- benchmarks/results/(\w+)\.md -->\n).*?(<!-- end -->)", re.DOTALL)
STUDY = re.compile(r"(<!-- (benchmarks/studies/[\w-]+/study\.md): ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
NEIGHBOUR = re.compile(r"\]\((\w+\.(?:md|svg))\)")  # a link to another file of benchmarks/results
TRANSCRIPT = re.compile(r"(<!-- run -->\n```console\n\$ tgems-edge ([^\n]*)\n).*?(```)", re.DOTALL)


def fill(text: str, page: Path) -> str:
    """Return a page with every result and transcript as the commands print them now."""
    results = "/".join([*[".."] * (len(page.relative_to(ROOT).parts) - 1), "benchmarks", "results"])
    text = RESULT.sub(lambda slot: slot[1] + _excerpt(slot[2], results) + slot[3], text)
    text = STUDY.sub(lambda slot: slot[1] + _part(ROOT / slot[2], slot[3]) + slot[4], text)
    return TRANSCRIPT.sub(lambda slot: slot[1] + _run(slot[2]) + slot[3], text)


def _excerpt(name: str, results: str) -> str:
    """Caption, first table and conclusion, with links that lead somewhere from the page."""
    text = make_excerpt(load(name), read_notes(name), results)
    return "\n" + NEIGHBOUR.sub(rf"]({results}/\1)", text) + "\n"


def _part(study: Path, title: str) -> str:
    """Return the text under one heading, up to the next."""
    behind = study.read_text(encoding="utf-8").split(f"# {title}\n", 1)[1]
    return "\n" + re.split(r"^#+ ", behind, maxsplit=1, flags=re.MULTILINE)[0].strip() + "\n\n"


def _run(arguments: str) -> str:
    command = [sys.executable, "-m", "tgems_edge", *shlex.split(arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8"), page), encoding="utf-8")
