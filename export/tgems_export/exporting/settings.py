"""Settings of one export: frozen records that travel whole, a field for each option."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tgems_export.exporting.graph.exit_graph import Precision as FloatPrecision
from tgems_export.exporting.quantization.recipe import Target
from tgems_export.exporting.quantization.search import Limits
from tgems_export.heads.base import HeadKindName

__all__ = [
    "DynamicSettings",
    "ExitSettings",
    "ExportSettings",
    "GraphSettings",
    "Int8Settings",
    "PictureSettings",
    "Precision",
]

Precision = Literal["fp32", "fp16", "int8", "int8-dynamic"]


@dataclass(frozen=True)
class ExitSettings:
    """The exits of the file, their heads and encoder, and its classes."""

    layers: tuple[str | int, ...] = (5,)  # names of exit points, in the order of the tower
    head: Path | None = None  # a folder of heads, `photo`, `demo` or `demo-190`; for one layer also a file
    head_kind: HeadKindName = "tgem"
    encoder: str | None = None  # the one the heads were trained on, if it is built in or open_clip's
    pretrained: str | None = None  # its weights; those the heads were trained on
    classes: tuple[str, ...] | None = None  # names for the tables; those the heads were trained on
    ignore_profiles: bool = False  # colour profiles, however the heads were trained


@dataclass(frozen=True)
class PictureSettings:
    """The pictures that calibrate and measure; `data` alone is split, one half for each."""

    data: Path | None = None  # labelled, to measure on
    calibration: Path | None = None  # without labels they only show INT8 what activations take
    folders: Mapping[str, str] | None = None  # the class of a folder by its name, where it is not the name


@dataclass(frozen=True)
class GraphSettings:
    """The input of the graph, and its precision."""

    input: Literal["pixels", "image"] = "pixels"  # resized, or whole pictures that the graph resizes itself
    precision: Precision = "fp32"
    opset: int = 18

    @property
    def is_int8(self) -> bool:
        """Whether products are computed in integers."""
        return self.precision.startswith("int8")

    @property
    def floats(self) -> FloatPrecision:
        """The precision of all that is not in integers."""
        return "fp16" if self.precision == "fp16" else "fp32"


@dataclass(frozen=True)
class Int8Settings:
    """The processor INT8 is for, and what it may cost."""

    target: Target = "generic"
    limits: Limits = field(default_factory=Limits)
    mixed: bool = True  # whether parts that INT8 costs too much may stay in fp32


@dataclass(frozen=True)
class DynamicSettings:
    """Settings of a file with several exits."""

    budget: float = 0.6  # operations of a mean picture, as a share of the full tower's
    nested: bool = True  # in branches, which a runtime skips; not every provider knows them


@dataclass(frozen=True)
class ExportSettings:
    """All of it."""

    output: Path
    overwrite: bool = False
    exits: ExitSettings = field(default_factory=ExitSettings)
    pictures: PictureSettings = field(default_factory=PictureSettings)
    graph: GraphSettings = field(default_factory=GraphSettings)
    int8: Int8Settings = field(default_factory=Int8Settings)
    dynamic: DynamicSettings = field(default_factory=DynamicSettings)
