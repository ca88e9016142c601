"""What several exits in one file are worth, of which each picture takes the first that is sure, in INT8.

    python benchmarks/dynamic_exits.py TRAIN CALIBRATION EVALUATION

The demo CLIP, and three image folders without a picture in common. Heads of both kinds learn from TRAIN
behind every block, from three seeds; ranges, temperatures, gates and thresholds come from CALIBRATION;
EVALUATION only measures. Beside the dynamic exits are the controls that their paper (LRA-EE, arXiv
2605.26415) lacks: every static exit, the same in fp32, other gates and none, and SSA at the last block. An
hour on two cores once the activations of TRAIN are cached, most of it for heads and answers, which are cached
as well; 4 GB of memory. Writes benchmarks/results/dynamic_exits.md and dynamic_exits.svg, with --name others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from exit_answers import EPOCHS, FP32, INT8, KINDS, SHARE, TARGET, Heads, Material, Precision, Tower, gather
from exit_choices import GATES, Curve, Decider, Gate, Outcome, Point, Run, difference, quadrants, run
from exit_files import Equality, Latency, compare_with_segments, decided, gated, static_name, time_files
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from report import RESULTS, table, write_report

from tgems_edge.progress import Reporter
from tgems_export.exporting.dynamic.gates import DROPPED_BELOW, drop_noisy
from tgems_export.heads.base import HeadKindName as HeadKind
from tgems_export.study.plots import make_plot
from tgems_export.study.wording import NONE, count, joined, percent, points

SEEDS = (0, 1, 2)
SETS = ((3, 5, 8), (3, 5, 8, 11), (8, 10, 11), (8, 10, 11, 12))
SHIPPED = SETS[0]  # of which files are made
BUDGETS = tuple(np.arange(0.25, 0.901, 0.05).round(2).tolist())
AIM = 0.25  # fewer operations at the accuracy of the best static exit
SURE = 1.96  # standard errors
STATIC_BESIDE = (8, 9, 10, 11)  # exits in the table of rescues and losses
GATES_BETWEEN = 1 / 3  # of the way from the first exit's operations to the last one's, where a budget binds

TIMED = (0.35, 0.45, 0.55)  # budgets
TIMED_PICTURES = 600
BATCHES = (1, 16)

EQ_4 = next(iter(GATES))
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito, of SETS
STATIC_COLOUR, FULL_COLOUR = "#222222", "#8c8c8c"

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Kind:
    """Heads of one kind, of every seed, and what all exits and sets of exits make of them."""

    kind: HeadKind
    heads: list[Heads]

    @property
    def title(self) -> str:
        """As people say it."""
        return KINDS[self.kind]

    @cached_property
    def tower(self) -> Tower:
        """The graph of all exits."""
        return Tower(self.heads[0])

    @cached_property
    def runs(self) -> dict[Precision, list[Run]]:
        """For each precision and seed."""
        return {p: [run(self.tower, heads, p) for heads in self.heads] for p in (FP32, INT8)}

    @cached_property
    def uncalibrated(self) -> list[Run]:
        """In INT8, every temperature 1."""
        return [run(self.tower, heads, INT8, calibrated=False) for heads in self.heads]

    @cached_property
    def curves(self) -> dict[tuple[Precision, tuple[int, ...]], Curve]:
        """Of every precision and set."""
        return {
            (precision, layers): Curve.of(runs, layers, BUDGETS)
            for precision, runs in self.runs.items()
            for layers in SETS
        }

    @cached_property
    def gated(self) -> dict[tuple[int, ...], dict[str, list[Outcome]]]:
        """For each set and gate, what becomes of the evaluation pictures in INT8, of each seed."""
        return {
            layers: {name: self._outcomes(layers, gate) for name, gate in GATES.items()} for layers in SETS
        }

    def _outcomes(self, layers: tuple[int, ...], gate: Gate) -> list[Outcome]:
        first, *_, last = self.heads[0].costs.dynamic(layers)
        budget = first + GATES_BETWEEN * (last - first)
        runs = self.runs[INT8] if gate.calibrated else self.uncalibrated
        return [Decider(run, layers, gate).point(budget).evaluation for run in runs]

    @property
    def costs(self) -> list[float]:
        """Of the static exits."""
        return self.heads[0].costs.static

    def right(self, layer: int, precision: Precision = INT8) -> list[Bools]:
        """Of each seed, which evaluation pictures the static exit has right."""
        return [run.evaluation.right[layer - 1] for run in self.runs[precision]]

    def accuracy(self, layer: int, precision: Precision = INT8) -> float:
        """Of a static exit, the mean of all seeds."""
        return float(np.mean(self.right(layer, precision)))

    def calibrated_accuracy(self, layer: int, precision: Precision = INT8) -> float:
        """The same on the pictures that calibrate, where it may be chosen by."""
        return float(np.mean([run.calibration.right[layer - 1] for run in self.runs[precision]]))

    def best(self, precision: Precision = INT8) -> int:
        """The static exit that is most often right on the pictures that calibrate; of equals the earliest."""
        layers = self.heads[0].material.layers
        return max(layers, key=lambda layer: (self.calibrated_accuracy(layer, precision), -layer))

    def cheapest_equal(self, precision: Precision = INT8) -> int:
        """The cheapest static exit that those pictures cannot tell from the best."""
        runs = self.runs[precision]
        best = [run.calibration.right[self.best(precision) - 1] for run in runs]

        def is_worse(layer: int) -> bool:
            gain, error = difference([run.calibration.right[layer - 1] for run in runs], best)
            return gain < -SURE * error

        return next(layer for layer in self.heads[0].material.layers if not is_worse(layer))

    def chosen(self, layers: tuple[int, ...], precision: Precision = INT8) -> list[Point]:
        """Under the budget that calibration says is as good as the best static exit."""
        curve = self.curves[precision, layers]
        return curve.chosen(self.calibrated_accuracy(self.best(precision), precision))

    def as_accurate(self, accuracy: float, precision: Precision = INT8) -> int | None:
        """The cheapest static exit that is at least so accurate where it is measured."""
        enough = [i for i in self.heads[0].material.layers if self.accuracy(i, precision) >= accuracy]
        return min(enough, key=lambda layer: self.costs[layer - 1], default=None)


def main(
    train: Annotated[Path, typer.Argument(help="Image folder that heads learn from.")],
    calibration: Annotated[Path, typer.Argument(help="Image folder that ranges and gates are fitted on.")],
    evaluation: Annotated[Path, typer.Argument(help="Image folder to measure on.")],
    name: Annotated[str, typer.Option(help="Of what is written.")] = "dynamic_exits",
    seeds: Annotated[int, typer.Option(min=2, help="How many.")] = len(SEEDS),
) -> None:
    """Measure dynamic exits beside static ones."""
    reporter = Reporter()
    material = gather(train, calibration, evaluation, reporter)
    kinds = [Kind(kind, [Heads(material, kind, seed, reporter) for seed in range(seeds)]) for kind in KINDS]
    tgem = kinds[0]
    plot = make_plot(name, "", 4.6, lambda figure: draw(figure, kinds, material))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.svg").write_text(plot.svg, encoding="utf-8")
    budget = tgem.chosen(SHIPPED)[0].budget
    equalities = check_files(tgem.tower, budget)
    latencies = measure_files(tgem.tower)
    command = f"python benchmarks/dynamic_exits.py {train.name} {calibration.name} {evaluation.name}"
    if name != "dynamic_exits":
        command += f" --name {name}"
    write_report(
        name,
        "Dynamic exits in INT8, beside static ones",
        command,
        "\n\n".join([setting(material, kinds), " ".join(verdict(kinds)), f"![]({name}.svg)"]),
        AIM_HEADER,
        aim_rows(kinds),
        "\n\n".join(behind(kinds, material, budget, equalities, latencies)),
    )


def setting(material: Material, kinds: Sequence[Kind]) -> str:
    """What was done."""
    recipes = [
        f"{kind.title}: {kind.tower.recipe.ranges}{', equalised' * kind.tower.recipe.equalised}"
        for kind in kinds
    ]
    rounding = max(kind.tower.rounding for kind in kinds)
    learnt = 0.9 * len(material.training.names)
    return (
        f"The demo CLIP on {len(material.training.classes)} classes; {count(round(learnt))} pictures that "
        f"heads learn from, {count(len(material.calibration.labels))} that calibrate and "
        f"{count(len(material.evaluation.labels))} that only measure. {len(kinds[0].heads)} seeds, over "
        f"which ± is the spread; T-GEM heads of {EPOCHS} epochs with the pools of the built-in ones, SSA "
        f"heads that learn from {100 * SHARE:g} % of those pictures. Static INT8 for {TARGET}, by the recipe "
        f"that changes the rates of calibration pictures least, with heads of seed 0 ({'; '.join(recipes)}). "
        "Heads stay in fp32, so those of other seeds are put behind the activations of the same graph; with "
        f"those of seed 0, this differs from what the graph says by {rounding:.0e} at most. Operations "
        "are per cent of the full image tower's, of a mean evaluation picture, by the exits that these took, "
        f"heads and gates included; a gate is {kinds[0].heads[0].costs.gate} operations. The static exit of "
        "the same block needs no more of its block than the class token or the mean does, which is counted. "
        f"Full CLIP, zero-shot, fp32: {percent(material.zero_shot)} %."
    )


# --- The aim, and what became of it.

AIM_HEADER = (
    "exits",
    "budget",
    "calibration: accuracy",
    "accuracy",
    "operations",
    "minus best static (± standard error)",
    "saved",
    "in hindsight: cheapest static as accurate",
    "saved",
    "in hindsight: least operations as accurate as best static",
    "saved",
)


@dataclass(frozen=True)
class Aim:
    """A set of exits under the budget that calibration chooses, beside the best static exit."""

    kind: Kind
    layers: tuple[int, ...]
    precision: Precision

    @property
    def chosen(self) -> list[Point]:
        """Of each seed."""
        return self.kind.chosen(self.layers, self.precision)

    @property
    def best(self) -> int:
        """The static exit to be equalled."""
        return self.kind.best(self.precision)

    @property
    def gain(self) -> tuple[float, float]:
        """Accuracy against it, and the standard error."""
        right = [point.evaluation.right for point in self.chosen]
        return difference(right, self.kind.right(self.best, self.precision))

    @property
    def saving(self) -> float:
        """Share of its operations that is saved."""
        return self.saving_on(self.best)

    def saving_on(self, layer: int) -> float:
        """Share of a static exit's operations that is saved."""
        return 1 - _operations(self.chosen) / self.kind.costs[layer - 1]

    @property
    def hindsight(self) -> float | None:
        """The least operations of all budgets that measured as accurate as it, if any did."""
        wanted = self.kind.accuracy(self.best, self.precision)
        curve = self.kind.curves[self.precision, self.layers]
        enough = [_operations(found) for found in curve.points if _accuracy(found) >= wanted]
        return min(enough, default=None)

    @property
    def reached(self) -> bool:
        """Whether as accurate, and so much cheaper."""
        return self.gain[0] >= 0 and self.saving >= AIM

    @property
    def within_noise(self) -> bool:
        """Whether so much cheaper, and not measurably less accurate."""
        gain, error = self.gain
        return gain >= -SURE * error and self.saving >= AIM


