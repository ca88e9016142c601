"""Image folders: `DATA/<class>/*.jpg` with labels, or any folder of pictures without."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tgems_edge.errors import DataError
from tgems_edge.images import find_pictures

__all__ = ["ImageFolder", "read_labelled", "read_unlabelled", "refuse_shared"]


@dataclass(frozen=True)
class ImageFolder:
    """N pictures, sorted by name, and what is known about them."""

    root: Path
    names: tuple[str, ...]  # N paths relative to the root
    classes: tuple[str, ...]  # C class names; empty without labels
    labels: NDArray[np.int64]  # (N,) indices into classes; -1 without labels
    digests: tuple[bytes, ...]  # N times SHA-256 of a file's content

    def path(self, index: int) -> Path:
        """Where a picture lies."""
        return self.root / self.names[index]

    @cached_property
    def sha256(self) -> str:
        """Over the names and contents of all pictures, not over dates: equal wherever they are copied."""
        digest = hashlib.sha256()
        for name, content in zip(self.names, self.digests, strict=True):
            digest.update(f"{name}\n".encode() + content)
        return digest.hexdigest()

    def labelled_as(self, classes: Sequence[str], whose: str = "the model's classes") -> ImageFolder:
        """The same pictures with labels into other classes, in their order.

        Raises:
            DataError: a folder that is not among them.
        """
        if unknown := [name for name in self.classes if name not in classes]:
            raise DataError(f"{self.root}: folder {unknown[0]!r} is not among {whose}; rename or remove it")
        numbers = np.array([classes.index(name) for name in self.classes])
        return replace(self, classes=tuple(classes), labels=numbers[self.labels])


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
                f"{root}/dog/1.jpg"
            )
        classes = tuple(folders)
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
    return ImageFolder(root, names, tuple(classes), numbers, _digests(root, names))


def read_unlabelled(root: Path) -> ImageFolder:
    """All pictures under a folder.

    Raises:
        DataError: no such folder, or no pictures in it.
    """
    _check_folder(root)
    names = tuple(sorted(path.relative_to(root).as_posix() for path in find_pictures(root)))
    if not names:
        raise DataError(f"{root}: no pictures in this folder")
    return ImageFolder(root, names, (), np.full(len(names), -1), _digests(root, names))


def refuse_shared(folder: ImageFolder, digests: Sequence[bytes], others: str) -> None:
    """Raises DataError if a picture of the folder is among others as well, whatever its name.

    Args:
        folder: the pictures.
        digests: SHA-256 of the contents of the others, or their beginnings, all of one length.
        others: what they are, in words.
    """
    if not digests:
        return
    length = len(digests[0])
    shared = {digest[:length] for digest in folder.digests} & set(digests)
    found = [i for i, digest in enumerate(folder.digests) if digest[:length] in shared]
    if found:
        raise DataError(
            f"{folder.root}: {len(found)} of its pictures, such as {folder.names[found[0]]}, are among "
            f"{others}; give other pictures"
        )


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise DataError(f"{root}: no such folder")
    if not root.is_dir():
        raise DataError(f"{root}: not a folder; expected pictures as in {root}/cat/1.jpg")


def _some(folders: dict[str, Path]) -> str:
    names = list(folders)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "no folders"


def _digests(root: Path, names: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256((root / name).read_bytes()).digest() for name in names)
