"""Splits: pictures that train, watch, calibrate or measure; never one for two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tgems_edge.errors import DataError
from tgems_edge.sources.data import ImageFolder

__all__ = ["deal", "split"]


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


def deal(folder: ImageFolder, parts: int) -> NDArray[np.int64]:
    """Deals the pictures of each class into so many parts of equal size; the part of each picture, (N,).

    The content of a picture decides, so copies of one picture are always in the same part, and the parts
    do not depend on names.

    Raises:
        DataError: a class with fewer different pictures than parts.
    """
    part: dict[bytes, int] = {}
    for label, name in enumerate(folder.classes):
        own = {folder.digests[i] for i in np.flatnonzero(folder.labels == label)}
        if len(own) < parts:
            raise DataError(
                f"{folder.root / name}: {len(own)} different pictures, too few to split; {parts} are needed"
            )
        for position, digest in enumerate(sorted(own)):
            part.setdefault(digest, position % parts)
    return np.array([part[digest] for digest in folder.digests])
