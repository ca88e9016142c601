"""Rows of dynamic_exits.json, one function a table. Accuracies, operations and gains are shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from dynamic.answers import FP32, INT8
from dynamic.choices import GATES, Decider, Outcome, difference, quadrants
from dynamic.files import Latency, static_name
from dynamic.kinds import SETS, SURE, Choice, Kind, mean_accuracy, mean_operations
from tgems_export.exporting.dynamic.gates import drop_noisy

__all__ = [
    "choice_rows",
    "curve_rows",
    "dropped_rows",
    "gate_difference_rows",
    "gate_rows",
    "kind_rows",
    "latency_rows",
    "leaving_rows",
    "match_rows",
    "rescue_rows",
    "static_rows",
]

STATIC_BESIDE = (8, 9, 10, 11)  # exits in the table of rescues and losses
EQ_4 = next(iter(GATES))

Row = dict[str, object]
Bools = NDArray[np.bool_]


def _spread(shares: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    return {"mean": float(np.mean(shares)), "spread": float(np.std(shares, ddof=1))}


def _gain(found: tuple[float, float]) -> dict[str, float]:
    """A difference of accuracies and its standard error."""
    return dict(zip(("gain", "error"), found, strict=True))


def _saved(kind: Kind, operations: float, layer: int | None) -> float | None:
    """Share of a static exit's operations that is saved, if there is such an exit."""
    return 1 - operations / kind.costs[layer - 1] if layer else None


def kind_rows(kinds: Sequence[Kind]) -> Iterator[Row]:
    """INT8 recipe, best static exit, and the cheapest that calibration cannot tell from it."""
    for kind in kinds:
        best, equal = kind.best(), kind.cheapest_equal()
        recipe = kind.tower.recipe
        yield {
            "kind": kind.title,
            "recipe": f"{recipe.ranges}{', equalised' * recipe.equalised}",
            "best": best,
            "best_accuracy": kind.accuracy(best),
            "best_operations": kind.costs[best - 1],
            "equal": equal,
            "equal_accuracy": kind.accuracy(equal),
            "equal_operations": kind.costs[equal - 1],
        }


def choice_rows(kinds: Sequence[Kind]) -> Iterator[Row]:
    """One row for each kind and set under the budget that calibration chooses, INT8 first."""
    for precision, kind, layers in product((INT8, FP32), kinds, SETS):
        choice = Choice(kind, layers, precision)
        chosen, hindsight = choice.chosen, choice.hindsight
        equal = kind.as_accurate(mean_accuracy(chosen), precision)
        yield {
            "kind": kind.title,
            "exits": layers,
            "precision": precision,
            "budget": chosen[0].budget,
            "calibration_accuracy": float(np.mean([point.calibration.accuracy for point in chosen])),
            "accuracy": _spread([point.evaluation.accuracy for point in chosen]),
            "operations": mean_operations(chosen),
            "best": choice.best,
            "against_best": _gain(choice.gain),
            "saved": choice.saving,
            "equal": equal,
            "equal_saved": _saved(kind, mean_operations(chosen), equal),
            "hindsight_operations": hindsight,
            "hindsight_saved": _saved(kind, hindsight, choice.best) if hindsight else None,
        }


def static_rows(kinds: Sequence[Kind]) -> Iterator[Row]:
    """One row for each exit alone."""
    for layer in kinds[0].heads[0].material.layers:
        yield {
            "exit": layer,
            "kinds": [
                {
                    "operations": kind.costs[layer - 1],
                    **{p.lower(): _spread([r.mean() for r in kind.right(layer, p)]) for p in (FP32, INT8)},
                    "inr": float(kind.tower.inr[layer - 1]),
                }
                for kind in kinds
            ],
        }


def dropped_rows(kinds: Sequence[Kind]) -> Iterator[Row]:
    """Exits that eq. 6 would drop, of each set and of all."""
    for kind in kinds:
        for layers in (*SETS, kind.heads[0].material.layers):
            noisy = np.flatnonzero(drop_noisy(kind.tower.inr[np.array(layers) - 1]))
            yield {"kind": kind.title, "exits": layers, "dropped": [layers[i] for i in noisy] or None}