def _accuracy(found: Sequence[Point]) -> float:
    return float(np.mean([point.evaluation.accuracy for point in found]))


def _operations(found: Sequence[Point]) -> float:
    return float(np.mean([point.evaluation.operations for point in found]))


def aims(kinds: Sequence[Kind], precision: Precision = INT8) -> list[Aim]:
    """Of every kind and set."""
    return [Aim(kind, layers, precision) for kind in kinds for layers in SETS]


def aim_rows(kinds: Sequence[Kind]) -> list[list[str]]:
    """One row for each kind and set, INT8 first."""
    rows = []
    for aim in [*aims(kinds), *aims(kinds, FP32)]:
        chosen = aim.chosen
        equal = aim.kind.as_accurate(_accuracy(chosen), aim.precision)
        rows.append(
            [
                f"{aim.kind.title} {_set(aim.layers)}, {aim.precision}",
                f"{chosen[0].budget:g}",
                percent(np.mean([point.calibration.accuracy for point in chosen])),
                spread([point.evaluation.accuracy for point in chosen]),
                percent(_operations(chosen)),
                f"exit {aim.best}: {_gained(aim.gain)}",
                percent(aim.saving),
                f"exit {equal}" if equal else "none",
                percent(aim.saving_on(equal)) if equal else NONE,
                percent(aim.hindsight) if aim.hindsight else "never",
                percent(1 - aim.hindsight / aim.kind.costs[aim.best - 1]) if aim.hindsight else NONE,
            ]
        )
    return rows


