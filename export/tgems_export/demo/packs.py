"""The training pictures: packs of JPEGs, `.npz` files as the project's data come in.

A pack holds `bytes` (all files joined), `lengths` (N,), `labels` (N,) and `classes`; Tiny-ImageNet's
also hold `synonyms` (WordNet's names of each class) and `unseen` (classes kept for testing new names).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tgems_edge.errors import DataError

__all__ = ["TRAINING", "Pack", "read_pack", "read_training_packs", "unpack"]

CIFAR10 = "cifar10_train_jpeg.npz"
TINY_IMAGENET = tuple(f"tiny_imagenet/train_{shard}_jpeg.npz" for shard in range(4))
TRAINING = (CIFAR10, *TINY_IMAGENET)


@dataclass(frozen=True)
class Pack:
    """N pictures as JPEG files, their labels, and what their classes are called."""

    path: Path
    joined: bytes
    ends: NDArray[np.int64]  # (N,) where each file ends in `joined`
    labels: NDArray[np.int64]  # (N,) indices into classes
    classes: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]  # per class, the class name first
    unseen: frozenset[int]  # classes no encoder of ours may train on

    def jpegs(self) -> Iterator[bytes]:
        """The pictures' files, in order."""
        start = 0
        for end in self.ends:
            yield self.joined[start:end]
            start = end


def read_pack(path: Path) -> Pack:
    """Read one pack.

    Raises:
        DataError: missing, or not a pack.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            classes = tuple(str(name) for name in arrays["classes"])
            listed = arrays.get("synonyms", classes)
            return Pack(
                path=path,
                joined=arrays["bytes"].tobytes(),
                ends=np.cumsum(arrays["lengths"].astype(np.int64)),
                labels=arrays["labels"].astype(np.int64),
                classes=classes,
                synonyms=tuple(_names(name, str(s)) for name, s in zip(classes, listed, strict=True)),
                unseen=frozenset(arrays["unseen"].tolist()) if "unseen" in arrays else frozenset(),
            )
    except FileNotFoundError:
        raise DataError(f"{path}: no such pack; expected {', '.join(TRAINING)} in one folder") from None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        raise DataError(f"{path}: not a pack of pictures (.npz); copy it again") from None


def read_training_packs(folder: Path) -> tuple[Pack, ...]:
    """CIFAR-10 and the shards of Tiny-ImageNet, in the order of `TRAINING`.

    Raises:
        DataError: a pack is missing or broken, or holds pictures of classes kept for testing.
    """
    packs = tuple(read_pack(folder / name) for name in TRAINING)
    for pack in packs:
        if kept := pack.unseen.intersection(pack.labels.tolist()):
            raise DataError(f"{pack.path}: holds pictures of {pack.classes[min(kept)]!r}, kept for testing")
    return packs


def unpack(
    packs: tuple[Pack, ...],
    out: Path,
    *,
    per_class: int | None = None,
    seen_only: bool = False,
    without: tuple[Pack, ...] = (),
) -> int:
    """Write packs as one image folder, OUT/<class>/<pack>-<index>.jpg; return how many pictures.

    Args:
        packs: their classes may overlap.
        out: the folder.
        per_class: the first so many pictures of each class; default all.
        seen_only: leave out the classes kept for testing.
        without: leave out the pictures that are in these packs too, whatever their class.
    """
    written: Counter[str] = Counter()
    elsewhere = {hashlib.sha256(jpeg).digest() for pack in without for jpeg in pack.jpegs()}
    for pack in packs:
        for index, (label, jpeg) in enumerate(zip(pack.labels, pack.jpegs(), strict=True)):
            name = pack.classes[label]
            if (seen_only and label in pack.unseen) or hashlib.sha256(jpeg).digest() in elsewhere:
                continue
            if per_class is None or written[name] < per_class:
                path = out / name / f"{pack.path.stem}-{index:05d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(jpeg)
                written[name] += 1
    return written.total()


def _names(name: str, listed: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys([name, *(part.strip() for part in listed.split(","))]))
