"""Joint decisions of several exits, fitted on the graph's own answers to labelled pictures.

Each exit has its own temperature; its gate sees the calibrated posterior. So a gate that was fitted on the
graph in INT8 knows what INT8 does to it. n pictures, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray

from tgems_edge.maths.rates import posterior
from tgems_edge.model_file.card import Exit, ExitCalibration, ExitGate
from tgems_edge.model_file.gate import INPUT
from tgems_export.calibration import fit_temperature
from tgems_export.exporting.dynamic.gates import (
    GateFit,
    choose_thresholds,
    exits_taken,
    features,
    fit_gate,
    fold_threshold,
)
from tgems_export.exporting.graph.assembly import set_gate
from tgems_export.exporting.graph.onnx_graph import set_temperature
from tgems_export.threads import in_order, open_on_one_thread

__all__ = ["Decision", "ExitAnswers", "answer_all", "decide", "fit_right", "write"]


@dataclass(frozen=True)
class ExitAnswers:
    """Answers of one exit to all n pictures, whether they reach it or not."""

    rates: NDArray[np.float32]  # (n, C)
    spread: NDArray[np.float32] | None  # (n,); None at the last exit

    def right(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The labels, (n,)."""
        return self.rates.argmin(1) == labels


@dataclass(frozen=True)
class Decision:
    """Temperatures, gates and thresholds of several exits, and what became of the pictures they come from."""

    exits: tuple[Exit, ...]
    accuracy: float
    operations: float  # of a mean picture, as a share of the full tower's


Fit = Callable[[NDArray[np.float64], Sequence[NDArray[np.bool_]], int], GateFit]


def fit_right(seen: NDArray[np.float64], right: Sequence[NDArray[np.bool_]], number: int) -> GateFit:
    """The gate of LRA-EE: a picture should leave where it is right.

    Args:
        seen: (n, 3) features at the exit.
        right: (n,) for each exit, whose label it has.
        number: of the exit, from 0.
    """
    return fit_gate(seen, right[number])


def answer_all(
    model: onnx.ModelProto, layers: Sequence[int], batches: Iterable[NDArray[np.uint8]]
) -> list[ExitAnswers]:
    """Return the answers of every exit to every picture.

    Args:
        model: what `to_onnx` made, quantised or not.
        layers: of its exits.
        batches: uint8 (B, H, W, 3) each.
    """
    names = [f"rates_{layer}" for layer in layers] + [f"spread_{layer}" for layer in layers[:-1]]
    session = open_on_one_thread(model.SerializeToString())
    runs = in_order(partial(session.run, names), ({INPUT: pixels} for pixels in batches))
    columns = zip(*runs, strict=True)
    rates_and_spreads = [np.concatenate(column) for column in columns]
    rates, spreads = rates_and_spreads[: len(layers)], rates_and_spreads[len(layers) :]
    return [ExitAnswers(*pair) for pair in zip(rates, [*spreads, None], strict=True)]


def decide(
    answers: Sequence[ExitAnswers],
    labels: NDArray[np.int64],
    exits: Sequence[Exit],
    full: int,
    budget: float,
    fit: Fit = fit_right,
) -> Decision:
    """Fits temperatures and gates, and chooses thresholds.

    Args:
        answers: of each exit, on pictures that calibrate.
        labels: (n,) true classes.
        exits: as they are before anything is fitted; operations are known.
        full: operations of the full tower.
        budget: most operations of a mean picture, as a share of the full tower's.
        fit: how a gate is fitted.

    Raises:
        InputError: a budget that no exit can meet.
    """
    right = [answer.right(labels) for answer in answers]
    temperatures = [
        fit_temperature(answer.rates, labels, exit_.k) for answer, exit_ in zip(answers, exits, strict=True)
    ]
    gates, scores = [], []
    for number, answer in enumerate(answers[:-1]):
        seen = _features(answer, exits[number].k, temperatures[number])
        gates.append(fit(seen, right, number))
        scores.append(gates[-1].scores(seen))
    costs = [(exit_.operations or 0) / full for exit_ in exits]
    thresholds = choose_thresholds(scores, right, costs, budget)
    go_on = [score < threshold for score, threshold in zip(scores, thresholds, strict=True)]
    taken = exits_taken(go_on)
    shares = np.bincount(taken, minlength=len(exits)) / len(labels)
    decided = []
    for number, (answer, exit_) in enumerate(zip(answers, exits, strict=True)):
        gate = None
        if number < len(gates):
            weights, bias = gates[number].raw()
            gate = ExitGate(tuple(weights.tolist()), bias, thresholds[number])
        surprise = float(np.median(answer.rates.min(1)))
        fitted = ExitCalibration(temperatures[number], surprise, float(shares[number]))
        decided.append(replace(exit_, gate=gate, calibration=fitted))
    return Decision(
        exits=tuple(decided),
        accuracy=float(np.stack(right)[taken, np.arange(len(labels))].mean()),
        operations=float(shares @ costs),
    )


def _features(answer: ExitAnswers, k: int, temperature: float) -> NDArray[np.float64]:
    assert answer.spread is not None
    return features(posterior(answer.rates.astype(np.float64), k, temperature), answer.spread)


def write(model: onnx.ModelProto, exits: Sequence[Exit]) -> None:
    """Sets temperatures and gates in the graph that `to_onnx` made, quantised or not."""
    for exit_ in exits:
        set_temperature(model, exit_.layer, exit_.k, exit_.temperature)
        if gate := exit_.gate:
            set_gate(model, exit_.layer, *fold_threshold(gate.weights, gate.bias, gate.threshold))
