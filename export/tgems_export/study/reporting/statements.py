"""Statements on the figures, in plain sentences; other figures give other statements.

Each function finds the figures of one section; templates/statements/ has the words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tgems_edge.maths.sets import COVERAGES, METHODS
from tgems_export.study.figures import (
    EARLY,
    PAPER_EARLY,
    PAPER_ORACLE,
    Study,
    auroc_half_width,
    share_half_width,
)
from tgems_export.study.plan import FEW_SHOT_RIVALS, FULL, rivals_task, sampling_task
from tgems_export.study.reporting.sentences import say
from tgems_export.study.reporting.tables.choices import OVERVIEW_COVERAGE, RULE, SAMPLE, UNKNOWN
from tgems_export.study.rivals import FORMS, SAMPLES
from tgems_export.study.variations import Variation

__all__ = [
    "ablations",
    "calibration",
    "costs",
    "health",
    "layers",
    "oracle",
    "sampling",
    "sets",
    "summary",
    "unknown",
]

Key = TypeVar("Key", bound=Hashable)
Sentences = tuple[str, ...]

NEAR_GUESSING = 0.6  # AUROC; guessing is 0.5
NEAR_BEST = 0.005  # of accuracy


def summary(study: Study) -> Sentences:
    """Return the layer, its cost, its rivals and its certainty."""
    layer = study.plan.layer
    level = (i for i in study.layers if study.against_full(i).verdict != "worse")
    return _say(
        study,
        "summary",
        layer=layer,
        pool=study.pools[layer],
        top1=study.values(study.heads(layer), "top1"),
        full=study.value(FULL, "top1"),
        first_level=next(level, None),
    )


def layers(study: Study) -> Sentences:
    """T-GEM + Jumper against sampling, rivals, and itself without Jumper."""
    layer = study.plan.layer
    margins = {i: study.mean(i, "top1") - study.best_sampling(i, study.pools[i]) for i in study.layers}
    gains = {i: study.first(i, "top1") - study.value(study.unprojected(i).name, "top1") for i in study.layers}
    differences = {i: study.against_rival(i, study.pools[i]) for i in study.layers}
    widths, epochs = _means(study, "K"), _means(study, "epochs")
    own, widest, longest = str(study.plan.k), max(widths, key=int), max(epochs, key=int)
    rival = study.best_rival(layer, study.pools[layer])
    return _say(
        study,
        "layers",
        margins=margins,
        behind_sampling=[i for i in study.layers if margins[i] <= 0],
        least=_least(margins),
        most=_most(margins),
        differences=differences,
        verdicts=_grouped((d.verdict, i) for i, d in differences.items()),
        widest=int(widest),
        wider=widths[widest] - widths[own],
        own=widths[own],
        longest=longest,
        longer=epochs[longest],
        best_rival=study.value(rivals_task(layer, study.pools[layer]), f"{rival} top1"),
        gains=gains,
        least_gain=_least(gains),
        most_gain=_most(gains),
        chosen=_grouped((study.pools[i], i) for i in study.layers),
    )


def sampling(study: Study) -> Sentences:
    """Return the effect of S and of the form of the rate."""

    def at(layer: int, form: str, size: int) -> float:
        return float(study.value(sampling_task(layer, study.pools[layer]), f"{form} {size}"))

    first, last = SAMPLES[0], SAMPLES[-1]
    paper, gaussian = FORMS
    return _say(
        study,
        "sampling",
        forms=[
            {
                "name": form,
                "gains": [at(i, form, last) - at(i, form, first) for i in study.layers],
                "rest": [at(i, form, last) - at(i, form, SAMPLE) for i in study.layers],
            }
            for form in FORMS
        ],
        sizes=SAMPLES,
        sample=SAMPLE,
        rule=RULE,
        ahead=[i for i in study.layers if at(i, paper, SAMPLE) > at(i, gaussian, SAMPLE)],
        smallest_class=min(study.subject.training),
    )


def costs(study: Study) -> Sentences:
    """Return the savings of one exit, and the cost of a block."""
    first, last, blocks = study.exits[0], study.exits[-1], len(study.exits) - 1
    block = {
        "parameters": (last.parameters - first.parameters) / max(1, blocks),
        "operations": (last.operations - first.operations) / max(1, blocks),
    }
    return _say(study, "costs", block=block if blocks else None)


def ablations(study: Study) -> Sentences:
    """One sentence for each factor."""
    found = {ablation.factor: ablation.heads for ablation in study.ablations}
    losses, widths, epochs, labels = (_means(study, name) for name in ("loss", "K", "epochs", "labels"))
    best_width, longest = _most(widths), max(epochs, key=int)
    few = [n for n, heads in found["labels"].items() if heads[0].per_class]
    one, every = found["templates"]["one"], found["templates"]["all"]
    changed = ["top1"]
    changed += ["held-out templates"] if study.subject.held_out_templates else []
    changed += ["new names"] if study.subject.new_names else []
    return _say(
        study,
        "ablations",
        losses={"means": losses, "best": _most(losses), "worst": _least(losses)},
        own_loss=study.heads(study.plan.layer)[0].loss,
        widths={"means": widths, "best": best_width},
        enough=next(k for k in widths if widths[k] >= widths[best_width] - NEAR_BEST),
        near_best=NEAR_BEST,
        longest=longest,
        longer=epochs[longest] - epochs[str(study.plan.epochs)],
        one_template={m: _mean(study, one, m) - _mean(study, every, m) for m in changed},
        labels={"means": labels},
        few=sorted(few, key=int),
        ahead=[n for n in few if labels[n] > _best_few_shot(study, found["labels"][n])],
        few_shot_rivals=FEW_SHOT_RIVALS,
        taught=labels["none (teacher)"],
        full=study.value(FULL, "top1"),
        **(_new_names(study) if study.subject.new_names else {}),
    )


def _new_names(study: Study) -> dict[str, Any]:
    shares = study.values(study.heads(study.plan.layer), "new names")
    mean, pictures = float(np.mean(shares)), study.subject.unknown["new names"]
    return {
        "new_names": shares,
        "is_guess": mean - share_half_width(mean, pictures) <= 1 / study.subject.new_names,
        "full_new_names": study.value(FULL, "new names"),
    }


def oracle(study: Study) -> Sentences:
    """Return the most that choosing the layer for each picture could reach."""
    ever = float((study.first_right > 0).mean())
    last, classes = len(study.layers), len(study.subject.classes)
    early = float(((study.first_right > 0) & (study.first_right <= EARLY)).mean())
    return _say(
        study,
        "oracle",
        ever=ever,
        guesses=1 - (1 - 1 / classes) ** last,
        paper_oracle=PAPER_ORACLE,
        early_block=EARLY,
        early=early if last > EARLY and ever > 0 else None,
        paper_early=PAPER_EARLY,
    )


def health(study: Study) -> Sentences:
    """Spread, rank and warnings."""
    spread = {i: float(np.std(study.values(study.heads(i), "top1"), ddof=1)) for i in study.layers}
    ranks = {i: study.mean(i, "rank") for i in study.layers}
    return _say(
        study,
        "health",
        spread=spread,
        widest=_most(spread),
        ranks=ranks,
        low=_least(ranks),
        high=_most(ranks),
        warned=[i for i in study.layers if any(study.value(h.name, "warnings") for h in study.heads(i))],
    )


def calibration(study: Study) -> Sentences:
    """Return the effect of one temperature."""
    layer = study.plan.layer
    bins = np.array(study.first(layer, "reliability before"))
    errors = {
        i: [study.mean(i, f"calibration error {when}") for when in ("before", "after")] for i in study.layers
    }
    before, after = errors[layer]
    return _say(
        study,
        "calibration",
        confidence=float(np.average(bins[:, 1], weights=bins[:, 0])),
        right=study.first(layer, "top1"),
        temperature=study.mean(layer, "temperature"),
        before=before,
        after=after,
        worse=[i for i, (without, fitted) in errors.items() if fitted >= without],
    )


def sets(study: Study) -> Sentences:
    """Whether promises are kept."""
    layer = study.plan.layer
    by_class = study.first(layer, f"{METHODS[0]} {OVERVIEW_COVERAGE} by class")
    names = study.subject.classes
    misses = {
        (i, method): _miss(study, i, method, OVERVIEW_COVERAGE) for i in study.layers for method in METHODS
    }
    return _say(
        study,
        "sets",
        promise=float(OVERVIEW_COVERAGE),
        methods=[
            {
                "name": method,
                "covered": study.first(layer, f"{method} {OVERVIEW_COVERAGE} coverage"),
                "size": study.first(layer, f"{method} {OVERVIEW_COVERAGE} size"),
                "outside": {c: miss for c in COVERAGES if (miss := _miss(study, layer, method, c))},
            }
            for method in METHODS
        ],
        outside_layers=[(*where, miss) for where, miss in misses.items() if miss],
        worst={"name": names[int(np.argmin(by_class))], "share": min(by_class)},
        best={"name": names[int(np.argmax(by_class))], "share": max(by_class)},
    )


def _miss(study: Study, layer: int, method: str, promised: str) -> dict[str, float] | None:
    """Compare the measured coverage with what is expected; None where it is within."""
    low, high = study.intervals[promised]
    measured = study.first(layer, f"{method} {promised} coverage")
    if low <= measured <= high:
        return None
    return {"measured": measured, "low": low, "high": high, "right": study.first(layer, "top1")}


def unknown(study: Study) -> Sentences:
    """Whether unknown pictures can be told."""
    layer, scores = study.plan.layer, []
    for what, pictures in study.subject.unknown.items():
        for score in ("surprisal", "doubt"):
            auroc = study.first(layer, f"{score} auroc {what}")
            scores.append(
                {
                    "what": what,
                    "name": score,
                    "auroc": auroc,
                    "half_width": auroc_half_width(auroc, study.pictures, pictures),
                    "fpr95": study.first(layer, f"{score} fpr95 {what}"),
                }
            )
    return _say(study, "unknown", scores=scores, kinds=UNKNOWN, near_guessing=NEAR_GUESSING)


def _say(study: Study, section: str, **figures: object) -> Sentences:
    return say(section, len(study.layers), study=study, **figures)


def _means(study: Study, factor: str) -> dict[str, float]:
    """Accuracy for each value of one factor."""
    heads = next(ablation.heads for ablation in study.ablations if ablation.factor == factor)
    return {value: _mean(study, of_value, "top1") for value, of_value in heads.items()}


def _mean(study: Study, heads: Sequence[Variation], measure: str) -> float:
    return float(np.mean(study.values(heads, measure)))


def _best_few_shot(study: Study, heads: Sequence[Variation]) -> float:
    return max(float(np.mean(study.few_shot(heads, rival))) for rival in FEW_SHOT_RIVALS)


def _least(values: Mapping[Key, float]) -> Key:
    return min(values, key=values.__getitem__)


def _most(values: Mapping[Key, float]) -> Key:
    return max(values, key=values.__getitem__)


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    groups = defaultdict(list)
    for key, layer in pairs:
        groups[key].append(layer)
    return groups
