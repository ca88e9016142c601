"""The card: everything a model file says about itself, as JSON under one metadata key.

This module alone knows the keys: it writes them, reads them, validates them, and carries the schema
version. The README specifies the same thing in MUST and MAY. Fields may be added within a schema
version (readers ignore what they do not know); a field that changes its meaning raises the version.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tgems_edge import records
from tgems_edge.digests import beginnings, join_beginnings
from tgems_edge.errors import InputError, ModelFileError
from tgems_edge.images import Preprocessing
from tgems_edge.onnx_file import open_model_file
from tgems_edge.sets import SetMethod, rank

__all__ = [
    "METADATA_KEY",
    "SCHEMA_VERSION",
    "Accuracy",
    "CalibrationData",
    "Card",
    "Dynamic",
    "DynamicExit",
    "EncoderId",
    "Gate",
    "Parity",
    "Quantisation",
    "Resizing",
    "Sample",
    "find_card",
    "is_sealed",
    "noise_pixels",
    "seal",
]

METADATA_KEY = "tgems"
SCHEMA_VERSION = 1
UNSEALED = "0" * 64
LARGEST_CARD = 1 << 24  # characters; it names the pictures of its calibration, with 8 each
LARGEST_SIDE = 1 << 13  # pixels of the input


@dataclass(frozen=True)
class EncoderId:
    """Which CLIP: its name alone would not do, so the weights are named by their hash."""

    name: str
    pretrained: str | None
    sha256: str


@dataclass(frozen=True)
class Parity:
    """How the graph compared with PyTorch before the file was written."""

    pictures: int
    of: str  # what they were, in words
    largest_rate_difference: float
    label_agreement: float  # share of equal labels, near-ties included


@dataclass(frozen=True)
class Resizing:
    """How resizing inside the graph compared with Pillow's; only present where the graph resizes."""

    pictures: int
    pixels_within_1: float  # share of pixels that differ by one grey level at most
    largest_difference: int  # grey levels
    label_agreement: float  # share of labels equal to those after Pillow


@dataclass(frozen=True)
class Accuracy:
    """Measured on labelled images with this file; only present when such images were given."""

    top1: float
    images: int
    data_sha256: str
    calibration_error: float | None  # expected calibration error; None without calibration
    coverage: dict[str, float] | None  # of the threshold sets, for each coverage that was promised
    set_size: dict[str, float] | None  # classes in such a set, on average


@dataclass(frozen=True)
class CalibrationData:
    """The pictures that temperature, conformal quantiles and rejection thresholds were fitted on."""

    images: int
    sha256: str  # of their files' SHA-256, sorted
    digests: str  # base64: the first 6 bytes of each file's SHA-256, so that nobody measures on them

    @classmethod
    def of(cls, digests: Sequence[bytes]) -> CalibrationData:
        """From the SHA-256 of each picture's file."""
        whole = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
        return cls(len(digests), whole, base64.b64encode(join_beginnings(digests)).decode())

    def beginnings(self) -> list[bytes]:
        """The first 6 bytes of each file's SHA-256.

        Raises:
            ValueError: they are no base64, or cut short.
        """
        return beginnings(base64.b64decode(self.digests, validate=True))

    def is_whole(self) -> bool:
        """Whether there is one digest for each picture."""
        try:
            return len(self.beginnings()) == self.images
        except ValueError:
            return False


@dataclass(frozen=True)
class Sample:
    """An input that any machine can make again, and the rates the exporting machine got for it.

    `noise` pixels come from a seed; `jpeg` holds a tiny drawn picture, so that decoding and resizing
    are covered too. A user's pictures never go into the file.
    """

    kind: Literal["noise", "jpeg"]
    content: str  # noise: the seed; jpeg: the file in base64
    decoded_sha256: str  # of the uint8 RGB array after decoding; for noise the same as the next
    pixels_sha256: str  # of the uint8 array that goes into the graph, resized or not
    rates: tuple[float, ...]  # (C,)


@dataclass(frozen=True)
class Gate:
    """An INT8 file against the fp32 graph it was made from, on labelled pictures that made neither."""

    images: int
    data_sha256: str
    accuracy_drop: float  # points
    label_flips: float  # per cent of labels that differ


