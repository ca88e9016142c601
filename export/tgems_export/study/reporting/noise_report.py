"""The noise profile as figures, tables, a plot and sentences: noise.json, noise.md, noise.svg."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tgems_edge.errors import InputError
from tgems_edge.progress import Reporter
from tgems_edge.sources.data import ImageFolder, read_unlabelled, report_left_out
from tgems_export.encoders.encoder import Encoder
from tgems_export.storage.files import write_atomically
from tgems_export.study.noise import RECIPES, Noise, Profile, measure_noise, read_halves
from tgems_export.study.report import Report
from tgems_export.study.reporting.drawing import make_plot
from tgems_export.study.reporting.page import Page, Section, made_with, to_markdown, to_text
from tgems_export.study.reporting.parts import Plot, Table
from tgems_export.study.reporting.sentences import say
from tgems_export.study.reporting.wording import count, percent

__all__ = ["make_noise_report", "page_of", "render_noise", "to_json"]

SCHEMA_VERSION = 2
PACKAGES = ("torch", "open_clip_torch", "onnx", "onnxruntime", "numpy")

DROPPED = 0.5  # of the mean INR: exits below are dropped (eq. 6)
LITTLE = 0.1  # of what a block adds

COLOURS = {"dynamic": "#222222", "minmax": "#0072b2", "entropy": "#d55e00", "percentile": "#009e73"}


def make_noise_report(
    encoder: Encoder, root: Path, out: Path, reporter: Reporter, *, command: str, overwrite: bool
) -> Report:
    """Measures the noise of every recipe and writes what was found to one folder.

    Args:
        encoder: at its full depth.
        root: folder of pictures, labelled or not.
        out: the folder of the report.
        reporter: where progress goes.
        command: what the user typed, to stand in the report.
        overwrite: replace an earlier one.

    Raises:
        DataError: a folder that cannot be used, or too few pictures.
        InputError: something else is in the way.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file, not a folder; give another --out")
    figures = out / "noise.json"
    if figures.exists() and not overwrite:
        raise InputError(f"{figures}: exists already; give --overwrite or another --out")
    folder = read_unlabelled(root)
    report_left_out(folder, reporter)
    noise = measure_noise(encoder, *read_halves(folder, encoder.preprocessing, reporter), reporter)
    heading = {
        "title": f"What INT8 does to {encoder.id.name} on {root}",
        "command": command,
        "made": made_with(*PACKAGES),
    }
    try:
        write_atomically(figures, to_json(noise, encoder, folder, heading).encode(), overwrite=overwrite)
    except FileExistsError:
        raise InputError(f"{figures}: made by another process meanwhile; give another --out") from None
    return render_noise(figures)


def render_noise(figures: Path) -> Report:
    """Writes page and plot of a measurement beside its figures."""
    kept = json.loads(figures.read_text(encoding="utf-8"))
    noise = Noise(
        natural=np.array(kept["d_nat"]),
        profiles={
            name: Profile(*(np.array(found[measure]) for measure in ("d_quant", "inr", "drift")))
            for name, found in kept["recipes"].items()
        },
        **kept["pictures"],
    )
    page = page_of(noise, kept["heading"])
    texts = {figures.with_name("noise.md"): to_markdown(page, plots="")}
    texts |= {figures.with_name(f"{plot.name}.svg"): plot.svg for plot in page.plots}
    for path, text in texts.items():
        write_atomically(path, text.encode())
    return Report("\n\n".join([to_text(_ratios(noise)), *_summary(noise)[:-1]]), (figures, *texts))


def to_json(noise: Noise, encoder: Encoder, folder: ImageFolder, heading: Mapping[str, str]) -> str:
    """All figures, and what they are of."""
    recipes = {
        name: {
            "d_quant": _rounded(profile.quantisation),
            "ratio": _rounded(noise.ratio(name)),
            "inr": _rounded(profile.inr),
            "drift": _rounded(profile.drift),
        }
        for name, profile in noise.profiles.items()
    }
    content = {
        "schema_version": SCHEMA_VERSION,
        "heading": dict(heading),
        "encoder": dataclasses.asdict(encoder.id),
        "folder": folder.sha256,
        "pictures": {"observed": noise.observed, "measured": noise.measured},
        "d_nat": _rounded(noise.natural),
        "recipes": recipes,
    }
    return json.dumps(content, indent=1) + "\n"


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def page_of(noise: Noise, heading: Mapping[str, str]) -> Page:
    """All that there is to say of the noise."""
    method = say("noise_method", len(noise.natural), observed=noise.observed, measured=noise.measured)
    sections = (
        Section("Summary", _summary(noise), (_plot(noise), _ratios(noise))),
        Section("The figures behind it", method, (_distances(noise), _inrs(noise), _drifts(noise))),
    )
    return Page(**heading, sections=sections)


