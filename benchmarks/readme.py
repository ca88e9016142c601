"""Copies the tables that commands made into the README, so that nobody types a number.

    python benchmarks/readme.py

Between `<!-- benchmarks/results/NAME.md -->` and `<!-- end -->` goes the table of that report.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SLOT = re.compile(r"(<!-- (benchmarks/results/\w+\.md) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """The README with every slot holding the text and table of its report."""
    return SLOT.sub(lambda slot: slot[1] + _body(ROOT / slot[2]) + slot[3], text)


def _body(report: Path) -> str:
    """A report without its title and its machine."""
    parts = report.read_text(encoding="utf-8").strip().split("\n\n")
    return "\n" + "\n\n".join(parts[1:-1]) + "\n\n"


if __name__ == "__main__":
    README.write_text(fill(README.read_text(encoding="utf-8")), encoding="utf-8")
