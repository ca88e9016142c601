"""The card itself: everything a model file says about itself, as JSON under one metadata key.

This package alone knows the keys: it writes them, reads them, validates them, and carries the schema version.
The README specifies the same thing in MUST and MAY. Fields may be added within a schema version (readers
ignore what they do not know); a field that changes its meaning raises the version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tgems_edge.errors import InputError, ModelFileError
from tgems_edge.maths.sets import SetMethod
from tgems_edge.model_file import records
from tgems_edge.model_file.card import schema1
from tgems_edge.model_file.card.calibration import Calibration
from tgems_edge.model_file.card.exits import Dynamic, Exit, validate_exits
from tgems_edge.model_file.card.measurements import Accuracy, Parity, Quantisation, Resizing
from tgems_edge.model_file.card.origin import EncoderId
from tgems_edge.model_file.card.preprocessing import Preprocessing
from tgems_edge.model_file.card.require import require
from tgems_edge.model_file.card.samples import Sample

__all__ = ["METADATA_KEY", "SCHEMA_VERSION", "UNSEALED", "Card", "find_card"]

METADATA_KEY = "tgems"
SCHEMA_VERSION = 2
UNSEALED = "0" * 64
LARGEST_CARD = 1 << 24  # characters; it names the pictures of its calibration, with 8 each
LARGEST_SIDE = 1 << 13  # pixels of the input


@dataclass(frozen=True)
class Card:
    """What a model file says about itself."""

    classes: tuple[str, ...]
    classes_not_trained: tuple[str, ...]  # names that the head never saw in training
    templates: tuple[str, ...]  # the prompts of a class are these, with its name for {}
    encoder: EncoderId
    input: Literal["pixels", "image"]  # resized by the caller, or any picture, resized inside the graph
    preprocessing: Preprocessing
    exits: tuple[Exit, ...]  # in their order, one or several; the last takes what is left
    dynamic: Dynamic | None  # of a file with several exits
    calibration: Calibration | None
    precision: Literal["fp32", "fp16", "int8"]
    quantisation: Quantisation | None  # of an INT8 file
    opset: int
    parity: Parity
    resizing: Resizing | None
    accuracy: Accuracy | None
    samples: tuple[Sample, ...]
    versions: dict[str, str]
    licence: dict[str, str]  # of the code and of the weights
    file_sha256: str = UNSEALED  # of the whole file, computed with this field zeroed
    schema: int = SCHEMA_VERSION  # that the file was written in; what is written now is always the newest

    def to_json(self) -> str:
        """The card as JSON, with sorted keys, so that equal cards are equal bytes."""
        return records.to_json(replace(self, schema=SCHEMA_VERSION))

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Reads and validates a card of this schema or an earlier one.

        Raises:
            ModelFileError: not JSON, of a newer schema, or with a field missing or of a wrong type.
        """
        try:
            data, schema = records.parse(text, schema=SCHEMA_VERSION)
            old = schema <= schema1.SCHEMA
            card = cls(**schema1.read(data)) if old else records.from_object(cls, data)
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
        require(min(self.preprocessing.size) >= 1, "an empty input size")
        require(max(self.preprocessing.size) <= LARGEST_SIDE, "an impossible input size")
        self._validate_exits()
        self._validate_quantisation()
        resizes = self.input == "image"
        require(resizes == (self.resizing is not None), "a resizing that its input does not imply")
        require(all(len(s.rates) == expected for s in self.samples), "samples of another class count")

    def _validate_exits(self) -> None:
        validate_exits(self.exits)
        several = len(self.exits) > 1
        require(several == (self.dynamic is not None), "a choice of exits that their number denies")
        require(self.dynamic is None or self.dynamic.full_operations > 0, "a full tower without operations")
        fitted = self.last_exit.calibration is not None
        require(fitted == (self.calibration is not None), "half a calibration")
        require(fitted or not several, "several exits, but no calibration")
        if self.calibration:
            self.calibration.validate()

    def _validate_quantisation(self) -> None:
        made = self.quantisation
        require((self.precision == "int8") == (made is not None), "a quantisation its precision denies")
        if made is not None:
            known_beforehand = made.scheme == "static"
            require(known_beforehand == (made.ranges is not None), "ranges that its scheme does not imply")
            require(made.gate is None or made.gate.images > 0, "a gate that was measured on no pictures")

    @property
    def last_exit(self) -> Exit:
        """The exit that takes what is left; in a static file the only one."""
        return self.exits[-1]

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """The blocks that may answer, in their order; in a static file there is one."""
        return tuple(exit.layer for exit in self.exits)

    def exit_at(self, layer: int) -> Exit:
        """The exit behind a block.

        Raises:
            KeyError: there is none.
        """
        return {exit.layer: exit for exit in self.exits}[layer]

    def surprise(self, layer: int) -> float:
        """The rate that those of this block are counted from, where rates of several exits are compared.

        A usual picture costs more behind one block than behind another, so `rejection` is about what a
        picture costs beyond that. A static file has nothing to compare, and counts from 0.

        Raises:
            KeyError: no exit is there.
        """
        fitted = self.exit_at(layer).calibration
        return fitted.surprise if fitted else 0.0

    @property
    def mean_operations(self) -> float | None:
        """Operations of a mean calibration picture, as a share of the full tower's; None in a static file."""
        if self.dynamic is None:
            return None
        shares = (exit.calibration.share if exit.calibration else 0.0 for exit in self.exits)
        took = sum(share * (exit.operations or 0) for share, exit in zip(shares, self.exits, strict=True))
        return took / self.dynamic.full_operations

    @property
    def description(self) -> str:
        """What the file recognises, and with what, in a few words."""
        exits = ("exits " if self.dynamic else "exit ") + ", ".join(exit.title for exit in self.exits)
        precision = "" if self.precision == "fp32" else f", {self.precision}"
        return f"{len(self.classes)} classes, {exits} of {self.encoder.name}{precision}"

    def coverages(self, method: SetMethod) -> list[float]:
        """What label sets of this method can promise; nothing without calibration."""
        return [float(level) for level in self.calibration.set_bounds(method)] if self.calibration else []

    def set_bound(self, coverage: float, method: SetMethod) -> float:
        """The quantile that label sets of this coverage are made with (`tgems_edge.maths.sets`).

        Raises:
            InputError: the file has no calibration, or none for this coverage.
        """
        return self._calibrated("label sets").set_bound(coverage, method)

    def rejection_bound(self, reject: float) -> float:
        """What the best class-rate less `surprise` exceeds in at most a share of `reject` of known pictures.

        Raises:
            InputError: the file has no calibration, or none for this share.
        """
        return self._calibrated("`unknown`").rejection_bound(reject)

    def _calibrated(self, purpose: str) -> Calibration:
        if self.calibration is None:
            raise InputError(
                f"the file was exported without calibration, so it has no {purpose}; "
                "export it with --data or --calibration"
            )
        return self.calibration

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
