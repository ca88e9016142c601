"""Makes every page and plot of benchmarks/results from the JSON and the notes beside it.

    python benchmarks/render.py [NAME...]

Without names, of all results. A second or two; expect no change of what is committed. To print a table again
with new figures, run its benchmark first: its command stands above the table.
"""

from __future__ import annotations

import sys

from rendering.pages import RESULTS, load, make_report, read_notes
from rendering.plots import PLOTS


def main(names: list[str]) -> None:
    """Write pages and plots."""
    for name in names or sorted(path.stem for path in RESULTS.glob("*.json")):
        record = load(name)
        (RESULTS / f"{name}.md").write_text(make_report(record, read_notes(name)), encoding="utf-8")
        if name in PLOTS:
            plot = PLOTS[name](record)
            (RESULTS / f"{plot.name}.svg").write_text(plot.svg, encoding="utf-8")
        print(RESULTS / f"{name}.md")


if __name__ == "__main__":
    main(sys.argv[1:])