def match_rows(kinds: Sequence[Kind]) -> Iterator[Row]:
    """Return what the sets save that are as accurate as each static exit, by calibration."""
    for kind in kinds:
        for layer in kind.heads[0].material.layers:
            if layer <= SETS[0][0]:
                continue
            yield {
                "kind": kind.title,
                "exit": layer,
                "accuracy": _spread([float(right.mean()) for right in kind.right(layer)]),
                "operations": kind.costs[layer - 1],
                "sets": [_match(kind, layer, layers) for layers in SETS],
            }


def _match(kind: Kind, layer: int, layers: tuple[int, ...]) -> Row | None:
    found = kind.curves[INT8, layers].reaching(kind.calibrated_accuracy(layer))
    if found is None:
        return None
    gain = difference([point.evaluation.right for point in found], kind.right(layer))
    return {"saved": _saved(kind, mean_operations(found), layer), **_gain(gain)}


def curve_rows(kinds: Sequence[Kind]) -> Iterator[Row]:
    """Every set under every budget, in both precisions."""
    for kind, layers in product(kinds, SETS):
        points: dict[float, Row] = {}
        for precision in (INT8, FP32):
            for found in kind.curves[precision, layers].points:
                equal = kind.as_accurate(mean_accuracy(found), precision)
                row = points.setdefault(found[0].budget, {"int8": None, "fp32": None})
                row[precision.lower()] = {
                    "operations": mean_operations(found),
                    "accuracy": _spread([point.evaluation.accuracy for point in found]),
                    "equal": equal,
                    "saved": _saved(kind, mean_operations(found), equal),
                }
        for budget, row in points.items():
            yield {"kind": kind.title, "exits": layers, "budget": budget, **row}


def _by_chance(kind: Kind, layers: Sequence[int], outcomes: Sequence[Outcome]) -> list[NDArray[np.float64]]:
    """The chance of each picture to be right, if all exits were drawn with the same shares, of each seed."""
    places = np.array(layers) - 1
    return [
        outcome.shares @ run.evaluation.right[places]
        for outcome, run in zip(outcomes, kind.runs[INT8], strict=True)
    ]


def _outcome(outcomes: Sequence[Outcome]) -> Row:
    return {
        "accuracy": _spread([outcome.accuracy for outcome in outcomes]),
        "operations": float(np.mean([outcome.operations for outcome in outcomes])),
        "shares": np.mean([outcome.shares for outcome in outcomes], 0).tolist(),
    }


def gate_rows(kinds: Sequence[Kind]) -> Iterator[Row]:
    """Every gate, chance and the oracle."""
    for kind, layers in product(kinds, SETS):
        found, same = kind.gated[layers], {"kind": kind.title, "exits": layers}
        for name, outcomes in found.items():
            gain = difference([o.right for o in outcomes], _by_chance(kind, layers, outcomes))
            yield {**same, "gate": name, **_outcome(outcomes), "over_chance": _gain(gain)}
        chance = _by_chance(kind, layers, found[EQ_4])
        accuracy = {"accuracy": _spread([float(c.mean()) for c in chance]), "over_chance": None}
        yield {**same, "gate": "chance, with the shares of eq. 4", **_outcome(found[EQ_4]), **accuracy}
        oracle = _outcome([Decider(run, layers).first_right() for run in kind.runs[INT8]])
        yield {**same, "gate": "oracle", **oracle, "over_chance": None}


def gate_difference_rows(kinds: Sequence[Kind]) -> Iterator[Row]:
    """Compare the other gates with that of eq. 4, and that with chance, over all kinds and sets."""
    found = [(kind, layers, kind.gated[layers]) for kind, layers in product(kinds, SETS)]
    pairs = {
        (name, EQ_4): [([o.right for o in g[name]], [o.right for o in g[EQ_4]]) for *_, g in found]
        for name in list(GATES)[1:]
    }
    pairs[EQ_4, "chance"] = [
        ([o.right for o in g[EQ_4]], _by_chance(kind, layers, g[EQ_4])) for kind, layers, g in found
    ]
    for (name, against), both in pairs.items():
        gains = [difference(*pair) for pair in both]
        yield {
            "gate": name,
            "against": against,
            "least": min(gain for gain, _ in gains),
            "most": max(gain for gain, _ in gains),
            "better": sum(gain > SURE * error for gain, error in gains),
            "worse": sum(gain < -SURE * error for gain, error in gains),
            "sets": len(gains),
        }


