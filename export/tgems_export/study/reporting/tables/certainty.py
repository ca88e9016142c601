"""Tables of how sure the method is: oracle, seeds, calibration, label sets, unknown pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from tgems_edge.maths.sets import COVERAGES, METHODS, REJECTS
from tgems_export.study.figures import Study, auroc_half_width
from tgems_export.study.reporting.parts import Table
from tgems_export.study.reporting.tables.choices import MANY_CLASSES, OVERVIEW_COVERAGE, UNKNOWN
from tgems_export.study.reporting.wording import count, joined, percent, with_spread
from tgems_export.study.variations import Variation

__all__ = [
    "calibration",
    "class_coverage",
    "coverage",
    "coverage_of_layers",
    "health",
    "oracle",
    "rejected",
    "unknown",
    "warnings",
]

EXTREMES = 5  # classes shown from either end where there are many


def oracle(study: Study) -> Table:
    """Layers at which pictures are resolved."""
    found = np.bincount(study.first_right, minlength=len(study.layers) + 1)[1:]
    cumulative = found.cumsum()
    rows = [
        (
            str(layer),
            percent(study.first(layer, "top1")),
            percent(found[layer - 1] / study.pictures),
            percent(cumulative[layer - 1] / study.pictures),
            percent(cumulative[layer - 1] / max(1, cumulative[-1])),
        )
        for layer in study.layers
    ]
    return Table(
        "Resolved by the first right layer",
        "Per cent, seed 0.",
        (
            "layer",
            "right here",
            "first right here",
            "resolved so far",
            "resolved so far, of those ever right",
        ),
        tuple(rows),
    )


def health(study: Study) -> Table:
    """Seeds, rank and sigma of each layer."""
    rows = []
    for layer in study.layers:
        heads = study.heads(layer)
        found = study.values(heads, "top1")
        least, most = min(study.values(heads, "sigma least")), max(study.values(heads, "sigma most"))
        rows.append(
            (
                str(layer),
                study.pools[layer],
                *(percent(accuracy) for accuracy in found),
                percent(float(np.std(found, ddof=1))),
                f"{study.mean(layer, 'rank'):.1f}",
                f"{least:.2f} to {most:.2f}",
            )
        )
    return Table(
        "Seeds, effective rank and sigma",
        f"Top-1 in per cent. Effective rank: how many of the {study.plan.k} dimensions of the Jumper's "
        "output are independent, mean over the seeds. Sigma: the least and the most of any class, dimension "
        "and seed.",
        (
            "layer",
            "pool",
            *(f"seed {seed}" for seed in range(study.plan.seeds)),
            "spread",
            "effective rank",
            "sigma",
        ),
        tuple(rows),
    )


def warnings(study: Study) -> Table | None:
    """Warnings about the health of heads; heads with the same warning share a row."""
    concerned = defaultdict(list)
    for what, heads in _head_groups(study):
        for text in _first_warnings(study, heads):
            concerned[text].append(what)
    if not concerned:
        return None
    return Table(
        "Warnings",
        "The figures are those of the first seed that has one.",
        ("heads", "warning"),
        tuple((joined(heads), text) for text, heads in concerned.items()),
    )


def calibration(study: Study) -> Table:
    """Temperature and calibration error of each layer."""
    rows = []
    for layer in study.layers:
        heads = study.heads(layer)
        errors = [
            with_spread(study.values(heads, f"calibration error {when}")) for when in ("before", "after")
        ]
        rows.append((str(layer), study.pools[layer], f"{study.mean(layer, 'temperature'):.2f}", *errors))
    return Table(
        "Temperature and expected calibration error",
        f"Mean ± standard deviation over {study.plan.seeds} seeds; errors in points.",
        ("layer", "pool", "temperature", "error before", "error after"),
        tuple(rows),
    )


def coverage(study: Study) -> Table:
    """Both kinds of set at every promised coverage, at the plan's layer."""
    layer = study.plan.layer
    rows = [
        (method, *_covered(study, layer, method, promised)) for method in METHODS for promised in COVERAGES
    ]
    return Table(
        f"Layer {layer}",
        "Per cent of pictures whose set holds their class, seed 0, beside where it falls in 95 of 100 cases.",
        ("sets", "promised", "measured", "expected", "within", "mean set size"),
        tuple(rows),
    )


