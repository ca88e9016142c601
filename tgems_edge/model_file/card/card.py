"""The card: everything a model file says about itself, as JSON under one metadata key.

This module alone knows the keys: it writes them, reads them, validates them, and carries the schema
version. The README specifies the same thing in MUST and MAY. Fields may be added within a schema
version (readers ignore what they do not know); a field that changes its meaning raises the version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tgems_edge.errors import ModelFileError
from tgems_edge.maths.sets import SetMethod
from tgems_edge.model_file import records
from tgems_edge.model_file.card.calibration import CalibrationData, is_level, look_up
from tgems_edge.model_file.card.exits import Dynamic, validate_exits
from tgems_edge.model_file.card.measurements import Accuracy, Parity, Quantisation, Resizing
from tgems_edge.model_file.card.preprocessing import Preprocessing
from tgems_edge.model_file.card.require import require
from tgems_edge.model_file.card.samples import Sample

__all__ = ["METADATA_KEY", "SCHEMA_VERSION", "UNSEALED", "Card", "EncoderId", "find_card"]

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
    conformal: (
        dict[str, float] | None
    )  # quantile of each coverage, of threshold sets (`tgems_edge.maths.sets`)
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
        require(expected >= 2, "fewer than two classes")
        require(len(set(self.classes)) == expected, "duplicate classes")
        require(self.schema >= 1, "a schema below 1")
        require(re.fullmatch("[0-9a-f]{64}", self.file_sha256) is not None, "a file_sha256 that is none")
        require(0 <= self.preprocessing.fill_color <= 255, "a fill colour outside 0 to 255")
        require(self.k >= 1 and self.layer >= 1, "a layer or a K below 1")
        require(min(self.preprocessing.size) >= 1, "an empty input size")
        require(max(self.preprocessing.size) <= LARGEST_SIDE, "an impossible input size")
        require(self.temperature is None or self.temperature > 0, "a temperature that is not positive")
        self._validate_calibration()
        self._validate_quantisation()
        self._validate_dynamic()
        resizes = self.input == "image"
        require(resizes == (self.resizing is not None), "a resizing that its input does not imply")
        require(all(len(s.rates) == expected for s in self.samples), "samples of another class count")

    def _validate_calibration(self) -> None:
        tables = (self.conformal, self.conformal_adaptive, self.rejection)
        fitted = (self.temperature, *tables, self.calibration)
        require(len({part is None for part in fitted}) == 1, "half a calibration")
        if self.calibration:
            require(self.calibration.is_whole(), "digests that are cut short")
            levels = [level for table in tables if table is not None for level in table]
            possible = all(is_level(level, self.calibration.images) for level in levels)
            require(possible, "a level that its calibration cannot give")

    def _validate_quantisation(self) -> None:
        made = self.quantisation
        require((self.precision == "int8") == (made is not None), "a quantisation its precision denies")
        if made is not None:
            known_beforehand = made.scheme == "static"
            require(known_beforehand == (made.ranges is not None), "ranges that its scheme does not imply")
            require(made.gate is None or made.gate.images > 0, "a gate that was measured on no pictures")

    def _validate_dynamic(self) -> None:
        if self.dynamic is None:
            return
        require(self.calibration is not None, "several exits, but no calibration")
        require(len(self.dynamic.exits) >= 2, "fewer than two exits to choose from")
        validate_exits(self.dynamic.exits)
        last = self.dynamic.exits[-1]
        its_own = last.layer, last.k, last.pool, last.temperature
        stated = self.layer, self.k, self.pool, self.temperature
        require(its_own == stated, "a layer, K, pool or temperature that is not its last exit's")

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
        """The quantile that label sets of this coverage are made with (`tgems_edge.maths.sets`).

        Raises:
            InputError: the file has no calibration, or none for this coverage.
        """
        return look_up(self._set_bounds(method), coverage, "coverage", "label sets")

    def _set_bounds(self, method: SetMethod) -> dict[str, float] | None:
        return self.conformal if method == "threshold" else self.conformal_adaptive

    def rejection_bound(self, reject: float) -> float:
        """What the best class-rate less `surprise` exceeds in at most a share of `reject` of known pictures.

        Raises:
            InputError: the file has no calibration, or none for this share.
        """
        return look_up(self.rejection, reject, "reject", "`unknown`")

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
            "version": self.versions["tgems-edge"],
            "license": "; ".join(f"{part}: {terms}" for part, terms in sorted(self.licence.items())),
            "task": "classify",
            "imgsz": str([height, width]),
            "names": str(dict(enumerate(self.classes))),
        }


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
