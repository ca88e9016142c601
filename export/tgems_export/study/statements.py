"""What the figures say, in plain sentences; with other figures they say otherwise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tgems_edge.sets import COVERAGES, METHODS
from tgems_export.study.figures import (
    EARLY,
    PAPER_EARLY,
    PAPER_ORACLE,
    Difference,
    Study,
    auroc_half_width,
    share_half_width,
)
from tgems_export.study.plan import FEW_SHOT_RIVALS, FULL, Ablation, rivals_task, sampling_task
from tgems_export.study.rivals import FORMS, SAMPLES
from tgems_export.study.tables import OVERVIEW_COVERAGE, RULE, SAMPLE, UNKNOWN
from tgems_export.study.variations import Variation
from tgems_export.study.wording import count, joined, large, layers_named, percent, points, with_spread

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

NEAR_GUESSING = 0.6  # AUROC; guessing is 0.5
NEAR_BEST = 0.005  # of accuracy
PHRASES = {"better": "better", "no difference": "not to be told from it", "worse": "worse"}


def summary(study: Study) -> Iterator[str]:
    """Which layer, what it costs, against what, and how sure."""
    layer, last = study.plan.layer, len(study.layers)
    yield (
        f"The exit after block {layer} of {last} ({study.pools[layer]}) is right about "
        f"{with_spread(study.values(study.heads(layer), 'top1'))} % of {count(study.pictures)} pictures that "
        "neither trained nor calibrated; the full CLIP, zero-shot, about "
        f"{percent(study.value(FULL, 'top1'))} %. On the same pictures the exit is "
        f"{_said(study.against_full(layer))}. Its head learned from labelled pictures "
        "of these classes; the full CLIP is only told their names."
    )
    level = [i for i in study.layers if study.against_full(i).verdict != "worse"]
    yield (
        f"The first exit that is not measurably worse than the full CLIP (seed 0) is the one after block "
        f"{level[0]}."
        if level
        else "Every exit is measurably worse than the full CLIP (seed 0)."
    )
    pool = study.pools[layer]
    yield (
        f"The best rival on the activations of layer {layer} is the {study.best_rival(layer, pool)}; against "
        f"it T-GEM + Jumper is {_said(study.against_rival(layer, pool))}."
    )
    yield _saving(study, layer)


def layers(study: Study) -> Iterator[str]:
    """T-GEM + Jumper against sampling, rivals, and itself without Jumper."""
    yield from _against_sampling(study)
    yield from _against_rivals(study)
    gains = {i: study.first(i, "top1") - study.value(study.unprojected(i).name, "top1") for i in study.layers}
    least, most = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
    yield (
        f"The Jumper is worth between {points(gains[least])} points (layer {least}) and "
        f"{points(gains[most])} points (layer {most}), seed 0."
    )
    chosen = _grouped((study.pools[i], i) for i in study.layers)
    said = [f"{pool} at {layers_named(found, len(study.layers))}" for pool, found in chosen.items()]
    if len(study.material.pools) > 1:
        yield f"Training pictures that watched chose the pool {joined(said)}."


def sampling(study: Study) -> Iterator[str]:
    """What S and the form of the rate change."""

    def at(layer: int, form: str, size: int) -> float:
        return float(study.value(sampling_task(layer, study.pools[layer]), f"{form} {size}"))

    first, last = SAMPLES[0], SAMPLES[-1]
    for form in FORMS:
        gains = [at(i, form, last) - at(i, form, first) for i in study.layers]
        rest = [at(i, form, last) - at(i, form, SAMPLE) for i in study.layers]
        yield (
            f"With the {RULE[form]}, going from S = {first} to {last} changes accuracy by "
            f"{points(min(gains))} to {points(max(gains))} points; from S = {SAMPLE} on by "
            f"{points(min(rest))} to {points(max(rest))}."
        )
    paper, gaussian = FORMS
    ahead = [i for i in study.layers if at(i, paper, SAMPLE) > at(i, gaussian, SAMPLE)]
    which = f"at {layers_named(ahead, len(study.layers))}" if ahead else "at no layer"
    yield f"At S = {SAMPLE} the {RULE[paper]} does better than the {RULE[gaussian]} {which}."
    least = int(np.bincount(study.material.training.labels).min())
    if least < last:
        yield f"The smallest class has {least} training pictures; a larger S takes all of them."


def costs(study: Study) -> Iterator[str]:
    """What one exit saves, and what a block costs."""
    yield _saving(study, study.plan.layer)
    if len(study.exits) > 1:
        first, last = study.exits[0], study.exits[-1]
        blocks = len(study.exits) - 1
        yield (
            f"Each block costs {large((last.parameters - first.parameters) / blocks)} parameters and "
            f"{large((last.operations - first.operations) / blocks)} operations."
        )


def ablations(study: Study) -> Iterator[str]:
    """One sentence for each factor."""
    found = {ablation.factor: ablation for ablation in study.ablations}
    yield _losses(study, found["loss"])
    yield _width(study, found["K"])
    yield _epochs(study, found["epochs"])
    yield _prompts(study, found["templates"])
    yield from _labels(study, found["labels"])
    if study.material.new_names:
        yield _new_names(study, len(study.material.new_names.rows))


def oracle(study: Study) -> Iterator[str]:
    """What choosing the layer for each picture could reach at most."""
    ever = float((study.first_right > 0).mean())
    last, classes = len(study.layers), len(study.material.classes)
    yield (
        f"Some layer is right about {percent(ever)} % of the pictures; {last} independent guesses among "
        f"{classes} classes would be for {percent(1 - (1 - 1 / classes) ** last)} %. An oracle knows the "
        "answer, so this is a bound and no method. The paper reports "
        f"{percent(PAPER_ORACLE)} % (CIFAR-10, ViT-B-32, arXiv 2605.17499)."
    )
    if last > EARLY and ever > 0:
        early = float(((study.first_right > 0) & (study.first_right <= EARLY)).mean())
        yield (
            f"Before block {EARLY + 1}, {percent(early)} % of all pictures are resolved, which is "
            f"{percent(early / ever)} % of those that some layer is right about. The paper reports "
            f"{percent(PAPER_EARLY)} % and does not say of which."
        )


def health(study: Study) -> Iterator[str]:
    """Spread, rank and warnings."""
    spread = {i: float(np.std(study.values(study.heads(i), "top1"), ddof=1)) for i in study.layers}
    widest = max(spread, key=spread.__getitem__)
    classes = len(study.material.classes)
    ranks = {i: study.mean(i, "rank") for i in study.layers}
    low, high = min(ranks, key=ranks.__getitem__), max(ranks, key=ranks.__getitem__)
    yield f"Seeds differ most at layer {widest}, by a standard deviation of {percent(spread[widest])} points."
    yield (
        f"The effective rank is between {ranks[low]:.1f} (layer {low}) and {ranks[high]:.1f} (layer {high}) "
        f"of {study.plan.k} dimensions; the centres of {classes} classes span at most "
        f"{classes - 1}."
    )
    warned = [i for i in study.layers if any(study.value(h.name, "warnings") for h in study.heads(i))]
    yield (
        f"T-GEM + Jumper has a warning at {layers_named(warned, len(study.layers))}."
        if warned
        else "T-GEM + Jumper has no warning at any layer."
    )


def calibration(study: Study) -> Iterator[str]:
    """What one temperature does."""
    layer = study.plan.layer
    bins = np.array(study.first(layer, "reliability before"))
    confidence = float(np.average(bins[:, 1], weights=bins[:, 0]))
    right = study.first(layer, "top1")
    before, after = (study.mean(layer, f"calibration error {when}") for when in ("before", "after"))
    yield (
        f"Without calibration, layer {layer} claims {percent(confidence)} % on average and is right about "
        f"{percent(right)} % (seed 0): "
        f"{'too sure' if confidence > right else 'not sure enough'} of itself. A "
        f"temperature of {study.mean(layer, 'temperature'):.2f} takes the expected calibration error from "
        f"{percent(before)} to {percent(after)} points."
    )
    worse = [
        i
        for i in study.layers
        if study.mean(i, "calibration error after") >= study.mean(i, "calibration error before")
    ]
    yield (
        f"The temperature does not help at {layers_named(worse, len(study.layers))}."
        if worse
        else "It lowers the error at every layer."
    )


def sets(study: Study) -> Iterator[str]:
    """Whether promises are kept."""
    layer = study.plan.layer
    for method in METHODS:
        outside = [
            f"{percent(float(c))} % promised, {covers}"
            for c in COVERAGES
            if (covers := _covers(study, layer, method, c))
        ]
        covered = study.first(layer, f"{method} {OVERVIEW_COVERAGE} coverage")
        size = study.first(layer, f"{method} {OVERVIEW_COVERAGE} size")
        yield (
            f"{method.capitalize()} sets that promise {percent(float(OVERVIEW_COVERAGE))} % hold the class "
            f"of {percent(covered)} % of the pictures and {size:.2f} classes on average; "
            + (
                f"outside what is expected: {joined(outside)}."
                if outside
                else "every promise is kept, within what is expected."
            )
        )
    found = [
        f"layer {i} ({method} sets: {covers})"
        for i in study.layers
        for method in METHODS
        if (covers := _covers(study, i, method, OVERVIEW_COVERAGE))
    ]
    expected = f"{percent(float(OVERVIEW_COVERAGE))} % promised"
    yield (
        f"Over the layers, with {expected}, outside what is expected: {joined(found)}."
        if found
        else f"With {expected}, every layer lies within what is expected."
    )
    by_class = study.first(layer, f"{METHODS[0]} {OVERVIEW_COVERAGE} by class")
    worst, best = int(np.argmin(by_class)), int(np.argmax(by_class))
    names = study.material.classes
    yield (
        f"The promise is over all pictures and not for each class: {METHODS[0]} sets hold {names[worst]} for "
        f"{percent(by_class[worst])} % of its pictures, and {names[best]} for {percent(by_class[best])} %."
    )


def unknown(study: Study) -> Iterator[str]:
    """Whether unknown pictures can be told."""
    layer = study.plan.layer
    for what, pictures in study.material.unknown.items():
        for score in ("surprisal", "doubt"):
            auroc = study.first(layer, f"{score} auroc {what}")
            half_width = auroc_half_width(auroc, study.pictures, len(pictures.rows))
            passing = percent(study.first(layer, f"{score} fpr95 {what}"))
            yield (
                f"{UNKNOWN[what].capitalize()} at layer {layer}: {score} ranks them above known ones in "
                f"{percent(auroc)} ± {percent(half_width)} % of the pairs, {_telling(auroc, half_width)}; "
                f"{passing} % pass where 95 % of the known ones do."
            )
    yield (
        "Surprisal is the smallest rate, which the device can hold against a threshold; doubt is one minus "
        "the largest probability, the usual baseline."
    )


def _against_sampling(study: Study) -> Iterator[str]:
    margins = {i: study.mean(i, "top1") - study.best_sampling(i, study.pools[i]) for i in study.layers}
    behind = [i for i in study.layers if margins[i] <= 0]
    least, most = min(margins, key=margins.__getitem__), max(margins, key=margins.__getitem__)
    if behind:
        found = [f"layer {i} ({points(margins[i])} points)" for i in behind]
        yield f"T-GEM + Jumper does not beat the best of all S and both forms of sampling at {joined(found)}."
    else:
        yield (
            "T-GEM + Jumper beats sampling at every layer, whichever S and form suit sampling best: by "
            f"{percent(margins[least])} (layer {least}) to {percent(margins[most])} points (layer {most})."
        )


def _against_rivals(study: Study) -> Iterator[str]:
    differences = {i: study.against_rival(i, study.pools[i]) for i in study.layers}
    verdicts = _grouped((d.verdict, i) for i, d in differences.items())
    said = [
        f"{PHRASES[verdict]} at {layers_named(verdicts[verdict], len(study.layers))}"
        for verdict in PHRASES
        if verdict in verdicts
    ]
    yield f"Against the best rival on the same activations, T-GEM + Jumper is {joined(said)}."
    if worse := verdicts.get("worse"):
        found = [
            f"layer {i} by {percent(-differences[i].mean)} ± {percent(differences[i].half_width)} points "
            f"({study.best_rival(i, study.pools[i])})"
            for i in worse
        ]
        yield f"It is behind at {joined(found)}. {_what_differs(study)}"


def _what_differs(study: Study) -> str:
    """What the figures and the definitions say about a rival that is ahead; no more."""
    widths = next(a for a in study.ablations if a.factor == "K").heads
    pool = study.pools[study.plan.layer]
    means = _means(study, widths)
    own, widest = str(study.plan.k), max(widths, key=int)
    wider = (
        ""
        if own == widest
        else f"; at layer {study.plan.layer}, K = {widest} changes its accuracy by "
        f"{points(means[widest] - means[own])} points"
    )
    layer = study.plan.layer
    epochs = _means(study, next(a for a in study.ablations if a.factor == "epochs").heads)
    longest = max(epochs, key=int)
    return (
        f"The rivals read all {study.material.width} dimensions, and labels only: they have no answer for a "
        f"new name. The T-GEM reads {own} dimensions and makes its classes from text{wider}. At layer "
        f"{layer}, {longest} epochs instead of {study.plan.epochs} take it from {percent(means[own])} to "
        f"{percent(epochs[longest])} %; the best rival there has "
        f"{percent(study.value(rivals_task(layer, pool), f'{study.best_rival(layer, pool)} top1'))} %."
    )


def _saving(study: Study, layer: int) -> str:
    kept, full = study.exits[layer - 1], study.full
    return (
        f"The exit after block {layer} keeps {large(kept.parameters)} of {large(full.parameters)} parameters "
        f"and {large(kept.operations)} of {large(full.operations)} operations of the image tower: it saves "
        f"{percent(1 - kept.parameters / full.parameters)} and "
        f"{percent(1 - kept.operations / full.operations)} %."
    )


def _losses(study: Study, ablation: Ablation) -> str:
    means = _means(study, ablation.heads)
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    own = study.heads(study.plan.layer)[0].loss
    others = "" if best == own else f"; the method's own, {own}, reaches {percent(means[own])} %"
    return (
        f"Of the losses {best} does best ({percent(means[best])} %) and {worst} worst "
        f"({percent(means[worst])} %){others}."
    )


def _width(study: Study, ablation: Ablation) -> str:
    means = _means(study, ablation.heads)
    best = max(means, key=means.__getitem__)
    enough = next(k for k in means if means[k] >= means[best] - NEAR_BEST)
    return (
        f"K = {best} does best ({percent(means[best])} %); K = {enough} is the smallest within "
        f"{percent(NEAR_BEST)} points of it."
    )


def _epochs(study: Study, ablation: Ablation) -> str:
    means = _means(study, ablation.heads)
    own, most = means[str(study.plan.epochs)], max(means, key=int)
    return (
        f"{most} epochs instead of {study.plan.epochs} change accuracy by {points(means[most] - own)} points."
    )


def _prompts(study: Study, ablation: Ablation) -> str:
    one, every = ablation.heads["one"], ablation.heads["all"]

    def change(measure: str) -> str:
        return points(float(np.mean(study.values(one, measure)) - np.mean(study.values(every, measure))))

    said = [f"accuracy by {change('top1')} points"]
    if study.material.held_out_text is not None:
        said.append(f"accuracy with held-out templates by {change('held-out templates')}")
    if study.material.new_names:
        said.append(f"accuracy on new names by {change('new names')}")
    return f"Training with one template instead of {study.material.prompts.shape[1]} changes {joined(said)}."


def _labels(study: Study, ablation: Ablation) -> Iterator[str]:
    means = _means(study, ablation.heads)
    few = {n: heads for n, heads in ablation.heads.items() if heads[0].per_class}
    if few:
        ahead = [n for n, heads in few.items() if means[n] > _best_few_shot(study, heads)]
        which = f"with {joined(ahead)}" if ahead else "at none of them"
        most = max(few, key=int)
        yield (
            f"With {most} labelled pictures a class accuracy is {percent(means[most])} %. Against "
            f"{joined(FEW_SHOT_RIVALS)} that learn from the same pictures, T-GEM + Jumper is ahead {which} "
            f"(tried: {joined(few)})."
        )
    taught, full = means["none (teacher)"], study.value(FULL, "top1")
    yield (
        f"Without labels, taught by the full CLIP's own answers, it is {percent(taught)} %: "
        f"{points(taught - means['all'])} points against labels, {points(taught - full)} against the full "
        "CLIP."
    )


def _best_few_shot(study: Study, heads: list[Variation]) -> float:
    return max(float(np.mean(study.few_shot(heads, rival))) for rival in FEW_SHOT_RIVALS)


def _new_names(study: Study, pictures: int) -> str:
    layer, guess = study.plan.layer, 1 / study.new_names
    found = study.mean(layer, "new names")
    is_guess = found - share_half_width(found, pictures) <= guess
    return (
        f"Among {study.new_names} new names layer {layer} is right about "
        f"{with_spread(study.values(study.heads(layer), 'new names'))} %, which "
        f"{'cannot be told from' if is_guess else 'is more than'} guessing ({percent(guess)} %); the full "
        f"CLIP about {percent(study.value(FULL, 'new names'))} %."
    )


def _covers(study: Study, layer: int, method: str, promised: str) -> str:
    """How the measured coverage lies to what is expected; empty where it is within."""
    low, high = study.intervals[promised]
    measured = study.first(layer, f"{method} {promised} coverage")
    right = study.first(layer, "top1")
    if measured < low:
        return f"{percent(measured)} % and not at least {percent(low)} %"
    if measured <= high:
        return ""
    reason = f", as the best class alone is right about {percent(right)} %" if right > high else ""
    return f"{percent(measured)} % and not at most {percent(high)} %{reason}"


def _telling(auroc: float, half_width: float) -> str:
    if auroc + half_width < 0.5:
        return "worse than guessing (50): they look more familiar"
    if auroc - half_width <= 0.5:
        return "not to be told from guessing (50)"
    return "near guessing (50)" if auroc < NEAR_GUESSING else "where guessing has 50"


def _said(difference: Difference) -> str:
    phrase = PHRASES[difference.verdict]
    return f"{phrase} ({points(difference.mean)} ± {percent(difference.half_width)} points)"


def _means(study: Study, heads: Mapping[str, Sequence[Variation]]) -> dict[str, float]:
    return {value: float(np.mean(study.values(of_value, "top1"))) for value, of_value in heads.items()}


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    groups = defaultdict(list)
    for key, layer in pairs:
        groups[key].append(layer)
    return groups
