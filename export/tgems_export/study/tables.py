"""Figures to tables; each says what its figures are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tgems_edge.sets import COVERAGES, DEFAULT_COVERAGE, METHODS, REJECTS
from tgems_export.encoders.towers.base import Pool
from tgems_export.study.figures import Study, auroc_half_width
from tgems_export.study.measures import TOPS
from tgems_export.study.plan import FEW_SHOT_RIVALS, FULL, Ablation, rivals_task, sampling_task
from tgems_export.study.rivals import DRAWS, FORMS, RIVALS, SAMPLES
from tgems_export.study.variations import Variation
from tgems_export.study.wording import NONE, count, joined, large, percent, points, with_spread

__all__ = [
    "MANY_CLASSES",
    "OVERVIEW_COVERAGE",
    "RULE",
    "SAMPLE",
    "UNKNOWN",
    "Table",
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

SAMPLE = 100  # S of the overview: the paper asks for no fewer
OVERVIEW_COVERAGE = f"{DEFAULT_COVERAGE:g}"  # as figures are named
MANY_CLASSES = 20  # more are not listed one by one
EXTREMES = 5  # classes shown from either end instead
UNKNOWN = {"new names": "pictures of other classes", "others": "pictures of none of the classes"}
RULE = {"paper": "paper's rate", "gaussian": "Gaussian rate"}

FACTORS = {
    "loss": "Loss",
    "K": "K, the width of the Jumper's output",
    "epochs": "Epochs",
    "templates": "Prompts in training",
    "labels": "Labelled pictures",
}


@dataclass(frozen=True)
class Table:
    """Cells are plain text."""

    title: str
    text: str  # what one has to know to read it
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def overview(study: Study) -> Table:
    """The least one has to know of each layer."""
    rows = []
    for layer, pool in study.pools.items():
        rival = study.best_rival(layer, pool)
        rows.append(
            (
                str(layer),
                pool,
                with_spread(study.values(study.heads(layer), "top1")),
                percent(study.best_sampling(layer, pool)),
                f"{percent(study.value(rivals_task(layer, pool), f'{rival} top1'))} ({rival})",
                percent(1 - study.exits[layer - 1].operations / study.full.operations),
            )
        )
    full = (FULL, "", percent(study.value(FULL, "top1")), NONE, NONE, percent(0))
    return Table(
        "Layers at a glance",
        "Top-1 accuracy in per cent, sampling with the S and form that suit it best; and operations saved, "
        "in per cent of the image tower's.",
        ("layer", "pool", "T-GEM + Jumper", "sampling", "best rival", "operations saved"),
        (*rows, full),
    )


def pictures(study: Study) -> Table:
    """What was measured with."""
    material, plan = study.material, study.plan
    purposes = {
        "training pictures, of which a tenth watches": material.training,
        "calibration pictures": material.calibration,
        "evaluation pictures": material.evaluation,
        **{UNKNOWN[what]: found for what, found in material.unknown.items()},
    }
    settings = {"classes": len(material.classes), "K": plan.k, "epochs": plan.epochs, "seeds": plan.seeds}
    rows = [(purpose, count(len(found.rows))) for purpose, found in purposes.items()]
    return Table(
        "Pictures and settings",
        "No picture has two purposes.",
        ("what", "count"),
        (*rows, *((name, count(value)) for name, value in settings.items())),
    )


def accuracy(study: Study, *, every_pool: bool) -> Table:
    """Top-1 of everything, for the method's pools or for all of them."""
    header = (
        "layer",
        "pool",
        "T-GEM + Jumper",
        "without Jumper",
        *(f"sampling, {RULE[form]}" for form in FORMS),
        *RIVALS,
        "T-GEM − best rival",
        "verdict",
    )
    pools = _every_pool(study) if every_pool else list(study.pools.items())
    rows = [_accuracies(study, layer, pool) for layer, pool in pools]
    full = (FULL, "", percent(study.value(FULL, "top1")), *[NONE] * (len(header) - 3))
    return Table(
        "Both pools" if every_pool else "The pool that training pictures chose",
        f"Top-1 accuracy in per cent. T-GEM + Jumper: mean ± standard deviation over {study.plan.seeds} "
        f"seeds. Sampling: {SAMPLE} pictures a class, {DRAWS} draws. The difference: seed 0 and the rival "
        "that does best on these very pictures, in points, ± what holds 95 of 100 cases.",
        header,
        (*rows, full),
    )


def tops(study: Study) -> Table:
    """Top-2 and top-3."""
    methods = ("T-GEM + Jumper", "without Jumper", *RIVALS)

    def cells(task: str, prefix: str = "") -> str:
        return " / ".join(percent(study.value(task, f"{prefix}top{top}")) for top in TOPS[1:])

    rows = []
    for layer, pool in _every_pool(study):
        method, without = study.heads(layer, pool)[0].name, study.unprojected(layer, pool).name
        rivals = [cells(rivals_task(layer, pool), f"{rival} ") for rival in RIVALS]
        rows.append((str(layer), pool, cells(method), cells(without), *rivals))
    full = (FULL, "", cells(FULL), *[NONE] * (len(methods) - 1))
    return Table(
        "Top-2 and top-3",
        "Per cent of pictures whose class is among the best two, and among the best three; seed 0.",
        ("layer", "pool", *(f"{method}: top-2 / top-3" for method in methods)),
        (*rows, full),
    )


