"""Tables of accuracy and cost; each says what its figures are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tgems_export.encoders.towers.base import Pool
from tgems_export.study.figures import Study
from tgems_export.study.measures import TOPS
from tgems_export.study.plan import FEW_SHOT_RIVALS, FULL, Ablation, rivals_task, sampling_task
from tgems_export.study.reporting.parts import Table
from tgems_export.study.reporting.tables.choices import RULE, SAMPLE, UNKNOWN
from tgems_export.study.reporting.wording import NONE, count, large, percent, points, with_spread
from tgems_export.study.rivals import DRAWS, FORMS, RIVALS, SAMPLES
from tgems_export.study.variations import Variation

__all__ = [
    "ablation",
    "accuracy",
    "costs",
    "new_names",
    "overview",
    "pictures",
    "sampling",
    "tops",
]

FACTORS = {
    "loss": "Loss",
    "K": "K, the width of the Jumper's output",
    "epochs": "Epochs",
    "templates": "Prompts in training",
    "labels": "Labelled pictures",
}


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
    """The settings of the measurement."""
    subject, plan = study.subject, study.plan
    purposes = {
        "training pictures, a tenth of them for validation": sum(subject.training),
        "calibration pictures": subject.calibration,
        "evaluation pictures": study.pictures,
        **{UNKNOWN[what]: found for what, found in subject.unknown.items()},
    }
    settings = {"classes": len(subject.classes), "K": plan.k, "epochs": plan.epochs, "seeds": plan.seeds}
    rows = [(purpose, count(found)) for purpose, found in purposes.items()]
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
    names = study.subject.new_names
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


def _every_pool(study: Study) -> list[tuple[int, Pool]]:
    return [(layer, pool) for layer in study.layers for pool in study.subject.pools]


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
    held_out = {"held-out templates": "held-out templates"} if study.subject.held_out_templates else {}
    new = {"new names": "new names"} if study.subject.new_names else {}
    return held_out | new


def _rival_of(study: Study, heads: Sequence[Variation], rival: str) -> str:
    """A rival that learns from the same labels."""
    if heads[0].labels == "teacher":
        return NONE
    if heads[0].per_class is None:
        return percent(study.value(rivals_task(heads[0].layer, heads[0].pool), f"{rival} top1"))
    return with_spread(study.few_shot(heads, rival))