def _gained(found: tuple[float, float]) -> str:
    """A difference and its standard error, in points."""
    gain, error = found
    return f"{points(gain)} ± {percent(error)}"


def verdict(kinds: Sequence[Kind]) -> Iterator[str]:
    """The conclusion, in sentences."""
    found = aims(kinds)
    yield (
        f"The aim: at the accuracy of the best static exit in INT8, {100 * AIM:g} % fewer operations, the "
        "static exit and the budget both chosen on the calibration pictures."
    )
    reached = [_named(aim) for aim in found if aim.reached]
    yield (f"Reached by {joined(reached)}." if reached else f"Missed by all {len(found)} sets of exits.")
    near = [_named(aim) for aim in found if aim.within_noise and not aim.reached]
    if near:
        yield f"So much cheaper and less accurate by no more than chance explains: {joined(near)}."
    for kind in kinds:
        own = [aim for aim in found if aim.kind is kind]
        best = kind.best()
        said = ", ".join(
            f"{_set(aim.layers)} {_gained(aim.gain)} points at {percent(aim.saving)} % fewer operations"
            for aim in own
        )
        yield (
            f"{kind.title}: the best static exit is {best} ({percent(kind.accuracy(best))} % at "
            f"{percent(kind.costs[best - 1])} % of the operations); against it {said}."
        )
        yield _at_cheapest_equal(kind)
    yield from _along(kinds)
    yield from _rescue(kinds)
    top = max(kinds, key=lambda kind: kind.accuracy(kind.best()))
    ssa = next(kind for kind in kinds if kind.kind == "ssa")
    yield (
        f"Of both kinds the best static exit is {top.best()} of {top.title}; SSA at the last block, which "
        f"the paper does not show, is at {percent(ssa.accuracy(ssa.heads[0].material.layers[-1]))} %."
    )


