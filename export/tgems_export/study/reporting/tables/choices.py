"""Choices that tables, plots and sentences share, and their names."""

from __future__ import annotations

from tgems_edge.maths.sets import DEFAULT_COVERAGE

__all__ = ["MANY_CLASSES", "OVERVIEW_COVERAGE", "RULE", "SAMPLE", "UNKNOWN"]

SAMPLE = 100  # S of the overview: the paper asks for no fewer
OVERVIEW_COVERAGE = f"{DEFAULT_COVERAGE:g}"  # as figures are named
MANY_CLASSES = 20  # more are not listed one by one
UNKNOWN = {"new names": "pictures of other classes", "others": "pictures of none of the classes"}
RULE = {"paper": "paper's rate", "gaussian": "Gaussian rate"}
