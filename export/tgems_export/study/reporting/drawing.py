"""Figures of matplotlib as SVG that is the same wherever it is drawn from the same numbers."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tgems_export.study.reporting.parts import Plot

__all__ = ["make_plot"]

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in the reader's own font
    "font.family": "sans-serif",
    "text.parse_math": False,  # a class may be called $
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}
WIDTH = 9.0  # inches


def make_plot(name: str, caption: str, height: float, draw: Callable[[Figure], None]) -> Plot:
    """A picture in the style of all of them.

    Args:
        name: of its file, without ending.
        caption: what it shows.
        height: in inches.
        draw: fills the figure.
    """
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # missing in this font; the reader's own will have it
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return Plot(name, caption, _bare(file.getvalue()))


def _bare(svg: str) -> str:
    """Without what a page cannot have twice: prologue, and numbered ids that nothing refers to."""
    return re.sub(r' id="[\w.]+_\d+"', "", svg[svg.index("<svg") :])