def _at_cheapest_equal(kind: Kind) -> str:
    """What is saved at the accuracy of the cheapest static exit that is as good as the best."""
    cheapest = kind.cheapest_equal()
    found = {layers: _at_accuracy_of(kind, cheapest, layers) for layers in SETS}
    said = [
        f"{_set(layers)} saves {percent(match.saving)} % ({_gained(match.gain)} points)"
        if match
        else f"{_set(layers)} is never so accurate"
        for layers, match in found.items()
    ]
    return (
        f"But calibration pictures cannot tell exit {cheapest} from it ({percent(kind.accuracy(cheapest))} % "
        f"at {percent(kind.costs[cheapest - 1])} %). As accurate as that one where it calibrates, "
        f"{joined(said)}."
    )


@dataclass(frozen=True)
class Match:
    """A static exit, and several together that calibration says are as accurate."""

    gain: tuple[float, float]  # in accuracy, and its standard error
    saving: float  # of operations


def _at_accuracy_of(kind: Kind, layer: int, layers: tuple[int, ...]) -> Match | None:
    found = kind.curves[INT8, layers].reaching(kind.calibrated_accuracy(layer))
    if found is None:
        return None
    gain = difference([point.evaluation.right for point in found], kind.right(layer))
    return Match(gain, 1 - _operations(found) / kind.costs[layer - 1])


def _rescue(kinds: Sequence[Kind]) -> Iterator[str]:
    """Whether what is won against full depth is won from INT8."""
    for kind in kinds:
        last = kind.heads[0].material.layers[-1]
        net = {
            precision: [
                difference([p.evaluation.right for p in kind.chosen(layers, precision)], full)[0]
                for layers in SETS
            ]
            for precision in (INT8, FP32)
            for full in [kind.right(last, precision)]
        }
        said = joined(f"{points(min(n))} to {points(max(n))} points in {p}" for p, n in net.items())
        changed = points(kind.accuracy(last) - kind.accuracy(last, FP32))
        yield (
            f"Rescues less losses against full depth, {kind.title}: {said}. INT8 changes full depth by "
            f"{changed} points."
        )


def _along(kinds: Sequence[Kind]) -> Iterator[str]:
    """What is saved along the curves, at equal accuracy."""
    for kind in kinds:
        savings = [
            saving for layers in SETS for _, saving in _savings(kind, layers, INT8) if saving is not None
        ]
        beyond = sum(saving is None for layers in SETS for _, saving in _savings(kind, layers, INT8))
        better = sum(saving > 0 for saving in savings)
        yield (
            f"Along all curves of {kind.title} a dynamic point costs less than the cheapest static exit that "
            f"is at least as accurate in {better} of {len(savings)} cases, by {percent(min(savings))} to "
            f"{percent(max(savings))} %, {percent(float(np.median(savings)))} in the median"
            + (f"; {beyond} points are more accurate than every static exit." if beyond else ".")
        )