def _summary(noise: Noise) -> tuple[str, ...]:
    """Return the findings; the paper's statements come last."""
    means = {name: float(noise.ratio(name).mean()) for name in noise.profiles}
    least = min(means, key=means.__getitem__)
    ratio, inr = noise.ratio(least), noise.profiles[least].inr
    return say(
        "noise",
        len(ratio),
        means=means,
        least=least,
        most=max(means, key=means.__getitem__),
        limit=LITTLE,
        under=(np.flatnonzero(ratio < LITTLE) + 1).tolist(),
        largest_layer=int(ratio.argmax()) + 1,
        largest=float(ratio.max()),
        changes={
            name: (means[name], means[f"{name}, equalised"])
            for name in means
            if f"{name}, equalised" in means
        },
        dropped=(np.flatnonzero(inr < DROPPED * inr.mean()) + 1).tolist(),
    )


def _ratios(noise: Noise) -> Table:
    table = _table(
        noise,
        "Noise, as a share of what a block adds",
        "‖ẑ − z‖, as a percentage of the norm of what the block in front of it adds to z.",
        lambda name: [percent(float(ratio)) for ratio in noise.ratio(name)],
    )
    means = ("mean", *(percent(float(noise.ratio(name).mean())) for name in noise.profiles))
    return dataclasses.replace(table, rows=(*table.rows, means))


def _distances(noise: Noise) -> Table:
    table = _table(
        noise,
        "Distances",
        "What the block in front adds, ‖z − z of the layer before‖, and ‖ẑ − z‖.",
        lambda name: [_figure(value) for value in noise.profiles[name].quantisation],
    )
    rows = ((i, _figure(added), *cells) for added, (i, *cells) in zip(noise.natural, table.rows, strict=True))
    return dataclasses.replace(table, header=("layer", "added", *noise.profiles), rows=tuple(rows))


def _inrs(noise: Noise) -> Table:
    return _table(
        noise,
        "INR (eq. 5)",
        "Of the mean of a picture's patch tokens: the squared norm of its mean over pictures, divided by the "
        "variance of its error.",
        lambda name: [_figure(value) for value in noise.profiles[name].inr],
    )


def _drifts(noise: Noise) -> Table:
    return _table(
        noise,
        "Cosine drift",
        "1 − cos(ẑ, z), in millionths.",
        lambda name: [_figure(1e6 * value) for value in noise.profiles[name].drift],
    )


def _table(noise: Noise, title: str, text: str, column: Callable[[str], list[str]]) -> Table:
    """A row for each layer, a column for each recipe."""
    layers = [str(i + 1) for i in range(len(noise.natural))]
    rows = zip(layers, *(column(name) for name in noise.profiles), strict=True)
    return Table(title, text, ("layer", *noise.profiles), tuple(rows))


def _figure(value: float) -> str:
    """Three digits."""
    return count(int(float(f"{value:.3g}"))) if value >= 100 else f"{value:#.3g}"


def _plot(noise: Noise) -> Plot:
    layers = range(1, len(noise.natural) + 1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for name in noise.profiles:
            recipe = RECIPES[name]
            colour = COLOURS[recipe.ranges or "dynamic"]
            # hollow, so that a line below it is seen
            style = (
                {"ls": ":", "marker": "s", "mfc": "none", "ms": 7} if recipe.equalised else {"marker": "o"}
            )
            axes.plot(layers, 100 * noise.ratio(name), color=colour, label=name, **style)
        axes.set(xlabel="layer", ylabel="noise / what the block adds, %", ylim=(0, None), xticks=layers)
        figure.legend(loc="outside right center")

    return make_plot("noise", "The noise of INT8, as a share of what the block in front adds.", 4.2, draw)
