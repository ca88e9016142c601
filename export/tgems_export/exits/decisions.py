"""What several exits decide together, fitted on what the graph itself says of labelled pictures.

Each exit has its own temperature; its gate sees the calibrated posterior. So a gate that was fitted on the
graph in INT8 knows what INT8 does to it. n pictures, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray

from tgems_edge.maths.rates import posterior
from tgems_edge.model_file.card import DynamicExit
from tgems_edge.model_file.gate import INPUT
from tgems_export.calibration import fit_temperature
from tgems_export.exits.gates import (
    GateFit,
    choose_thresholds,
    exits_taken,
    features,
    fit_gate,
    fold_threshold,
)
from tgems_export.exits.nesting import set_gate
from tgems_export.graph import set_temperature
from tgems_export.threads import in_order, open_on_one_thread
from tgems_export.towers import Pool

__all__ = ["Decision", "ExitAnswers", "ExitOutline", "answer_all", "decide", "fit_right", "write"]


@dataclass(frozen=True)
class ExitAnswers:
    """What one exit says of all n pictures, whether they come to it or not."""

    rates: NDArray[np.float32]  # (n, C)
    spread: NDArray[np.float32] | None  # (n,); None at the last exit

    def right(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whose label it has, (n,)."""
        return self.rates.argmin(1) == labels


@dataclass(frozen=True)
class Decision:
    """Temperatures, gates and thresholds of several exits, and what became of the pictures they come from."""

    exits: tuple[DynamicExit, ...]
    accuracy: float
    operations: float  # of a mean picture, as a share of the full tower's


@dataclass(frozen=True)
class ExitOutline:
    """What is known of an exit before anything is fitted."""

    layer: int
    k: int
    pool: Pool
    operations: int  # of a picture that leaves here


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
    """What every exit says of every picture.

    Args:
        model: what `exits_to_onnx` made, quantised or not.
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
    outlines: Sequence[ExitOutline],
    full: int,
    budget: float,
    fit: Fit = fit_right,
) -> Decision:
    """Fits temperatures and gates, and chooses thresholds.

    Args:
        answers: of each exit, on pictures that calibrate.
        labels: (n,) true classes.
        outlines: of each exit.
        full: operations of the full tower.
        budget: most operations of a mean picture, as a share of the full tower's.
        fit: how a gate is fitted.

    Raises:
        InputError: a budget that no exit can meet.
    """
    right = [answer.right(labels) for answer in answers]
    temperatures = [
        fit_temperature(answer.rates, labels, outline.k)
        for answer, outline in zip(answers, outlines, strict=True)
    ]
    gates, scores = [], []
    for number, answer in enumerate(answers[:-1]):
        seen = _features(answer, outlines[number].k, temperatures[number])
        gates.append(fit(seen, right, number))
        scores.append(gates[-1].scores(seen))
    costs = [outline.operations / full for outline in outlines]
    thresholds = choose_thresholds(scores, right, costs, budget)
    go_on = [score < threshold for score, threshold in zip(scores, thresholds, strict=True)]
    taken = exits_taken(go_on)
    shares = np.bincount(taken, minlength=len(outlines)) / len(labels)
    decided = []
    for number, (answer, outline) in enumerate(zip(answers, outlines, strict=True)):
        gate = gates[number].raw() if number < len(gates) else None
        decided.append(
            DynamicExit(
                layer=outline.layer,
                k=outline.k,
                pool=outline.pool,
                temperature=temperatures[number],
                surprise=float(np.median(answer.rates.min(1))),
                weights=tuple(gate[0].tolist()) if gate else None,
                bias=gate[1] if gate else None,
                threshold=thresholds[number] if gate else None,
                operations=outline.operations,
                share=float(shares[number]),
            )
        )
    return Decision(
        exits=tuple(decided),
        accuracy=float(np.stack(right)[taken, np.arange(len(labels))].mean()),
        operations=float(shares @ costs),
    )


def _features(answer: ExitAnswers, k: int, temperature: float) -> NDArray[np.float64]:
    assert answer.spread is not None
    return features(posterior(answer.rates.astype(np.float64), k, temperature), answer.spread)


def write(model: onnx.ModelProto, exits: Sequence[DynamicExit]) -> None:
    """Sets temperatures and gates in the graph that `exits_to_onnx` made, quantised or not."""
    for exit_ in exits:
        set_temperature(model, exit_.k, exit_.temperature, exit_.layer)
        if exit_.weights is not None and exit_.bias is not None and exit_.threshold is not None:
            set_gate(model, exit_.layer, *fold_threshold(exit_.weights, exit_.bias, exit_.threshold))
