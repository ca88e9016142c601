"""Makes every page and plot of benchmarks/results and benchmarks/studies from the JSON and notes beside it.

    python benchmarks/render.py [NAME...]

NAME is a result, such as cold_start, or a study, such as cifar10; without names, all of them. Ten seconds;
expect no change of what is committed, but for the coordinates in plots under another matplotlib. To print a
table again with new figures, run its benchmark first: its command stands above the table.
"""

from __future__ import annotations

import sys

from rendering.pages import RESULTS, load, make_report, read_notes
from rendering.plots import PLOTS

from tgems_export.study.report import render
from tgems_export.study.reporting.noise_report import render_noise

STUDIES = RESULTS.parent / "studies"


def main(names: list[str]) -> None:
    """Write pages and plots."""
    results = {path.stem for path in RESULTS.glob("*.json")}
    studies = {path.name for path in STUDIES.iterdir()}
    if unknown := set(names) - results - studies:
        sys.exit(f"no result or study: {', '.join(sorted(unknown))}; there are {sorted(results | studies)}")
    for name in names or sorted(results | studies):
        if name in results:
            render_result(name)
        else:
            render_study(name)


def render_result(name: str) -> None:
    """Write the page of a result, and its plot if it has one."""
    record = load(name)
    (RESULTS / f"{name}.md").write_text(make_report(record, read_notes(name)), encoding="utf-8")
    if name in PLOTS:
        plot = PLOTS[name](record)
        (RESULTS / f"{plot.name}.svg").write_text(plot.svg, encoding="utf-8")


def render_study(name: str) -> None:
    """Write the pages of a study, and of its noise profile if it has one."""
    render(STUDIES / name / "study.json")
    if (noise := STUDIES / name / "noise.json").exists():
        render_noise(noise)


if __name__ == "__main__":
    main(sys.argv[1:])
