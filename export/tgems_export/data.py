"""Image folders: `DATA/<class>/*.jpg` with labels, or any folder of pictures without."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tgems_edge.errors import DataError
from tgems_edge.images import find_pictures
from tgems_export.prompts import check_class_names

__all__ = ["ImageFolder", "read_labelled", "read_unlabelled", "split"]


@dataclass(frozen=True)
class ImageFolder:
    """N pictures, sorted by name, and what is known about them."""

    root: Path
    names: tuple[str, ...]  # N paths relative to the root
    classes: tuple[str, ...]  # C class names; empty without labels
    labels: NDArray[np.int64]  # (N,) indices into classes; -1 without labels
    sha256: str  # over the names and contents of all pictures

    def path(self, index: int) -> Path:
        """Where a picture lies."""
        return self.root / self.names[index]


def read_labelled(root: Path, classes: Sequence[str] | None = None) -> ImageFolder:
    """Pictures in one folder per class.

    Args:
        root: the folder of folders.
        classes: the folders to take, in the order of the labels; default all, sorted.

    Raises:
        DataError: no such folder, fewer than two classes, a class without a folder or pictures.
    """
    _check_folder(root)
    folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    if classes is None:
        if len(folders) < 2:
            raise DataError(
                f"{root}: {len(folders)} class folder; expected at least two, as in {root}/cat/1.jpg and "
                f"{root}/dog/1.jpg (unlabelled pictures: --labels teacher --classes FILE)"
            )
        classes = tuple(folders)
    check_class_names(classes, str(root))
    labels: dict[str, int] = {}
    for label, name in enumerate(classes):
        if name not in folders:
            raise DataError(f"{root}: no folder for class {name!r}; it has {_some(folders)}")
        found = find_pictures(folders[name])
        if not found:
            raise DataError(f"{folders[name]}: no pictures in this class; add some or remove the folder")
        labels |= {path.relative_to(root).as_posix(): label for path in found}
    names = tuple(sorted(labels))  # whatever the order of the classes, the data are the same
    numbers = np.array([labels[name] for name in names])
    return ImageFolder(root, names, tuple(classes), numbers, _fingerprint(root, names))


def read_unlabelled(root: Path) -> ImageFolder:
    """All pictures under a folder.

    Raises:
        DataError: no such folder, or no pictures in it.
    """
    _check_folder(root)
    names = tuple(sorted(path.relative_to(root).as_posix() for path in find_pictures(root)))
    if not names:
        raise DataError(f"{root}: no pictures in this folder")
    return ImageFolder(root, names, (), np.full(len(names), -1), _fingerprint(root, names))


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


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise DataError(f"{root}: no such folder")
    if not root.is_dir():
        raise DataError(f"{root}: not a folder; expected pictures as in {root}/cat/1.jpg")


def _some(folders: dict[str, Path]) -> str:
    names = list(folders)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "no folders"


def _fingerprint(root: Path, names: Sequence[str]) -> str:
    """Of contents, not of dates: the same pictures are the same data wherever they are copied."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\n".encode() + hashlib.sha256((root / name).read_bytes()).digest())
    return digest.hexdigest()
