"""Plots from records, in the style of a study's."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rendering.cells import fill
from rendering.pages import Record
from tgems_export.study.reporting.drawing import make_plot
from tgems_export.study.reporting.parts import Plot

__all__ = ["PLOTS"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito, of the sets of exits
STATIC_COLOUR, FULL_COLOUR = "#222222", "#8c8c8c"


def dynamic_exits(record: Record) -> Plot:
    """Accuracy over operations in INT8, one panel for each kind of head."""
    kinds = record["facts"]["kinds"]

    def draw(figure: Figure) -> None:
        row = figure.subplots(1, len(kinds), sharex=True, sharey=True)
        for number, (axes, kind) in enumerate(zip(row, kinds, strict=True)):
            _draw_static(axes, record, number)
            _draw_dynamic(axes, record, kind)
            zero_shot = 100 * record["facts"]["zero_shot"]
            axes.axhline(
                zero_shot, color=FULL_COLOUR, linestyle="--", linewidth=1.2, label="full CLIP, zero-shot"
            )
            axes.set(title=f"{kind} heads, INT8", xlabel="operations of the full image tower, %")
        row[0].set_ylabel("top-1, %")
        handles, labels = row[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)

    caption = "Accuracy against operations of dynamic and static exits"
    return make_plot(record["benchmark"], caption, 4.6, draw)


def _draw_dynamic(axes: Axes, record: Record, kind: str) -> None:
    for exits, colour in zip(record["facts"]["sets"], COLOURS, strict=True):
        points = [
            row["int8"]
            for row in record["tables"]["curves"]
            if (row["kind"], list(row["exits"])) == (kind, list(exits)) and row["int8"]
        ]
        x = [100 * point["operations"] for point in points]
        y = [100 * point["accuracy"]["mean"] for point in points]
        label = fill("dynamic {exits:set}", {"exits": exits})
        axes.plot(x, y, "o-", color=colour, markersize=3, label=label)


def _draw_static(axes: Axes, record: Record, number: int) -> None:
    rows = record["tables"]["static"]
    points = [row["kinds"][number] for row in rows]
    x = [100 * point["operations"] for point in points]
    y = [100 * point["int8"]["mean"] for point in points]
    error = [100 * point["int8"]["spread"] for point in points]
    label = "static exits, ± spread of seeds"
    axes.errorbar(x, y, error, fmt="s", color=STATIC_COLOUR, markersize=4, linewidth=1, label=label)
    for row, across, up in zip(rows, x, y, strict=True):
        axes.annotate(
            str(row["exit"]),
            (across, up),
            (4, -11),
            textcoords="offset points",
            fontsize=8,
            color=STATIC_COLOUR,
        )


def training_curve(record: Record) -> Plot:
    """Loss and accuracy of the demo CLIP on held-out pictures over the pictures shown."""
    curve = record["tables"]["curve"]
    shown = [pictures / 1000 for pictures in map(itemgetter("pictures"), curve)]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        left.plot(shown, [point["loss"] for point in curve], color=FULL_COLOUR)
        left.set(title="training loss", xlabel="thousand pictures shown")
        for number, name in enumerate(("CIFAR-10, 10 names", "Tiny-ImageNet, 180 names")):
            accuracy = [100 * point[f"accuracy_{number}"] for point in curve]
            right.plot(shown, accuracy, color=COLOURS[number], label=name)
        right.set(
            title="zero-shot on held-out training pictures, %",
            xlabel="thousand pictures shown",
            ylim=(0, 100),
        )
        right.legend(loc="center right")

    return make_plot("training_curve", "Loss and accuracy over the pictures shown", 3.4, draw)


PLOTS: dict[str, Callable[[Record], Plot]] = {"demo_clip": training_curve, "dynamic_exits": dynamic_exits}