def sampling(study: Study, form: str) -> Table:
    """Sampling over S."""
    rows = []
    for layer, pool in _every_pool(study):
        task = sampling_task(layer, pool)
        figures = [
            (study.value(task, f"{form} {s}"), study.value(task, f"{form} {s} spread")) for s in SAMPLES
        ]
        rows.append((str(layer), pool, *(f"{percent(mean)} ± {percent(spread)}" for mean, spread in figures)))
    return Table(
        f"Sampling with the {RULE[form]}",
        f"Top-1 accuracy in per cent, mean ± standard deviation of {DRAWS} draws.",
        ("layer", "pool", *(f"S = {size}" for size in SAMPLES)),
        tuple(rows),
    )


def costs(study: Study) -> Table:
    """Parameters and operations of each exit."""
    rows = [
        (
            str(layer),
            large(exit.parameters),
            large(study.full.parameters - exit.parameters),
            percent(1 - exit.parameters / study.full.parameters),
            large(exit.operations),
            large(study.full.operations - exit.operations),
            percent(1 - exit.operations / study.full.operations),
        )
        for layer, exit in zip(study.layers, study.exits, strict=True)
    ]
    full = (
        "full image tower",
        large(study.full.parameters),
        NONE,
        NONE,
        large(study.full.operations),
        NONE,
        NONE,
    )
    return Table(
        "Kept and saved",
        "Counted from the modules, for one picture; of two operations one multiplies and one adds. An exit "
        "keeps the patch embedding, its blocks, Jumper and T-GEM.",
        (
            "exit after block",
            "parameters kept",
            "saved",
            "saved, %",
            "operations kept",
            "saved",
            "saved, %",
        ),
        (*rows, full),
    )


def ablation(study: Study, found: Ablation) -> Table:
    """One factor; beside few labelled pictures, rivals that learn from the same ones."""
    own = study.mean(study.plan.layer, "top1")
    with_rivals = found.factor == "labels"
    measures = {"top-1": "top1", **_text_measures(study)}
    rows = []
    for value, heads in found.heads.items():
        difference = float(np.mean(study.values(heads, "top1"))) - own
        cells = [with_spread(study.values(heads, measure)) for measure in measures.values()]
        rivals = [_rival_of(study, heads, rival) for rival in FEW_SHOT_RIVALS] if with_rivals else []
        rows.append((value, *cells, points(difference), *rivals))
    return Table(
        FACTORS[found.factor],
        f"Per cent, mean ± standard deviation over {study.plan.seeds} seeds. The change is against the "
        "method as it is everywhere else, in points.",
        (
            found.factor if not with_rivals else "labelled pictures a class",
            *measures,
            "change of top-1",
            *(FEW_SHOT_RIVALS if with_rivals else ()),
        ),
        tuple(rows),
    )


def new_names(study: Study) -> Table:
    """Names that no head was trained on."""
    names = study.new_names
    rows = [
        (str(layer), study.pools[layer], with_spread(study.values(study.heads(layer), "new names")))
        for layer in study.layers
    ]
    full = (FULL, "", percent(study.value(FULL, "new names")))
    guess = ("guessing", "", percent(1 / names))
    return Table(
        "New names",
        f"Top-1 accuracy among the {names} new names, in per cent, mean ± standard deviation over "
        f"{study.plan.seeds} seeds; tables made from the T-GEM, without training.",
        ("layer", "pool", "T-GEM + Jumper"),
        (*rows, full, guess),
    )


def oracle(study: Study) -> Table:
    """Where pictures are resolved."""
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
    """What the health of some head gave rise to; heads with the same warning share a row."""
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
    order = sorted(range(len(study.material.classes)), key=lambda c: (shares[0][c], c))
    title = f"By class, layer {study.plan.layer}, {percent(float(OVERVIEW_COVERAGE))} % promised"
    if len(order) > MANY_CLASSES:
        order = order[:EXTREMES] + order[-EXTREMES:]
        title += f", the {EXTREMES} least and the {EXTREMES} most covered"
    return Table(
        title,
        "Per cent of the pictures of a class whose set holds it, seed 0.",
        ("class", *(f"{method} sets" for method in METHODS)),
        tuple((study.material.classes[c], *(percent(of_class[c]) for of_class in shares)) for c in order),
    )


def unknown(study: Study, what: str) -> Table:
    """How well two scores tell one kind of unknown picture from known ones."""
    unknown = len(study.material.unknown[what].rows)
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
    """What is answered `unknown` at the plan's layer."""
    kinds = ("known", *study.material.unknown)
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


def _every_pool(study: Study) -> list[tuple[int, Pool]]:
    return [(layer, pool) for layer in study.layers for pool in study.material.pools]


def _accuracies(study: Study, layer: int, pool: Pool) -> tuple[str, ...]:
    rivals = rivals_task(layer, pool)
    difference = study.against_rival(layer, pool)
    return (
        str(layer),
        pool,
        with_spread(study.values(study.heads(layer, pool), "top1")),
        percent(study.value(study.unprojected(layer, pool).name, "top1")),
        *(percent(study.value(sampling_task(layer, pool), f"{form} {SAMPLE}")) for form in FORMS),
        *(percent(study.value(rivals, f"{rival} top1")) for rival in RIVALS),
        f"{points(difference.mean)} ± {percent(difference.half_width)}",
        difference.verdict,
    )


def _text_measures(study: Study) -> dict[str, str]:
    """Figures that say whether the T-GEM reads text, as far as there are any."""
    held_out = (
        {"held-out templates": "held-out templates"} if study.material.held_out_text is not None else {}
    )
    new = {"new names": "new names"} if study.new_names else {}
    return held_out | new


def _rival_of(study: Study, heads: Sequence[Variation], rival: str) -> str:
    """A rival that learns from the same labels."""
    if heads[0].labels == "teacher":
        return NONE
    if heads[0].per_class is None:
        return percent(study.value(rivals_task(heads[0].layer, heads[0].pool), f"{rival} top1"))
    return with_spread(study.few_shot(heads, rival))


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