@dataclass(frozen=True)
class Quantisation:
    """How an INT8 file was made, and what that cost."""

    scheme: Literal["static", "dynamic"]  # ranges of activations: known beforehand, or found at run time
    target: Literal["generic", "x86-vnni", "x86", "arm64", "tensorrt"]
    ranges: Literal["minmax", "entropy", "percentile"] | None  # how they were cut off; None where dynamic
    images: int  # that they were found on
    equalised: bool  # whether outliers were moved from activations into weights
    kept: tuple[str, ...]  # parts that stayed in floating point because INT8 cost too much there
    gate: Gate | None  # None: not measured

    @property
    def cost(self) -> str:
        """What INT8 cost against fp32, in words."""
        if self.gate is None:
            return "not measured"
        gain = round(-self.gate.accuracy_drop, 1) + 0.0  # no "-0.0"
        flips = f"{self.gate.label_flips:.1f}% of labels flipped on {self.gate.images} pictures"
        return f"{gain:+.1f} points, {flips}"


@dataclass(frozen=True)
class DynamicExit:
    """One of the exits of a dynamic file (LRA-EE, arXiv 2605.26415, eq. 4).

    A picture leaves here if sigmoid(w . (confidence, margin, spread) + bias) >= threshold. The spread is the
    mean squared distance of the patch tokens from their mean.
    """

    layer: int
    k: int
    pool: Literal["cls", "mean"]
    temperature: float  # T of its posterior
    surprise: float  # the smallest rate of a median calibration picture; `unknown` looks at what exceeds it
    weights: tuple[float, float, float] | None  # w; None for the last exit, which everything leaves
    bias: float | None
    threshold: float | None
    operations: int  # floating-point, for one picture that leaves here, gates and heads included
    share: float  # of the calibration pictures that left here


@dataclass(frozen=True)
class Dynamic:
    """How a file with several exits decides."""

    budget: float  # operations of a mean picture, as a share of the full tower's: what was asked for
    operations: float  # the same, as it came out on the calibration pictures
    exits: tuple[DynamicExit, ...]  # in their order, the last of which takes what is left
    dropped: dict[str, str]  # exits that were asked for and are not there, and why


