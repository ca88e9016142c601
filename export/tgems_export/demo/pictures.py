"""Pictures of the packs, decoded, and those among them that are only watched.

N pictures, H and W their size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgems_edge.model_file.card import Preprocessing
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import decode, to_pixels
from tgems_export.demo.packs import Pack

__all__ = ["PREPROCESSING", "Pictures", "read_pictures", "split"]

PREPROCESSING = Preprocessing(
    size=(64, 64),
    resize_mode="shortest",
    interpolation="bicubic",
    fill_color=0,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.247, 0.2435, 0.2616),
)


@dataclass(frozen=True)
class Pictures:
    """N decoded pictures of several data sets, and what their classes are called."""

    pixels: NDArray[np.uint8]  # (N, H, W, 3)
    labels: NDArray[np.int64]  # (N,) over the classes of all data sets
    data_set: NDArray[np.int64]  # (N,)
    data_sets: tuple[tuple[tuple[str, ...], ...], ...]  # names per class per data set
    repeats: tuple[int, ...]  # how often an epoch shows a picture of each data set
    sha256: str  # over the packs' pictures and labels


def read_pictures(packs: Sequence[Pack], reporter: Reporter) -> Pictures:
    """Decode packs; those with the same classes are one data set.

    Classes without pictures are left out of the names. The first data set, CIFAR-10, is shown twice an
    epoch: half as many pictures, for the ten names that the built-in heads know.
    """
    groups: dict[tuple[str, ...], list[Pack]] = {}
    for pack in packs:
        groups.setdefault(pack.classes, []).append(pack)
    pixels, labels, owners, data_sets, offset = [], [], [], [], 0
    digest = hashlib.sha256()
    with reporter.task("decoding", sum(len(pack.labels) for pack in packs), unit="pictures") as task:
        for owner, members in enumerate(groups.values()):
            own = np.concatenate([pack.labels for pack in members])
            present, numbers = np.unique(own, return_inverse=True)
            data_sets.append(tuple(members[0].synonyms[label] for label in present))
            labels.append(numbers + offset)
            owners.append(np.full(len(own), owner))
            offset += len(present)
            for pack in members:
                digest.update(pack.joined + pack.labels.tobytes())
                pixels.append(np.stack([to_pixels(decode(jpeg), PREPROCESSING) for jpeg in pack.jpegs()]))
                task.advance(len(pack.labels))
    return Pictures(
        pixels=np.concatenate(pixels),
        labels=np.concatenate(labels),
        data_set=np.concatenate(owners),
        data_sets=tuple(data_sets),
        repeats=(2,) + (1,) * (len(data_sets) - 1),
        sha256=digest.hexdigest(),
    )


def split(pictures: Pictures, held_out: int, seed: int) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Return pictures to train on, and for each data set those that are only watched.

    Args:
        pictures: see `Pictures`.
        held_out: of each data set so many, at most a tenth, are watched.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    watched = []
    for data_set in range(len(pictures.data_sets)):
        members = rng.permutation(np.flatnonzero(pictures.data_set == data_set))
        watched.append(np.sort(members[: min(held_out, len(members) // 10)]))
    return np.setdiff1d(np.arange(len(pictures.labels)), np.concatenate(watched)), watched
