"""Checks what a graph answers: a file can state anything of itself and still compute something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgems_edge.errors import ModelFileError
from tgems_edge.model_file.card import Card

__all__ = ["check_answers"]

ROUNDING = 1e-3  # by which a probability may exceed 1


def check_answers(outputs: Sequence[NDArray[Any]], card: Card, pictures: int, name: str) -> None:
    """Holds the outputs of one run against the contract of model files.

    Args:
        outputs: rates and probabilities, float32 (B, C); labels and exit layers, int64 (B,).
        card: of the file.
        pictures: B.
        name: of the file, for messages.

    Raises:
        ModelFileError: outputs of other types or shapes, rates or probabilities that are no numbers, a label
            that has not the smallest rate, or an exit layer that is none of the card's.
    """
    rates, probabilities, labels, exit_layers = outputs
    matrix, column = ("float32", (pictures, len(card.classes))), ("int64", (pictures,))
    found = [(str(output.dtype), output.shape) for output in outputs]
    if found != [matrix, matrix, column, column]:
        raise _wrong(name, "outputs of other types or shapes than its card implies")
    if not np.isfinite(rates).all():
        raise _wrong(name, "rates that are no numbers")
    if not ((probabilities >= 0) & (probabilities <= 1 + ROUNDING)).all():  # nan is neither
        raise _wrong(name, "probabilities that are not from 0 to 1")
    if labels.min() < 0 or labels.max() >= len(card.classes):
        raise _wrong(name, "a label that is no class of its card")
    if (rates[np.arange(pictures), labels] != rates.min(1)).any():
        raise _wrong(name, "a label whose rate is not the smallest")
    # What rates of another exit mean, and when they are surprising, nobody could say.
    if strange := set(exit_layers.tolist()).difference(card.exit_layers):
        raise _wrong(name, f"an answer from block {min(strange)}, which is no exit of its card")


def _wrong(name: str, what: str) -> ModelFileError:
    return ModelFileError(f"{name}: the graph gave {what}; export it again, or try another provider")