@dataclass(frozen=True)
class Card:
    """What a model file says about itself."""

    classes: tuple[str, ...]
    classes_not_trained: tuple[str, ...]  # names that the head never saw in training
    templates: tuple[str, ...]  # the prompts of a class are these, with its name for {}
    layer: int  # the block that answers, counted from 1; in a dynamic file the last that may
    k: int  # K, the width in which the head compares: of the Jumper's output, or E of an SSA head
    pool: Literal["cls", "mean"]  # which token the head reads
    encoder: EncoderId
    # resized by the caller, or any picture, resized inside the graph
    input: Literal["pixels", "image"] = field(metadata=records.meant_by_missing("pixels"))
    preprocessing: Preprocessing
    temperature: float | None  # T of the posterior; None without calibration, and then T = 1
    conformal: dict[str, float] | None  # quantile of each coverage, of threshold sets (`tgems_edge.sets`)
    conformal_adaptive: dict[str, float] | None  # the same of adaptive sets
    rejection: dict[str, float] | None  # what a share of known pictures exceeds: smallest rate - `surprise`
    calibration: CalibrationData | None  # what these four were fitted on
    precision: Literal["fp32", "fp16", "int8"]
    quantisation: Quantisation | None  # of an INT8 file
    dynamic: Dynamic | None  # of a file with several exits
    head_kind: Literal["tgem", "ssa"] | None  # files that do not say have T-GEMs
    opset: int
    parity: Parity
    resizing: Resizing | None
    accuracy: Accuracy | None
    samples: tuple[Sample, ...]
    versions: dict[str, str]
    licence: dict[str, str]  # of the code and of the weights
    file_sha256: str = UNSEALED  # of the whole file, computed with this field zeroed
    schema: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The card as JSON, with sorted keys, so that equal cards are equal bytes."""
        return records.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Reads and validates a card.

        Raises:
            ModelFileError: not JSON, of a newer schema, or with a field missing or of a wrong type.
        """
        try:
            card = records.from_json(cls, text, schema=SCHEMA_VERSION)
        except records.NewerSchema as error:
            raise ModelFileError(str(error)) from None
        except ValueError as error:
            raise ModelFileError(f"its card is broken: {error}; export the file again") from None
        card._validate()
        return card

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], name: str) -> Card:
        """Reads and validates the card in a file's metadata.

        Raises:
            ModelFileError: there is none, or one that cannot be used; the message begins with `name`.
        """
        text = find_card(metadata, name)
        try:
            return cls.from_json(text)
        except ModelFileError as error:
            raise ModelFileError(f"{name}: {error}") from None

    def _validate(self) -> None:
        expected = len(self.classes)
        _require(expected >= 2, "fewer than two classes")
        _require(len(set(self.classes)) == expected, "duplicate classes")
        _require(self.schema >= 1, "a schema below 1")
        _require(re.fullmatch("[0-9a-f]{64}", self.file_sha256) is not None, "a file_sha256 that is none")
        _require(0 <= self.preprocessing.fill_color <= 255, "a fill colour outside 0 to 255")
        _require(self.k >= 1 and self.layer >= 1, "a layer or a K below 1")
        _require(min(self.preprocessing.size) >= 1, "an empty input size")
        _require(max(self.preprocessing.size) <= LARGEST_SIDE, "an impossible input size")
        _require(self.temperature is None or self.temperature > 0, "a temperature that is not positive")
        self._validate_calibration()
        self._validate_quantisation()
        self._validate_dynamic()
        resizes = self.input == "image"
        _require(resizes == (self.resizing is not None), "a resizing that its input does not imply")
        _require(all(len(s.rates) == expected for s in self.samples), "samples of another class count")

    def _validate_calibration(self) -> None:
        tables = (self.conformal, self.conformal_adaptive, self.rejection)
        fitted = (self.temperature, *tables, self.calibration)
        _require(len({part is None for part in fitted}) == 1, "half a calibration")
        if self.calibration:
            _require(self.calibration.is_whole(), "digests that are cut short")
            levels = [level for table in tables if table is not None for level in table]
            possible = all(_is_level(level, self.calibration.images) for level in levels)
            _require(possible, "a level that its calibration cannot give")

    def _validate_quantisation(self) -> None:
        made = self.quantisation
        _require((self.precision == "int8") == (made is not None), "a quantisation its precision denies")
        if made is not None:
            known_beforehand = made.scheme == "static"
            _require(known_beforehand == (made.ranges is not None), "ranges that its scheme does not imply")
            _require(made.gate is None or made.gate.images > 0, "a gate that was measured on no pictures")

    def _validate_dynamic(self) -> None:
        if self.dynamic is None:
            return
        _require(self.calibration is not None, "several exits, but no calibration")
        _require(len(self.dynamic.exits) >= 2, "fewer than two exits to choose from")
        _validate_exits(self.dynamic.exits)
        last = self.dynamic.exits[-1]
        its_own = last.layer, last.k, last.pool, last.temperature
        stated = self.layer, self.k, self.pool, self.temperature
        _require(its_own == stated, "a layer, K, pool or temperature that is not its last exit's")

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """The blocks that may answer, in their order; in a static file there is one."""
        return tuple(exit.layer for exit in self.dynamic.exits) if self.dynamic else (self.layer,)

    def surprise(self, layer: int) -> float:
        """The rate that those of this block are counted from, where rates of several exits are compared.

        A usual picture costs more behind one block than behind another, so `rejection` is about what a
        picture costs beyond that. A static file has nothing to compare, and counts from 0.

        Raises:
            KeyError: no exit of a dynamic file is there.
        """
        if self.dynamic is None:
            return 0.0
        return {exit.layer: exit.surprise for exit in self.dynamic.exits}[layer]

    @property
    def description(self) -> str:
        """What the file recognises, and with what, in a few words."""
        exits = ("exits " if self.dynamic else "exit ") + ", ".join(map(str, self.exit_layers))
        precision = "" if self.precision == "fp32" else f", {self.precision}"
        return f"{len(self.classes)} classes, {exits} of {self.encoder.name}{precision}"

    def coverages(self, method: SetMethod) -> list[float]:
        """What label sets of this method can promise; nothing without calibration."""
        return [float(level) for level in self._set_bounds(method) or ()]

    def set_bound(self, coverage: float, method: SetMethod) -> float:
        """The quantile that label sets of this coverage are made with (`tgems_edge.sets`).

        Raises:
            InputError: the file has no calibration, or none for this coverage.
        """
        return _look_up(self._set_bounds(method), coverage, "coverage", "label sets")

    def _set_bounds(self, method: SetMethod) -> dict[str, float] | None:
        return self.conformal if method == "threshold" else self.conformal_adaptive

    def rejection_bound(self, reject: float) -> float:
        """What the best class-rate less `surprise` exceeds in at most a share of `reject` of known pictures.

        Raises:
            InputError: the file has no calibration, or none for this share.
        """
        return _look_up(self.rejection, reject, "reject", "`unknown`")

    def metadata(self, date: str) -> dict[str, str]:
        """All metadata of the file: the card, and the few keys that other tools read.

        Args:
            date: ISO date of the export.
        """
        height, width = self.preprocessing.size
        return {
            METADATA_KEY: self.to_json(),
            "description": self.description,
            "author": "tgems-edge",
            "date": date,
            "version": self.versions.get("tgems-edge", ""),
            "license": "; ".join(f"{part}: {terms}" for part, terms in sorted(self.licence.items())),
            "task": "classify",
            "imgsz": str([height, width]),
            "names": str(dict(enumerate(self.classes))),
        }


