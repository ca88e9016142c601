"""Pictures that are given for a file: some calibrate, others measure, none has trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tgems_edge.errors import DataError
from tgems_edge.maths.sets import LEAST_PICTURES
from tgems_edge.progress import Reporter
from tgems_edge.sources.data import (
    ImageFolder,
    read_labelled,
    read_unlabelled,
    refuse_shared,
    report_left_out,
)
from tgems_edge.sources.folders import list_folders
from tgems_export.splits import deal

__all__ = ["Given", "Labelled", "read_given"]


GATE_PICTURES = 1000  # fewer cannot tell half a point of accuracy from chance


@dataclass(frozen=True)
class Labelled:
    """n pictures of a folder with one purpose."""

    folder: ImageFolder
    members: NDArray[np.int64]  # (n,) which of the folder's pictures
    labels: NDArray[np.int64]  # (n,) indices into the classes of the model

    @property
    def digests(self) -> list[bytes]:
        """SHA-256 of each picture's file."""
        return [self.folder.digests[member] for member in self.members]

    @property
    def paths(self) -> list[Path]:
        """Where they lie."""
        return [self.folder.path(member) for member in self.members]

    def only(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Labelled:
        """Some of them."""
        return Labelled(self.folder, self.members[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Given:
    """What is there to calibrate with, and what to measure on."""

    calibrates: Labelled | None
    measures: Labelled | None
    unlabelled: ImageFolder | None = None  # shows INT8 what activations take, and nothing else

    @property
    def is_gated(self) -> bool:
        """Whether there are enough pictures to measure what INT8 costs."""
        return self.measures is not None and len(self.measures.members) >= GATE_PICTURES

    @property
    def representative(self) -> list[Path]:
        """Pictures that show what activations take."""
        if self.unlabelled:
            return [self.unlabelled.path(index) for index in range(len(self.unlabelled.names))]
        return self.calibrates.paths if self.calibrates else []

    def check_enough(self, classes: Sequence[str]) -> None:
        """Raises DataError if there are too few pictures to calibrate, or a class has none."""
        if self.calibrates is None:
            return
        root = self.calibrates.folder.root
        found = np.bincount(self.calibrates.labels, minlength=len(classes))
        if (found == 0).any():
            name = classes[int(found.argmin())]
            raise DataError(f"{root}: no picture of class {name!r}; calibrating needs some of every class")
        if found.sum() < LEAST_PICTURES:
            halved = self.measures is not None and self.measures.folder is self.calibrates.folder
            half, needed = (
                (", half of which calibrate", 2 * LEAST_PICTURES) if halved else ("", LEAST_PICTURES)
            )
            raise DataError(
                f"{root}: {len(self.calibrates.folder.names)} pictures{half}, and at least {needed} are "
                "needed; give more, or only measure the file with `tgems-edge evaluate`"
            )


def read_given(
    data: Path | None,
    calibration: Path | None,
    classes: Sequence[str],
    folders: Mapping[str, str] | None,
    reporter: Reporter,
) -> Given:
    """Reads what was given; `data` alone is split, one half calibrates and the other measures.

    Args:
        data: a folder to measure on, or None.
        calibration: a folder to calibrate on, or None; pictures without folders of classes have no labels.
        classes: of the model.
        folders: the class of a folder by the folder's name, where it is not the name itself.
        reporter: where it is said what else lies in the folders.

    Raises:
        DataError: a folder that is not among the classes, or a picture that would both calibrate and measure.
    """

    def read(root: Path) -> Labelled:
        folder = read_labelled(root, given=folders).labelled_as(classes)
        report_left_out(folder, reporter)
        return Labelled(folder, np.arange(len(folder.names)), folder.labels)

    unlabelled = read_unlabelled(calibration) if calibration and _is_flat(calibration) else None
    if unlabelled:
        report_left_out(unlabelled, reporter)
    if calibration and not unlabelled:
        calibrates = read(calibration)
        measures = read(data) if data else None
        if measures:
            refuse_shared(calibrates.folder, measures.folder.digests, f"those to measure on in {data}")
        return Given(calibrates, measures)
    if not data:
        return Given(None, None, unlabelled)
    whole = read(data)
    if unlabelled:
        refuse_shared(unlabelled, whole.folder.digests, f"those to measure on in {data}")
    part = deal(whole.folder, 2)
    return Given(whole.only(part == 0), whole.only(part == 1), unlabelled)


def _is_flat(root: Path) -> bool:
    """Whether a folder holds pictures and no folders."""
    return root.is_dir() and not list_folders(root)[0]
