"""The subject of a study, as its report states it; kept with the figures, so it can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tgems_export.encoders.towers.base import Pool
from tgems_export.study.material import Material

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """Counts and names; C classes."""

    layers: int
    pools: tuple[Pool, ...]
    width: int  # D at the last exit point
    classes: tuple[str, ...]  # C
    training: tuple[int, ...]  # (C,) pictures of each class
    calibration: int  # pictures
    evaluation: tuple[int, ...]  # (C,) pictures of each class
    unknown: Mapping[str, int]  # pictures of none of the classes, by what they are
    new_names: int  # names that no head was trained on
    templates: int  # prompts in training
    held_out_templates: bool  # whether there are prompts that no head was trained on

    @classmethod
    def of(cls, material: Material) -> Subject:
        """Counts what a study works on."""
        classes = len(material.classes)

        def by_class(labels: Any) -> tuple[int, ...]:
            return tuple(np.bincount(labels, minlength=classes).tolist())

        return cls(
            layers=material.layers,
            pools=material.pools,
            width=material.widths[-1],
            classes=material.classes,
            training=by_class(material.training.labels),
            calibration=len(material.calibration.rows),
            evaluation=by_class(material.evaluation.labels),
            unknown={what: len(pictures.rows) for what, pictures in material.unknown.items()},
            new_names=0 if material.new_text is None else len(material.new_text),
            templates=material.prompts.shape[1],
            held_out_templates=material.held_out_text is not None,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Subject:
        """Reads what `dataclasses.asdict` wrote, lists in the place of tuples."""
        read: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**read)