def _validate_exits(exits: Sequence[DynamicExit]) -> None:
    *gated, last = exits
    layers, operations = [exit.layer for exit in exits], [exit.operations for exit in exits]
    thresholds = [exit.threshold for exit in gated if exit.threshold is not None]
    _require(_grow(layers), "exits that are not in their order")
    _require(_grow(operations), "exits that do not cost more than those before")
    _require(all(exit.k >= 1 for exit in exits), "an exit with a K below 1")
    _require(all(exit.temperature > 0 for exit in exits), "an exit with a temperature that is not positive")
    _require(all(None not in _gate(exit) for exit in gated), "an exit before the last without a whole gate")
    _require(set(_gate(last)) == {None}, "a gate at its last exit, which takes what is left")
    _require(all(0 <= threshold <= 1 for threshold in thresholds), "a threshold outside 0 to 1")
    shares = [exit.share for exit in exits]
    whole = min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6
    _require(whole, "shares of its exits that do not add up to 1")


def _gate(exit: DynamicExit) -> tuple[object, ...]:
    return exit.weights, exit.bias, exit.threshold


def _grow(numbers: Sequence[int]) -> bool:
    """Whether they begin above 0 and each is larger than the one before."""
    return all(before < after for before, after in zip([0, *numbers], numbers, strict=False))


def _is_level(text: str, pictures: int) -> bool:
    """Whether a key is a share as `_look_up` writes it, and so many pictures have its quantile."""
    try:
        share = float(text)
    except ValueError:
        return False
    return 0 < share < 1 and f"{share:g}" == text and rank(pictures, max(share, 1 - share)) <= pictures


def _look_up(table: dict[str, float] | None, level: float, option: str, purpose: str) -> float:
    if table is None:
        raise InputError(
            f"the file was exported without calibration, so it has no {purpose}; "
            "export it with --data or --calibration"
        )
    if (found := table.get(f"{level:g}")) is None:
        raise InputError(f"{option} {level:g}: the file has {', '.join(table)}; choose one of them")
    return found


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ModelFileError(f"its card has {otherwise}; export the file again")


def noise_pixels(seed: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) noise from a seed, the same on every machine and in every language: SHAKE-256."""
    height, width = size
    data = hashlib.shake_256(seed.encode()).digest(height * width * 3)
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def find_card(metadata: Mapping[str, str], name: str) -> str:
    """The text of the card in a file's metadata.

    Raises:
        ModelFileError: there is none, or one too large to be read; the message begins with `name`.
    """
    if METADATA_KEY not in metadata:
        raise ModelFileError(f"{name}: an ONNX file, but not one that `tgems-edge export` made (no card)")
    text = metadata[METADATA_KEY]
    if len(text) > LARGEST_CARD:
        raise ModelFileError(
            f"{name}: its card of {len(text) / 1e6:.0f} MB is too large (at most {LARGEST_CARD / 1e6:.0f}); "
            "export it with fewer pictures to calibrate on"
        )
    return text


_SEAL_KEY = b'"file_sha256"'
_SEAL = _SEAL_KEY + b': "%s"'
_ANY_SEAL = re.compile(_SEAL % b"([0-9a-f]{64})")
_NO_SEAL = _SEAL % UNSEALED.encode()
_CHUNK = 1 << 16  # bytes read at once; more do not fit into caches


def seal(unsealed: bytes) -> bytes:
    """A serialised model with its own SHA-256 written into the card.

    Args:
        unsealed: the file as it is to be written, with a card whose `file_sha256` is 64 zeros.
    """
    digest = hashlib.sha256(unsealed).hexdigest()
    if unsealed.count(_NO_SEAL) != 1:
        raise ValueError("expected exactly one unsealed card in the serialised model")
    return unsealed.replace(_NO_SEAL, _SEAL % digest.encode())


def is_sealed(model: Path | bytes) -> bool:
    """Whether a file, or a serialised model, is byte for byte what was sealed.

    It looks for the seal itself, in a part of the file at a time: what happened to the card does not
    matter, and neither does the size of the file.
    """
    digest, stated, rest = hashlib.sha256(), [], b""
    with open_model_file(model) as file:
        while chunk := file.read(_CHUNK):
            part = rest + chunk
            if _SEAL_KEY in part:  # ten times as fast as to look for the whole
                stated += _ANY_SEAL.findall(part)
                part = _ANY_SEAL.sub(_NO_SEAL, part)
            done = max(0, len(part) - len(_NO_SEAL) + 1)  # a seal may begin in what follows
            digest.update(part[:done])
            rest = part[done:]
    digest.update(rest)
    return stated == [digest.hexdigest().encode()]
