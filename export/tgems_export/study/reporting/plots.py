"""Plots of a study, one function each."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tgems_export.study.figures import EARLY, PAPER_EARLY, PAPER_ORACLE, Study
from tgems_export.study.plan import FEW_SHOT_RIVALS, FULL, Ablation, rivals_task, sampling_task
from tgems_export.study.reporting.drawing import make_plot
from tgems_export.study.reporting.parts import Plot
from tgems_export.study.reporting.tables.choices import MANY_CLASSES, RULE, SAMPLE
from tgems_export.study.rivals import FORMS, RIVALS, SAMPLES

__all__ = ["accuracy", "answers", "factors", "oracle", "reliability", "sampling"]

METHOD = "T-GEM + Jumper"
COLOURS = {  # Okabe and Ito: told apart by colour-blind readers, too
    METHOD: "#0072b2",
    "without Jumper": "#56b4e9",
    "paper": "#e69f00",
    "gaussian": "#d55e00",
    "discriminant": "#009e73",
    "regression": "#cc79a7",
    "nearest mean": "#8c8c8c",
    FULL: "#222222",
}


def accuracy(study: Study) -> Plot:
    """Top-1 over layers, of everything."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        layers = list(study.layers)
        pools = study.pools
        _draw_full(axes, study)
        _draw_seeds(axes, layers, [study.values(study.heads(i), "top1") for i in layers])
        found = [study.value(study.unprojected(i).name, "top1") for i in layers]
        lines = {"without Jumper": ("T-GEM without Jumper", "o--", found)}
        for rival in RIVALS:
            found = [study.value(rivals_task(i, pools[i]), f"{rival} top1") for i in layers]
            lines[rival] = (rival, "^-", found)
        for form in FORMS:
            found = [study.value(sampling_task(i, pools[i]), f"{form} {SAMPLE}") for i in layers]
            lines[form] = (f"sampling, {RULE[form]}", "s-", found)
        for name, (label, style, found) in lines.items():
            axes.plot(layers, _percent(found), style, color=COLOURS[name], label=label)
        axes.set(xlabel="exit after block", ylabel="top-1, %", xticks=layers)
        figure.legend(loc="outside right center")

    return make_plot(
        "accuracy",
        f"Top-1 accuracy over layers; the band is the spread over seeds, sampling has S = {SAMPLE}.",
        4.2,
        draw,
    )


def sampling(study: Study) -> Plot:
    """Accuracy over S at a few layers."""
    last = len(study.layers)
    layers = sorted({1, study.plan.layer, (study.plan.layer + last) // 2, last})

    def draw(figure: Figure) -> None:
        row = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
        for axes, layer in zip(row, layers, strict=True):
            task = sampling_task(layer, study.pools[layer])
            for form in FORMS:
                mean = np.array([study.value(task, f"{form} {size}") for size in SAMPLES])
                spread = np.array([study.value(task, f"{form} {size} spread") for size in SAMPLES])
                axes.plot(SAMPLES, 100 * mean, "s-", color=COLOURS[form], label=f"sampling, {RULE[form]}")
                _draw_band(axes, SAMPLES, mean - spread, mean + spread, form)
            axes.axhline(100 * study.mean(layer, "top1"), color=COLOURS[METHOD], label=METHOD)
            axes.set(title=f"layer {layer}, {study.pools[layer]}", xlabel="S", xscale="log")
            axes.set_xticks(SAMPLES[::2], [str(size) for size in SAMPLES[::2]])
            axes.minorticks_off()
        row[0].set_ylabel("top-1, %")
        figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(FORMS) + 1)

    return make_plot(
        "sampling", "Top-1 accuracy over S, the pictures a class; bands are the spread.", 3.4, draw
    )


def factors(study: Study) -> Plot:
    """Accuracy over K, and over labelled pictures a class."""
    found = {ablation.factor: ablation for ablation in study.ablations}

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        widths = found["K"].heads
        _draw_seeds(
            left, [int(k) for k in widths], [study.values(heads, "top1") for heads in widths.values()]
        )
        left.set(xlabel="K", ylabel="top-1, %", xscale="log")
        left.set_xticks([int(k) for k in widths], list(widths))
        _draw_few(right, study, found["labels"])
        for axes in (left, right):
            _draw_full(axes, study)
            axes.minorticks_off()
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))

    return make_plot(
        "factors",
        f"Top-1 accuracy over K and over labelled pictures a class, layer {study.plan.layer}.",
        3.6,
        draw,
    )


def oracle(study: Study) -> Plot:
    """The share of pictures resolved so far, over blocks."""
    layers = list(study.layers)
    resolved = np.array([((study.first_right > 0) & (study.first_right <= i)).mean() for i in layers])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.bar(layers, 100 * resolved, color=COLOURS[METHOD], alpha=0.35, label="first right layer, so far")
        right = [study.first(i, "top1") for i in layers]
        axes.plot(layers, _percent(right), "o-", color=COLOURS[METHOD], label="right at this layer")
        paper = COLOURS["gaussian"]
        axes.axhline(100 * PAPER_ORACLE, color=paper, linestyle=":", label="the paper: any layer right")
        label = f"the paper: before block {EARLY + 1}"
        axes.plot([EARLY], [100 * PAPER_EARLY], "D", color=paper, label=label)
        axes.set(xlabel="block", ylabel="pictures, %", ylim=(0, 100), xticks=layers)
        figure.legend(loc="outside right center")

    return make_plot("oracle", "Pictures that some layer so far gets right.", 3.6, draw)


