"""Figures to tables."""

from tgems_export.study.reporting.tables.accuracies import (
    ablation,
    accuracy,
    costs,
    new_names,
    overview,
    pictures,
    sampling,
    tops,
)
from tgems_export.study.reporting.tables.certainty import (
    calibration,
    class_coverage,
    coverage,
    coverage_of_layers,
    health,
    oracle,
    rejected,
    unknown,
    warnings,
)

__all__ = [
    "ablation",
    "accuracy",
    "calibration",
    "class_coverage",
    "costs",
    "coverage",
    "coverage_of_layers",
    "health",
    "new_names",
    "oracle",
    "overview",
    "pictures",
    "rejected",
    "sampling",
    "tops",
    "unknown",
    "warnings",
]