def coverage_of_layers(study: Study) -> Table:
    """Both kinds of set at one promised coverage, for every layer."""
    rows = []
    for layer in study.layers:
        for method in METHODS:
            _, measured, _, within, size = _covered(study, layer, method, OVERVIEW_COVERAGE)
            rows.append((str(layer), method, measured, within, size))
    return Table(
        f"Every layer, {percent(float(OVERVIEW_COVERAGE))} % promised",
        "Per cent of pictures whose set holds their class, seed 0; of 100 such figures, 5 lie outside what "
        "is expected.",
        ("layer", "sets", "measured", "within", "mean set size"),
        tuple(rows),
    )


def class_coverage(study: Study) -> Table:
    """Classes by how often their sets hold them, at the plan's layer."""
    shares = [study.first(study.plan.layer, f"{m} {OVERVIEW_COVERAGE} by class") for m in METHODS]
    order = sorted(range(len(study.subject.classes)), key=lambda c: (shares[0][c], c))
    title = f"By class, layer {study.plan.layer}, {percent(float(OVERVIEW_COVERAGE))} % promised"
    if len(order) > MANY_CLASSES:
        order = order[:EXTREMES] + order[-EXTREMES:]
        title += f", the {EXTREMES} least and the {EXTREMES} most covered"
    return Table(
        title,
        "Per cent of the pictures of a class whose set holds it, seed 0.",
        ("class", *(f"{method} sets" for method in METHODS)),
        tuple((study.subject.classes[c], *(percent(of_class[c]) for of_class in shares)) for c in order),
    )


def unknown(study: Study, what: str) -> Table:
    """Compare two scores at telling one kind of unknown picture from known ones."""
    unknown = study.subject.unknown[what]
    rows = []
    for layer in study.layers:
        cells = []
        for score in ("surprisal", "doubt"):
            auroc = study.first(layer, f"{score} auroc {what}")
            half = auroc_half_width(auroc, study.pictures, unknown)
            cells += [
                f"{percent(auroc)} ± {percent(half)}",
                percent(study.first(layer, f"{score} fpr95 {what}")),
            ]
        rows.append((str(layer), *cells))
    return Table(
        UNKNOWN[what].capitalize(),
        f"Per cent, seed 0, {count(study.pictures)} known and {count(unknown)} unknown pictures. AUROC ± "
        "what holds 95 of 100 cases: how often an unknown picture scores higher than a known one; guessing "
        "is 50. FPR95: unknown pictures that pass where 95 of 100 known ones do; guessing is 95.",
        ("layer", "surprisal: AUROC", "FPR95", "doubt: AUROC", "FPR95"),
        tuple(rows),
    )


def rejected(study: Study) -> Table:
    """Pictures that are answered `unknown` at the plan's layer."""
    kinds = ("known", *study.subject.unknown)
    layer = study.plan.layer
    rows = [
        (percent(float(r)), *(percent(study.first(layer, f"rejected {r} {kind}")) for kind in kinds))
        for r in REJECTS
    ]
    return Table(
        f"Rejected at layer {layer}",
        "Per cent of pictures whose smallest rate lies beyond that of all but the promised share of known "
        "pictures that calibrate; seed 0.",
        ("promised", "known pictures", *(UNKNOWN[kind] for kind in kinds[1:])),
        tuple(rows),
    )


def _covered(study: Study, layer: int, method: str, promised: str) -> tuple[str, str, str, str, str]:
    measured = study.first(layer, f"{method} {promised} coverage")
    low, high = study.intervals[promised]
    size = study.first(layer, f"{method} {promised} size")
    return (
        percent(float(promised)),
        percent(measured),
        f"{percent(low)} to {percent(high)}",
        "yes" if low <= measured <= high else "no",
        f"{size:.2f}",
    )


def _head_groups(study: Study) -> Iterator[tuple[str, list[Variation]]]:
    """The method at every layer, and what is changed at one; each with the heads of all seeds."""
    for layer in study.layers:
        yield f"layer {layer}", study.heads(layer)
    usual = study.heads(study.plan.layer)
    for found in study.ablations:
        for value, heads in found.heads.items():
            if heads != usual:
                yield f"{found.factor} {value}", heads


def _first_warnings(study: Study, heads: Sequence[Variation]) -> list[str]:
    return next((texts for head in heads if (texts := study.value(head.name, "warnings"))), [])
