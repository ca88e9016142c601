"""Picture sets of an export: some pictures calibrate, others measure, none has trained."""

from __future__ import annotations

from collections.abc import Sequence
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
from tgems_export.exporting.exits import Exit
from tgems_export.exporting.settings import PictureSettings, Precision
from tgems_export.splits import deal

__all__ = ["PictureSet", "PictureSets", "read_picture_sets"]


GATE_PICTURES = 1000  # fewer cannot tell half a point of accuracy from chance


@dataclass(frozen=True)
class PictureSet:
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
        """The paths of the pictures."""
        return [self.folder.path(member) for member in self.members]

    def only(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> PictureSet:
        """Some of them."""
        return PictureSet(self.folder, self.members[chosen], self.labels[chosen])


@dataclass(frozen=True)
class PictureSets:
    """The picture sets that calibrate and measure."""

    calibration: PictureSet | None
    measuring: PictureSet | None
    unlabelled: ImageFolder | None = None  # shows INT8 what activations take, and nothing else

    @property
    def is_gated(self) -> bool:
        """Whether there are enough pictures to measure what INT8 costs."""
        return self.measuring is not None and len(self.measuring.members) >= GATE_PICTURES

    def check_enough(self, classes: Sequence[str]) -> None:
        """Raises DataError if there are too few pictures to calibrate, or a class has none."""
        if self.calibration is None:
            return
        root = self.calibration.folder.root
        found = np.bincount(self.calibration.labels, minlength=len(classes))
        if (found == 0).any():
            name = classes[int(found.argmin())]
            raise DataError(f"{root}: no picture of class {name!r}; calibrating needs some of every class")
        if found.sum() < LEAST_PICTURES:
            halved = self.measuring is not None and self.measuring.folder is self.calibration.folder
            half, needed = (
                (", half of which calibrate", 2 * LEAST_PICTURES) if halved else ("", LEAST_PICTURES)
            )
            raise DataError(
                f"{root}: {len(self.calibration.folder.names)} pictures{half}, and at least {needed} are "
                "needed; give more, or only measure the file with `tgems-edge evaluate`"
            )


def read_picture_sets(
    settings: PictureSettings, exits: Sequence[Exit], precision: Precision, reporter: Reporter
) -> PictureSets:
    """Reads which pictures there are, hashes them once, and gives each its purpose.

    Args:
        settings: see `PictureSettings`.
        exits: of the file.
        precision: of the file.
        reporter: where it is said what else lies in the folders.

    Raises:
        DataError: a folder that is not among the classes; pictures that would both calibrate and measure, or
            trained a head; too few, or none where they are needed.
    """
    sets = _read(settings, exits[0].classes, reporter)
    if sets.unlabelled and not precision.startswith("int8"):
        raise DataError(
            f"{settings.calibration}: pictures without folders of classes, which only --precision int8 can "
            "use; expected pictures as in cat/1.jpg"
        )
    for exit_ in {exit_.card.data_sha256: exit_ for exit_ in exits}.values():
        _refuse_training_pictures(exit_, sets, reporter)
    sets.check_enough(exits[0].classes)
    if precision == "int8" and not (sets.unlabelled or sets.calibration):
        raise DataError(
            "--precision int8 needs pictures to find the ranges of its activations: give --calibration "
            "(labels are not needed) or --data; without pictures, --precision int8-dynamic finds them as it "
            "runs"
        )
    if len(exits) > 1 and sets.calibration is None:
        raise DataError("--dynamic needs labelled pictures to fit its gates on; give --data or --calibration")
    return sets


def _read(settings: PictureSettings, classes: Sequence[str], reporter: Reporter) -> PictureSets:
    data, calibration = settings.data, settings.calibration

    def read(root: Path) -> PictureSet:
        folder = read_labelled(root, given=settings.folders).labelled_as(classes)
        report_left_out(folder, reporter)
        return PictureSet(folder, np.arange(len(folder.names)), folder.labels)

    unlabelled = read_unlabelled(calibration) if calibration and _is_flat(calibration) else None
    if unlabelled:
        report_left_out(unlabelled, reporter)
    if calibration and not unlabelled:
        calibrates = read(calibration)
        measures = read(data) if data else None
        if measures:
            refuse_shared(calibrates.folder, measures.folder.digests, f"those to measure on in {data}")
        return PictureSets(calibrates, measures)
    if not data:
        return PictureSets(None, None, unlabelled)
    whole = read(data)
    if unlabelled:
        refuse_shared(unlabelled, whole.folder.digests, f"those to measure on in {data}")
    part = deal(whole.folder, 2)
    return PictureSets(whole.only(part == 0), whole.only(part == 1), unlabelled)


def _is_flat(root: Path) -> bool:
    """Whether a folder holds pictures and no folders."""
    return root.is_dir() and not list_folders(root)[0]


def _refuse_training_pictures(exit_: Exit, sets: PictureSets, reporter: Reporter) -> None:
    for pictures in (sets.calibration, sets.measuring):
        if pictures is None:
            continue
        folder = pictures.folder
        if folder.sha256 == exit_.card.data_sha256:
            raise DataError(f"{folder.root}: the head was trained on these very pictures; give others")
        if exit_.trained_on is None:
            reporter.warn(
                f"whether the head was trained on some of {folder.root} is not known: the list of its "
                "training pictures (pictures-*.sha256) does not lie beside it"
            )
        else:
            refuse_shared(folder, exit_.trained_on, "those the head was trained on")