def _savings(
    kind: Kind, layers: tuple[int, ...], precision: Precision
) -> list[tuple[int | None, float | None]]:
    """For each budget, the cheapest static exit as accurate and what is saved against it."""
    found = []
    for points_ in kind.curves[precision, layers].points:
        equal = kind.as_accurate(_accuracy(points_), precision)
        found.append((equal, 1 - _operations(points_) / kind.costs[equal - 1] if equal else None))
    return found


def _named(aim: Aim) -> str:
    return f"{aim.kind.title} {_set(aim.layers)}"


def _set(layers: Sequence[int]) -> str:
    return "{" + ", ".join(map(str, layers)) + "}"


def spread(shares: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds, in per cent."""
    return f"{percent(float(np.mean(shares)))} ± {percent(float(np.std(shares, ddof=1)))}"


# --- Everything else: one part each.


def behind(
    kinds: Sequence[Kind],
    material: Material,
    budget: float,
    equalities: Sequence[Equality],
    latencies: dict[int, list[Latency]],
) -> Iterator[str]:
    """The parts of the report behind its first table."""
    yield "## Static exits"
    yield table(
        [
            "exit",
            *(f"{kind.title}: {what}" for kind in kinds for what in ("operations", FP32, INT8, "INR")),
        ],
        [_static_row(kinds, layer) for layer in material.layers],
    )
    yield " ".join(about_noise(kinds))
    yield "## Saved at the accuracy of each static exit"
    yield (
        "INT8; per cent of the static exit's operations that are saved, under the smallest budget at which "
        "the set is as accurate on the calibration pictures. In brackets what that does to accuracy where it "
        "is measured, ± standard error."
    )
    yield table(
        ["static exit", "accuracy", "operations", *map(_set, SETS)],
        [_match_row(kind, layer) for kind in kinds for layer in material.layers if layer > SETS[0][0]],
    )
    yield "## Dynamic exits under every budget"
    yield (
        "Saved: against the cheapest static exit of the same kind that is at least as accurate in the same "
        "precision."
    )
    yield table(CURVE_HEADER, [row for kind in kinds for layers in SETS for row in _curve_rows(kind, layers)])
    yield "## What the gate is worth"
    yield (
        "INT8; the budget of each set lies a third of the way from the operations of its first exit to those "
        "of its last, so that it binds and all gates may spend the same. Chance has the same share of "
        "pictures leave at each exit, whoever they are, and its accuracy is what is expected of it; the "
        "oracle lets every picture leave where it is first right, whatever it costs. A rescue is rare, so "
        "gates that look for one have thresholds at quantiles of their scores: the fixed ones begin at 0.20."
    )
    yield table(GATE_HEADER, [row for kind in kinds for layers in SETS for row in _gate_rows(kind, layers)])
    yield " ".join(about_gates(kinds))
    yield "## Who leaves where"
    yield (
        "INT8, eq. 4, the budget of the first table, mean of all seeds. Rescued: right here and wrong in "
        "INT8 at full depth; lost: the reverse; both in per cent of all pictures."
    )
    yield table(EXIT_HEADER, [row for kind in kinds for layers in SETS for row in _exit_rows(kind, layers)])
    yield "## Rescues and losses against full depth"
    yield (
        "Full depth is the last block's static exit of the same kind and precision. Pictures, mean of all "
        "seeds; p of McNemar's exact test for each seed. Rescues less losses is the difference in accuracy, "
        "so static exits stand beside them."
    )
    yield table(QUADRANT_HEADER, list(_quadrant_rows(kinds, material)))
    yield "## Milliseconds"
    yield _about_latency(latencies)
    yield table(LATENCY_HEADER, _latency_rows(latencies, material))
    yield "## The file and its segments"
    yield about_equality(equalities, budget)


def _static_row(kinds: Sequence[Kind], layer: int) -> list[str]:
    cells = [str(layer)]
    for kind in kinds:
        cells.append(percent(kind.costs[layer - 1]))
        for precision in (FP32, INT8):
            cells.append(spread([float(right.mean()) for right in kind.right(layer, precision)]))
        cells.append(f"{_inr(kind)[layer - 1]:.0f}")
    return cells


def _inr(kind: Kind) -> NDArray[np.float64]:
    return kind.tower.inr


def about_noise(kinds: Sequence[Kind]) -> Iterator[str]:
    """Which exits eq. 6 would drop."""
    for kind in kinds:
        ratios = _inr(kind)
        dropped = {
            layers: [layers[i] for i in np.flatnonzero(drop_noisy(ratios[np.array(layers) - 1]))]
            for layers in (*SETS, kind.heads[0].material.layers)
        }
        said = [f"{joined(found)} of {_set(layers)}" for layers, found in dropped.items() if found]
        yield (
            f"INR (eq. 5) below {DROPPED_BELOW:g} of the mean, which eq. 6 drops, {kind.title}: "
            f"{'; '.join(said) or 'none of any set'}."
        )
        worst = max(
            kind.accuracy(layer, FP32) - kind.accuracy(layer) for layer in kind.heads[0].material.layers
        )
        yield f"INT8 costs a static exit at most {percent(worst)} points."


def _match_row(kind: Kind, layer: int) -> list[str]:
    found = [_at_accuracy_of(kind, layer, layers) for layers in SETS]
    return [
        f"{kind.title} {layer}",
        spread([float(right.mean()) for right in kind.right(layer)]),
        percent(kind.costs[layer - 1]),
        *(f"{percent(match.saving)} ({_gained(match.gain)})" if match else NONE for match in found),
    ]


CURVE_HEADER = (
    "exits",
    "budget",
    *(
        f"{precision}: {what}"
        for precision in (INT8, FP32)
        for what in ("operations", "accuracy", "static as accurate", "saved")
    ),
)


def _curve_rows(kind: Kind, layers: tuple[int, ...]) -> Iterator[list[str]]:
    cells: dict[float, list[str]] = {}
    for precision in (INT8, FP32):
        found = kind.curves[precision, layers].points
        for points_, (equal, saving) in zip(found, _savings(kind, layers, precision), strict=True):
            cells.setdefault(points_[0].budget, []).extend(
                [
                    percent(_operations(points_)),
                    spread([point.evaluation.accuracy for point in points_]),
                    f"exit {equal}" if equal else "none",
                    percent(saving) if saving is not None else NONE,
                ]
            )
    for budget, row in cells.items():
        yield [f"{kind.title} {_set(layers)}", f"{budget:g}", *row]


GATE_HEADER = (
    "exits",
    "gate",
    "accuracy",
    "minus chance (± standard error)",
    "operations",
    "shares of the exits",
)


def _by_chance(kind: Kind, layers: Sequence[int], outcomes: Sequence[Outcome]) -> list[NDArray[np.float64]]:
    """The chance of each picture to be right, if all exits were drawn with the same shares, of each seed."""
    places = np.array(layers) - 1
    return [
        outcome.shares @ run.evaluation.right[places]
        for outcome, run in zip(outcomes, kind.runs[INT8], strict=True)
    ]


def _gate_rows(kind: Kind, layers: tuple[int, ...]) -> Iterator[list[str]]:
    found = kind.gated[layers]
    title = f"{kind.title} {_set(layers)}"
    for name, outcomes in found.items():
        gain = difference([outcome.right for outcome in outcomes], _by_chance(kind, layers, outcomes))
        yield [title, name, *_outcome_cells(outcomes, _gained(gain))]
    chance, own = _by_chance(kind, layers, found[EQ_4]), _outcome_cells(found[EQ_4], NONE)
    yield [title, "chance, with the shares of eq. 4", spread([c.mean() for c in chance]), *own[1:]]
    yield [
        title,
        "oracle",
        *_outcome_cells([Decider(r, layers).first_right() for r in kind.runs[INT8]], NONE),
    ]


def _outcome_cells(outcomes: Sequence[Outcome], gain: str) -> list[str]:
    shares = np.mean([outcome.shares for outcome in outcomes], 0)
    return [
        spread([outcome.accuracy for outcome in outcomes]),
        gain,
        percent(np.mean([outcome.operations for outcome in outcomes])),
        ", ".join(percent(share) for share in shares),
    ]


def about_gates(kinds: Sequence[Kind]) -> Iterator[str]:
    """How the other gates compare with that of eq. 4, over all kinds and sets."""
    found = [(kind, layers, kind.gated[layers]) for kind in kinds for layers in SETS]
    for name in list(GATES)[1:]:
        gains = [
            difference([o.right for o in gates[name]], [o.right for o in gates[EQ_4]]) for *_, gates in found
        ]
        better = sum(gain > SURE * error for gain, error in gains)
        worse = sum(gain < -SURE * error for gain, error in gains)
        yield (
            f"{name[0].upper()}{name[1:]}: {points(min(gain for gain, _ in gains))} to "
            f"{points(max(gain for gain, _ in gains))} points against eq. 4, measurably better in {better} "
            f"and worse in {worse} of {len(gains)} sets."
        )
    over_chance = [
        difference([o.right for o in gates[EQ_4]], _by_chance(kind, layers, gates[EQ_4]))
        for kind, layers, gates in found
    ]
    yield (
        f"Eq. 4 against chance: {points(min(gain for gain, _ in over_chance))} to "
        f"{points(max(gain for gain, _ in over_chance))} points, measurably better in "
        f"{sum(gain > SURE * error for gain, error in over_chance)} of {len(over_chance)} sets."
    )


EXIT_HEADER = (
    "exits",
    "exit",
    "share",
    "accuracy of those",
    "full depth on those",
    "rescued",
    "lost",
    "accuracy on all pictures",
)


def _exit_rows(kind: Kind, layers: tuple[int, ...]) -> Iterator[list[str]]:
    last = kind.heads[0].material.layers[-1]
    full = kind.right(last)
    outcomes = [point.evaluation for point in kind.chosen(layers)]
    for number, layer in enumerate(layers):
        here = [outcome.taken == number for outcome in outcomes]
        cells = [
            percent(np.mean(here)),
            _mean_where(here, [outcome.right for outcome in outcomes]),
            _mean_where(here, full),
            percent(np.mean([h & o.right & ~f for h, o, f in zip(here, outcomes, full, strict=True)])),
            percent(np.mean([h & ~o.right & f for h, o, f in zip(here, outcomes, full, strict=True)])),
            percent(kind.accuracy(layer)),
        ]
        yield [f"{kind.title} {_set(layers)}", str(layer), *cells]


def _mean_where(members: Sequence[Bools], values: Sequence[Bools]) -> str:
    members, values = np.array(members), np.array(values)
    return percent(values[members].mean()) if members.any() else NONE


QUADRANT_HEADER = (
    "against full depth",
    "both right",
    "rescued",
    "lost",
    "both wrong",
    "points",
    "operations against full depth",
    "p",
)


def _quadrant_rows(kinds: Sequence[Kind], material: Material) -> Iterator[list[str]]:
    last = material.layers[-1]
    for precision in (INT8, FP32):
        for kind in kinds:
            full, title = kind.right(last, precision), f"{kind.title}, {precision}:"
            for layers in SETS:
                chosen = kind.chosen(layers, precision)
                right = [point.evaluation.right for point in chosen]
                cost = _operations(chosen) / kind.costs[-1]
                yield [
                    f"{title} {_set(layers)}, budget {chosen[0].budget:g}",
                    *_quadrant_cells(right, full, cost),
                ]
            for layer in STATIC_BESIDE:
                cost = kind.costs[layer - 1] / kind.costs[-1]
                yield [
                    f"{title} static, exit {layer}",
                    *_quadrant_cells(kind.right(layer, precision), full, cost),
                ]
    for kind in kinds:
        cells = _quadrant_cells(kind.right(last), kind.right(last, FP32), 1.0)
        yield [f"{kind.title}: INT8 at full depth against fp32", *cells]


def _quadrant_cells(right: Sequence[Bools], full: Sequence[Bools], cost: float) -> list[str]:
    found = [quadrants(one, other) for one, other in zip(right, full, strict=True)]
    counts = [np.mean([getattr(q, name) for q in found]) for name in ("both", "rescue", "loss", "neither")]
    return [
        *(f"{number:.0f}" for number in counts),
        points((counts[1] - counts[2]) / len(full[0])),
        points(cost - 1),
        ", ".join(f"{q.p:.2g}" for q in found),
    ]


# --- Files.


def check_files(tower: Tower, budget: float) -> list[Equality]:
    """Whether the dynamic file says what its segments say; and that it decides as was worked out here."""
    decision = decided(tower, SHIPPED, budget)
    point = Decider(run(tower, tower.heads, INT8), SHIPPED).point(budget)
    thresholds = [exit_.threshold for exit_ in decision.exits[:-1]]
    if thresholds != point.thresholds or not np.isclose(decision.operations, point.calibration.operations):
        raise ValueError(f"export would decide otherwise: {thresholds}, and here {point.thresholds}")
    model = gated(tower, decision)
    return [
        compare_with_segments(model, decision.exits, tower.heads.material.evaluation.pixels, batch)
        for batch in BATCHES
    ]


def about_equality(equalities: Sequence[Equality], budget: float) -> str:
    """What was compared, and what differs."""
    said = [
        f"in batches of {e.batch}, {e.exits} of {e.pictures} pictures leave at another exit, {e.labels} have "
        f"another label, and the largest difference of a rate is {e.rates:.1e}, of a probability "
        f"{e.probabilities:.1e}"
        for e in equalities
    ]
    return (
        f"T-GEM {_set(SHIPPED)}, seed 0, budget {budget:g}: the nested INT8 file beside the same INT8 "
        "segments as sessions of their own, with posterior, gate and threshold in numpy in float64, on every "
        f"evaluation picture. {'; '.join(said).capitalize()}. Probabilities come from numpy, and so differ "
        "by the rounding of float32."
    )


def measure_files(tower: Tower) -> dict[int, list[Latency]]:
    """Times of real files, on some of the evaluation pictures."""
    decisions = {budget: decided(tower, SHIPPED, budget) for budget in TIMED}
    pixels = tower.heads.material.evaluation.pixels
    some = np.random.default_rng(0).permutation(len(pixels))[:TIMED_PICTURES]
    return time_files(tower, SHIPPED, decisions, TIMED[len(TIMED) // 2], pixels[some])


LATENCY_HEADER = (
    "INT8, T-GEM, seed 0",
    "operations against full depth",
    "1 thread: mean ms",
    "against full depth (± standard error)",
    "2 threads: mean ms",
    "against full depth (± standard error)",
)


def _latency_rows(latencies: dict[int, list[Latency]], material: Material) -> list[list[str]]:
    full = static_name(material.layers[-1])
    rows = []
    for number, first in enumerate(latencies[1]):
        cells = []
        for found in latencies.values():
            reference = next(latency for latency in found if latency.name == full)
            own = found[number].seconds
            ratio = own.mean() / reference.seconds.mean()
            error = (own - ratio * reference.seconds).std() / np.sqrt(len(own)) / reference.seconds.mean()
            cells += [f"{1000 * own.mean():.2f}", f"{ratio:.3f} ± {error:.3f}"]
        operations = next(latency.operations for latency in latencies[1] if latency.name == full)
        rows.append([first.name, f"{first.operations / operations:.3f}", *cells])
    return rows


def _about_latency(latencies: dict[int, list[Latency]]) -> str:
    return (
        f"Files of T-GEM {_set(SHIPPED)} and static ones, in turn on {len(latencies[1][0].seconds)} "
        "evaluation pictures, one at a time, in another order for each; full depth is the static INT8 file "
        "of the last block in the same run."
    )


# --- The picture.


def draw(figure: Figure, kinds: Sequence[Kind], material: Material) -> None:
    """Accuracy over operations in INT8, one panel for each kind of head."""
    row = figure.subplots(1, len(kinds), sharex=True, sharey=True)
    for axes, kind in zip(row, kinds, strict=True):
        _draw_static(axes, kind, material)
        for layers, colour in zip(SETS, COLOURS, strict=True):
            found = kind.curves[INT8, layers].points
            x = [100 * _operations(points_) for points_ in found]
            y = [100 * _accuracy(points_) for points_ in found]
            axes.plot(x, y, "o-", color=colour, markersize=3, label=f"dynamic {_set(layers)}")
        axes.axhline(
            100 * material.zero_shot,
            color=FULL_COLOUR,
            linestyle="--",
            linewidth=1.2,
            label="full CLIP, zero-shot",
        )
        axes.set(title=f"{kind.title} heads, INT8", xlabel="operations of the full image tower, %")
    row[0].set_ylabel("top-1, %")
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)


def _draw_static(axes: Axes, kind: Kind, material: Material) -> None:
    x = [100 * cost for cost in kind.costs]
    y = [100 * kind.accuracy(layer) for layer in material.layers]
    error = [100 * np.std([right.mean() for right in kind.right(i)], ddof=1) for i in material.layers]
    axes.errorbar(
        x,
        y,
        error,
        fmt="s",
        color=STATIC_COLOUR,
        markersize=4,
        linewidth=1,
        label="static exits, ± spread of seeds",
    )
    for layer, across, up in zip(material.layers, x, y, strict=True):
        axes.annotate(
            str(layer), (across, up), (4, -11), textcoords="offset points", fontsize=8, color=STATIC_COLOUR
        )


if __name__ == "__main__":
    typer.run(main)
