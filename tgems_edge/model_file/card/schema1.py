"""Cards of schema 1, as all files before schema 2 have them: read for good, never written.

One exit was described by fields of the card itself and several by `dynamic.exits`, which repeated the last
of them; the calibration was spread over five fields. `read` gives the same in the fields of schema 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tgems_edge.model_file import records
from tgems_edge.model_file.card.calibration import Calibration
from tgems_edge.model_file.card.exits import Dynamic, Exit, ExitCalibration, ExitGate, HeadKind
from tgems_edge.model_file.card.measurements import Accuracy, Parity, Quantisation, Resizing
from tgems_edge.model_file.card.origin import EncoderId
from tgems_edge.model_file.card.preprocessing import Preprocessing
from tgems_edge.model_file.card.require import require
from tgems_edge.model_file.card.samples import Sample

__all__ = ["SCHEMA", "read"]

SCHEMA = 1


@dataclass(frozen=True)
class _CalibrationData:
    images: int
    sha256: str
    digests: str


@dataclass(frozen=True)
class _DynamicExit:
    layer: int
    k: int
    pool: Literal["cls", "mean"]
    temperature: float
    surprise: float
    weights: tuple[float, float, float] | None  # this and the next two: None for the last exit
    bias: float | None
    threshold: float | None
    operations: int
    share: float


@dataclass(frozen=True)
class _Dynamic:
    budget: float
    operations: float  # of a mean picture, as a share of the full tower's
    exits: tuple[_DynamicExit, ...]
    dropped: dict[str, str]


@dataclass(frozen=True)
class _Card:
    classes: tuple[str, ...]
    classes_not_trained: tuple[str, ...]
    templates: tuple[str, ...]
    layer: int
    k: int
    pool: Literal["cls", "mean"]
    encoder: EncoderId
    input: Literal["pixels", "image"] = field(metadata=records.meant_by_missing("pixels"))
    preprocessing: Preprocessing
    temperature: float | None
    conformal: dict[str, float] | None
    conformal_adaptive: dict[str, float] | None
    rejection: dict[str, float] | None
    calibration: _CalibrationData | None
    precision: Literal["fp32", "fp16", "int8"]
    quantisation: Quantisation | None
    dynamic: _Dynamic | None
    head_kind: HeadKind | None  # files that do not say have T-GEMs
    opset: int
    parity: Parity
    resizing: Resizing | None
    accuracy: Accuracy | None
    samples: tuple[Sample, ...]
    versions: dict[str, str]
    licence: dict[str, str]
    file_sha256: str
    schema: int


SAME = (  # fields that schema 2 has as they are
    *("classes", "classes_not_trained", "templates", "encoder", "input", "preprocessing", "precision"),
    *("quantisation", "opset", "parity", "resizing", "accuracy", "samples", "versions", "licence"),
    *("file_sha256", "schema"),
)


def read(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a card of schema 2, from the JSON of one of schema 1.

    Raises:
        ValueError: a field is missing, or of a wrong type.
        ModelFileError: what is stated twice differs, or half of what belongs together is missing.
    """
    card = records.from_object(_Card, data)
    head_kind = card.head_kind or "tgem"
    calibration = _calibration(card)
    if card.dynamic is None:
        fitted = None if card.temperature is None else ExitCalibration(card.temperature, 0.0, 1.0)
        exits: tuple[Exit, ...] = (Exit(card.layer, card.k, card.pool, head_kind, None, None, fitted),)
    else:
        _check_dynamic(card, card.dynamic)
        exits = tuple(_exit(exit, head_kind) for exit in card.dynamic.exits)
    same = {name: getattr(card, name) for name in SAME}
    return {**same, "exits": exits, "calibration": calibration, "dynamic": _dynamic(card.dynamic)}


def _calibration(card: _Card) -> Calibration | None:
    parts = (card.conformal, card.conformal_adaptive, card.rejection, card.calibration)
    require(len({part is None for part in (card.temperature, *parts)}) == 1, "half a calibration")
    conformal, adaptive, rejection, data = parts
    if conformal is None or adaptive is None or rejection is None or data is None:
        return None
    return Calibration(data.images, data.sha256, data.digests, conformal, adaptive, rejection)


def _check_dynamic(card: _Card, dynamic: _Dynamic) -> None:
    require(len(dynamic.exits) >= 2, "fewer than two exits to choose from")
    *gated, last = dynamic.exits
    require(all(None not in _gate(exit) for exit in gated), "an exit before the last without a whole gate")
    require(set(_gate(last)) == {None}, "a gate at its last exit, which takes what is left")
    its_own = last.layer, last.k, last.pool, last.temperature
    stated = card.layer, card.k, card.pool, card.temperature
    require(card.temperature is not None, "several exits, but no calibration")
    require(its_own == stated, "a layer, K, pool or temperature that is not its last exit's")
    require(dynamic.operations > 0, "operations that are not positive")


def _gate(exit: _DynamicExit) -> tuple[object, ...]:
    return exit.weights, exit.bias, exit.threshold


def _exit(exit: _DynamicExit, head_kind: HeadKind) -> Exit:
    gate = None
    if exit.weights is not None and exit.bias is not None and exit.threshold is not None:
        gate = ExitGate(exit.weights, exit.bias, exit.threshold)
    fitted = ExitCalibration(exit.temperature, exit.surprise, exit.share)
    return Exit(exit.layer, exit.k, exit.pool, head_kind, exit.operations, gate, fitted)


def _dynamic(dynamic: _Dynamic | None) -> Dynamic | None:
    """The full tower's operations are those whose share the mean picture took."""
    if dynamic is None:
        return None
    mean = sum(exit.share * exit.operations for exit in dynamic.exits)
    full = mean / dynamic.operations
    require(0 < full < records.LARGEST_INTEGER, "operations that are not possible")
    return Dynamic(dynamic.budget, round(full), dynamic.dropped)