def leaving_rows(kinds: Sequence[Kind]) -> Iterator[Row]:
    """The pictures that leave at each exit, and the answers of full depth to them."""
    for kind, layers in product(kinds, SETS):
        full = kind.right(kind.heads[0].material.layers[-1])
        outcomes = [point.evaluation for point in kind.chosen(layers)]
        right = [outcome.right for outcome in outcomes]
        for number, layer in enumerate(layers):
            here = [outcome.taken == number for outcome in outcomes]
            yield {
                "kind": kind.title,
                "exits": layers,
                "exit": layer,
                "share": float(np.mean(here)),
                "accuracy": _mean_where(here, right),
                "full_accuracy": _mean_where(here, full),
                "rescued": float(np.mean([h & o & ~f for h, o, f in zip(here, right, full, strict=True)])),
                "lost": float(np.mean([h & ~o & f for h, o, f in zip(here, right, full, strict=True)])),
                "accuracy_of_all": kind.accuracy(layer),
            }


def _mean_where(members: Sequence[Bools], values: Sequence[Bools]) -> float | None:
    members, values = np.array(members), np.array(values)
    return float(values[members].mean()) if members.any() else None


def rescue_rows(kinds: Sequence[Kind]) -> Iterator[Row]:
    """Pictures that a choice has right and full depth wrong, and the reverse."""
    last = kinds[0].heads[0].material.layers[-1]
    for precision, kind in product((INT8, FP32), kinds):
        full, title = kind.right(last, precision), f"{kind.title}, {precision}:"
        for layers in SETS:
            chosen = kind.chosen(layers, precision)
            what = f"{title} {{{', '.join(map(str, layers))}}}, budget {chosen[0].budget:g}"
            right = [point.evaluation.right for point in chosen]
            yield _quadrants(what, right, full, mean_operations(chosen) / kind.costs[-1])
        for layer in STATIC_BESIDE:
            right, cost = kind.right(layer, precision), kind.costs[layer - 1] / kind.costs[-1]
            yield _quadrants(f"{title} static, exit {layer}", right, full, cost)
    for kind in kinds:
        what = f"{kind.title}: INT8 at full depth against fp32"
        yield _quadrants(what, kind.right(last), kind.right(last, FP32), 1.0)


def _quadrants(what: str, right: Sequence[Bools], full: Sequence[Bools], cost: float) -> Row:
    found = [quadrants(one, other) for one, other in zip(right, full, strict=True)]
    counts = {
        name: float(np.mean([getattr(q, name) for q in found]))
        for name in ("both", "rescue", "loss", "neither")
    }
    return {
        "what": what,
        **counts,
        "gain": (counts["rescue"] - counts["loss"]) / len(full[0]),
        "operations": cost - 1,
        "p": [q.p for q in found],
    }


def latency_rows(latencies: dict[int, list[Latency]], last: int) -> Iterator[Row]:
    """Mean times of each file, as ratios to the static file of the last block."""
    full = static_name(last)
    operations = next(latency.operations for latency in latencies[1] if latency.name == full)
    for number, first in enumerate(latencies[1]):
        cells = []
        for found in latencies.values():
            reference = next(latency for latency in found if latency.name == full).seconds
            own = found[number].seconds
            ratio = own.mean() / reference.mean()
            error = (own - ratio * reference).std() / np.sqrt(len(own)) / reference.mean()
            cells.append({"ms": float(1000 * own.mean()), "ratio": float(ratio), "error": float(error)})
        yield {"file": first.name, "operations": first.operations / operations, "threads": cells}
