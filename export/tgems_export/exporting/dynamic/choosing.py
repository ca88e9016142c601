"""The step of an export that chooses which exits stay, and who leaves where."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray

from tgems_edge.errors import InputError
from tgems_edge.model_file.card import Dynamic
from tgems_edge.model_file.card import Exit as CardExit
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_export.exporting.dynamic.decisions import (
    Decision,
    ExitAnswers,
    answer_all,
    decide,
    write,
)
from tgems_export.exporting.dynamic.gates import drop_noisy, inr
from tgems_export.exporting.exits import Exit
from tgems_export.exporting.graph.exit_graph import ExitGraph
from tgems_export.exporting.pixels import ReadSet
from tgems_export.exporting.quantization.products import find_readouts
from tgems_export.exporting.quantization.ranges import with_outputs
from tgems_export.exporting.quantization.search import batches
from tgems_export.threads import in_order, open_on_one_thread

__all__ = ["choose_exits"]

NOISY = "INT8 adds too much noise to it (LRA-EE, eq. 6), and accuracy is no lower without it"


def choose_exits(
    exits: Sequence[Exit],
    operations: Sequence[int],
    exact: onnx.ModelProto,
    int8: onnx.ModelProto | None,
    calibration: ReadSet | None,
    budget: float,
    reporter: Reporter,
) -> tuple[tuple[CardExit, ...], Dynamic | None]:
    """The exits that stay, as the card has them; of several, gates are fitted and written into the graphs.

    Args:
        exits: candidates, in the order of the tower.
        operations: of a picture that leaves there, for each.
        exact: their graph in floating point.
        int8: the same in INT8, if the file is to be.
        calibration: pictures to fit on; a single exit has nothing to fit here and needs none.
        budget: operations of a mean picture, as a share of the full tower's.
        reporter: where it is said which exits are dropped.

    Raises:
        InputError: a budget that no exit can meet.
    """
    if len(exits) == 1:
        return (exits[0].describe(operations[0]),), None
    assert calibration is not None
    layers = [exit_.card.layer for exit_ in exits]
    answers = dict(zip(layers, answer_all(int8 or exact, layers, batches(calibration.pixels)), strict=True))
    candidates = _Candidates(exits, answers, calibration.pictures.labels, budget)
    noisy = _noisy(exact, int8, layers, calibration.pixels) if int8 else []
    kept, decision = _without_noisy(candidates, layers, noisy)
    dropped = [layer for layer in layers if layer not in kept]
    for layer in dropped:
        reporter.say(f"exit {layer} dropped: {NOISY}")
    for decides in (exact, int8) if int8 else (exact,):
        write(decides, decision.exits)
    full = exits[0].encoder.tower.operations
    return decision.exits, Dynamic(budget, full, dict.fromkeys(map(str, dropped), NOISY))


@dataclass(frozen=True)
class _Candidates:
    """Exits to choose from, and what each of them says of the pictures that calibrate."""

    exits: Sequence[Exit]
    answers: dict[int, ExitAnswers]  # by layer
    labels: NDArray[np.int64]  # (n,)
    budget: float

    def decide(self, layers: Sequence[int]) -> Decision:
        """Return the decision of some of them together."""
        encoder, text = self.exits[0].encoder, self.exits[0].text
        chosen = [exit_ for exit_ in self.exits if exit_.card.layer in layers]
        counts = ExitGraph(encoder, [exit_.cut for exit_ in chosen], text).operations
        described = [exit_.describe(count) for exit_, count in zip(chosen, counts, strict=True)]
        answers = [self.answers[layer] for layer in layers]
        return decide(answers, self.labels, described, encoder.tower.operations, self.budget)


def _without_noisy(
    candidates: _Candidates, layers: Sequence[int], noisy: Sequence[int]
) -> tuple[Sequence[int], Decision]:
    """The exits to keep, and what they decide.

    Eq. 6 compares exits of one depth; earlier ones are always less noisy, so it must not cost accuracy.
    """
    decision = candidates.decide(layers)
    without = [layer for layer in layers if layer not in noisy]
    if 1 < len(without) < len(layers):
        with suppress(InputError):  # a budget that only a dropped exit can meet
            if (alternative := candidates.decide(without)).accuracy >= decision.accuracy:
                return without, alternative
    return layers, decision


def _noisy(
    exact: onnx.ModelProto, int8: onnx.ModelProto, layers: Sequence[int], pixels: NDArray[np.uint8]
) -> list[int]:
    """The exits to which INT8 adds too much noise (LRA-EE, eq. 6)."""
    clean, noisy = (_activations(model, pixels) for model in (exact, int8))
    return [layer for layer, drop in zip(layers, drop_noisy(inr(clean, noisy)), strict=True) if drop]


def _activations(model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """The activation that the head of every exit reads, (n, D) each."""
    read = find_readouts(model)
    session = open_on_one_thread(with_outputs(model, read))
    runs = in_order(partial(session.run, read), ({INPUT: batch} for batch in batches(pixels)))
    return [np.concatenate(column) for column in zip(*runs, strict=True)]
