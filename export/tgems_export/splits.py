"""Which pictures train, which watch, which calibrate and which measure; never one for two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tgems_edge.data import ImageFolder
from tgems_edge.errors import DataError

__all__ = ["halve", "split"]


def split(
    labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on and to validate on: `fraction` of each label is held out, at least one picture.

    A label with a single picture is trained on only.
    """
    rng = np.random.default_rng(seed)
    held_out: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) > 1:
            held_out.append(members[: max(1, round(fraction * len(members)))])
    validation = np.sort(np.concatenate(held_out)) if held_out else np.empty(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def halve(folder: ImageFolder) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to calibrate on and to measure on, half of each class.

    The content of a picture decides, so copies of one picture are never on both sides, and the sides do
    not depend on names.

    Raises:
        DataError: a class with fewer than two different pictures.
    """
    side: dict[bytes, bool] = {}
    for label, name in enumerate(folder.classes):
        own = {folder.digests[i] for i in np.flatnonzero(folder.labels == label)}
        if len(own) < 2:
            raise DataError(
                f"{folder.root / name}: {len(own)} picture; calibrating and measuring need one each, add some"
            )
        for position, digest in enumerate(sorted(own)):
            side.setdefault(digest, position % 2 == 0)
    calibrates = np.array([side[digest] for digest in folder.digests])
    return np.flatnonzero(calibrates), np.flatnonzero(~calibrates)
