"""Data of a study: activations, labels and texts, each picture with one purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

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
from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.features import Features, compute_features
from tgems_export.encoders.prompts import (
    Templates,
    check_class_names,
    class_embeddings,
    encode_prompts,
)
from tgems_export.encoders.towers.base import Pool
from tgems_export.splits import deal

__all__ = ["Folders", "Material", "Pictures", "gather"]

PURPOSES = ("training", "calibration", "evaluation")
PARTS = 5  # of DATA where nothing else is given: one calibrates, one measures, the others train


@dataclass(frozen=True)
class Folders:
    """The folders of a study's pictures."""

    training: Path
    calibration: Path | None = None  # this and the next: both or neither; neither splits `training`
    evaluation: Path | None = None
    new_names: Path | None = None  # labelled with names that `training` does not have
    others: Path | None = None  # pictures that show none of the classes


@dataclass(frozen=True)
class Pictures:
    """n pictures with one purpose."""

    features: Features
    rows: NDArray[np.int64]  # (n,) which of the features
    labels: NDArray[np.int64]  # (n,); -1 without labels

    def activations(self, layer: int, pool: Pool) -> Tensor:
        """Float (n, D) behind block `layer`."""
        return self.features.activations(layer, pool)[self.rows]

    def embeddings(self) -> Tensor:
        """Float (n, E), the full tower's answers, of length 1."""
        return self.features.embeddings()[self.rows]


@dataclass(frozen=True)
class Material:
    """All data of a study; it can be sent to another process."""

    layers: int
    pools: tuple[Pool, ...]
    widths: tuple[int, ...]  # D at each exit point
    classes: tuple[str, ...]
    training: Pictures
    calibration: Pictures
    evaluation: Pictures
    new_names: Pictures | None
    unknown: Mapping[str, Pictures]  # by what they are: pictures of none of the classes
    prompts: Tensor  # (C, P, E) of the templates to train on
    held_out_text: Tensor | None  # (C, E) of templates never trained on
    new_text: Tensor | None  # (N, E) of the new names
    logit_scale: float  # what the full CLIP multiplies cosines with

    @property
    def text(self) -> Tensor:
        """(C, E), averaged over the templates to train on."""
        return class_embeddings(self.prompts)


def gather(
    encoder: Encoder, folders: Folders, templates: Templates, reporter: Reporter
) -> tuple[Material, dict[str, str]]:
    """Reads the folders, runs the encoder over them, and says what was read.

    Returns:
        the material, and a SHA-256 of each folder by its purpose.

    Raises:
        DataError: a folder that cannot be used, too few pictures, or one picture with two purposes.
    """
    if (folders.calibration is None) != (folders.evaluation is None):
        raise DataError("give both --calibration and --evaluation, or neither to split DATA")
    training = read_labelled(folders.training)
    check_class_names(training.classes, str(training.root))
    calibration = _read_again(folders.calibration, training)
    evaluation = _read_again(folders.evaluation, training)
    new = read_labelled(folders.new_names) if folders.new_names else None
    others = read_unlabelled(folders.others) if folders.others else None
    if new:
        check_class_names([*training.classes, *new.classes], str(new.root))
    given = {
        "training": training,
        "calibration": calibration,
        "evaluation": evaluation,
        "new names": new,
        "others": others,
    }
    read = {purpose: folder for purpose, folder in given.items() if folder}
    for folder in read.values():
        report_left_out(folder, reporter)
    _refuse_two_purposes(list(read.values()))
    parts = None if calibration else deal(training, PARTS)
    pictures = {purpose: _all_of(encoder, folder, reporter) for purpose, folder in read.items()}
    if parts is not None:
        whole = pictures["training"]
        pictures["calibration"] = _part(whole, parts == 0)
        pictures["evaluation"] = _part(whole, parts == 1)
        pictures["training"] = _part(whole, parts > 1)
    roots = {purpose: (given[purpose] or training).root for purpose in PURPOSES}
    _check_enough(pictures, training.classes, roots)
    prompts = encode_prompts(encoder, training.classes, templates.train)
    held_out = templates.held_out
    material = Material(
        layers=encoder.blocks,
        pools=encoder.tower.pools,
        widths=tuple(point.width for point in encoder.tower.points),
        classes=training.classes,
        training=pictures["training"],
        calibration=pictures["calibration"],
        evaluation=pictures["evaluation"],
        new_names=pictures.get("new names"),
        unknown={purpose: pictures[purpose] for purpose in ("new names", "others") if purpose in pictures},
        prompts=prompts,
        held_out_text=class_embeddings(encode_prompts(encoder, training.classes, held_out))
        if held_out
        else None,
        new_text=class_embeddings(encode_prompts(encoder, new.classes, templates.train)) if new else None,
        logit_scale=encoder.text.logit_scale,
    )
    return material, {purpose: folder.sha256 for purpose, folder in read.items()}


def _read_again(root: Path | None, training: ImageFolder) -> ImageFolder | None:
    """Another folder of the same classes."""
    if root is None:
        return None
    return read_labelled(root).labelled_as(training.classes, f"the classes of {training.root}")


def _refuse_two_purposes(folders: Sequence[ImageFolder]) -> None:
    for number, folder in enumerate(folders):
        for earlier in folders[:number]:
            refuse_shared(folder, earlier.digests, f"those of {earlier.root}")


def _all_of(encoder: Encoder, folder: ImageFolder, reporter: Reporter) -> Pictures:
    features = compute_features(encoder, folder, reporter)
    return Pictures(features, np.arange(len(features.indices)), folder.labels[features.indices])


def _part(pictures: Pictures, of_folder: NDArray[np.bool_]) -> Pictures:
    chosen = of_folder[pictures.features.indices[pictures.rows]]
    return dataclasses.replace(pictures, rows=pictures.rows[chosen], labels=pictures.labels[chosen])


def _check_enough(
    pictures: Mapping[str, Pictures], classes: Sequence[str], roots: Mapping[str, Path]
) -> None:
    for purpose, root in roots.items():
        found = np.bincount(pictures[purpose].labels, minlength=len(classes))
        if (found == 0).any():
            name = classes[int(found.argmin())]
            raise DataError(f"{root}: no picture of class {name!r} for {purpose}; add some")
    if (count := len(pictures["calibration"].rows)) < LEAST_PICTURES:
        raise DataError(
            f"{roots['calibration']}: {count} pictures to calibrate on, and {LEAST_PICTURES} are needed; "
            "give more, or another --calibration"
        )