def answers(study: Study) -> Plot:
    """Plot how often each class is the answer, at the plan's layer."""
    classes = study.subject.classes
    found = np.array(study.first(study.plan.layer, "answers"))
    true = np.array(study.subject.evaluation)
    are_many = len(classes) > MANY_CLASSES

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if are_many:
            _draw_sorted(axes, found, true)
        else:
            _draw_bars(axes, classes, found, true)
        axes.set(ylabel="pictures", ylim=(0, None))
        figure.legend(loc="outside right center")

    caption = f"How often each class is the answer at layer {study.plan.layer}, seed 0"
    return make_plot("answers", f"{caption}, sorted." if are_many else f"{caption}.", 3.2, draw)


def _draw_bars(axes: Axes, classes: tuple[str, ...], found: np.ndarray, true: np.ndarray) -> None:
    x = range(len(classes))
    axes.bar(x, found, color=COLOURS[METHOD], alpha=0.7, label="answers")
    axes.plot(x, true, "_", color=COLOURS[FULL], markersize=14, label="pictures of the class")
    axes.set_xticks(x, classes, rotation=30, ha="right")
    axes.grid(axis="x", visible=False)


def _draw_sorted(axes: Axes, found: np.ndarray, true: np.ndarray) -> None:
    for counts, colour, label in ((found, METHOD, "answers"), (true, FULL, "pictures of the class")):
        axes.step(range(len(counts)), np.sort(counts)[::-1], where="mid", color=COLOURS[colour], label=label)
    axes.set(xlabel="classes, by count")


def reliability(study: Study) -> Plot:
    """Confidence against accuracy, before and after the temperature."""

    def draw(figure: Figure) -> None:
        row = figure.subplots(1, 2, sharey=True)
        for axes, when in zip(row, ("before", "after"), strict=True):
            pictures, confidence, right = np.array(study.first(study.plan.layer, f"reliability {when}")).T
            axes.plot([0, 100], [0, 100], color=COLOURS["nearest mean"], linewidth=1, linestyle="--")
            # areas, so that a handful of pictures does not look like a finding
            axes.scatter(
                100 * confidence, 100 * right, s=8 + 300 * pictures / pictures.sum(), color=COLOURS[METHOD]
            )
            error = 100 * study.first(study.plan.layer, f"calibration error {when}")
            axes.set(
                title=f"{when}: error {error:.1f} points",
                xlabel="confidence, %",
                xlim=(0, 103),
                ylim=(0, 103),
            )
            axes.set_box_aspect(1)
        row[0].set_ylabel("right, %")

    caption = f"Confidence against accuracy at layer {study.plan.layer}, seed 0; areas are pictures."
    return make_plot("reliability", caption, 4.8, draw)


def _draw_seeds(axes: Axes, x: list[int], values: list[list[float]]) -> None:
    """The method, with the spread over its seeds."""
    mean, spread = np.mean(values, 1), np.std(values, 1, ddof=1)
    axes.plot(x, 100 * mean, "o-", color=COLOURS[METHOD], linewidth=2.2, zorder=3, label=METHOD)
    _draw_band(axes, x, mean - spread, mean + spread, METHOD)


def _draw_few(axes: Axes, study: Study, ablation: Ablation) -> None:
    """Accuracy with few labelled pictures, beside rivals that learn from the same ones."""
    few = {int(n): heads for n, heads in ablation.heads.items() if heads[0].per_class}
    if few:
        for rival in FEW_SHOT_RIVALS:
            found = [float(np.mean(study.few_shot(heads, rival))) for heads in few.values()]
            axes.plot(list(few), _percent(found), "^-", color=COLOURS[rival], label=rival)
        _draw_seeds(axes, list(few), [study.values(heads, "top1") for heads in few.values()])
    teacher = 100 * float(np.mean(study.values(ablation.heads["none (teacher)"], "top1")))
    axes.axhline(teacher, color=COLOURS[METHOD], linestyle=":", label="labelled by the full CLIP")
    axes.set(xlabel="labelled pictures a class", xscale="log")
    axes.set_xticks(list(few), [str(n) for n in few])


def _draw_full(axes: Axes, study: Study) -> None:
    axes.axhline(
        100 * study.value(FULL, "top1"),
        color=COLOURS[FULL],
        linestyle="--",
        linewidth=1.2,
        label="full CLIP, zero-shot",
    )


def _draw_band(axes: Axes, x: object, low: np.ndarray, high: np.ndarray, colour: str) -> None:
    axes.fill_between(x, 100 * low, 100 * high, color=COLOURS[colour], alpha=0.2, linewidth=0)  # type: ignore[arg-type]


def _percent(shares: list[float]) -> list[float]:
    return [100 * share for share in shares]
