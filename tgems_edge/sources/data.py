"""Image folders: `DATA/<class>/*.jpg` with labels, or any folder of pictures without."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tgems_edge.errors import DataError
from tgems_edge.sources.class_names import match_folders, matching_key, say_folders
from tgems_edge.sources.folders import LeftOut, Why, find_pictures, identity, list_folders, shown

if TYPE_CHECKING:
    from tgems_edge.progress import Reporter

__all__ = [
    "ImageFolder",
    "read_labelled",
    "read_unlabelled",
    "refuse_shared",
    "refuse_splits",
    "report_left_out",
]

PART = 1 << 20  # bytes of a file that are read at once
_SPLIT = re.compile(
    r"(train(ing)?|val(id(ation)?)?|test(ing)?|dev|eval(uation)?|hold ?out)( ?(set|data|images|split))?"
)


@dataclass(frozen=True)
class ImageFolder:
    """N pictures, sorted by name, and what is known about them."""

    root: Path
    names: tuple[str, ...]  # N paths relative to the root
    classes: tuple[str, ...]  # C class names; empty without labels
    labels: NDArray[np.int64]  # (N,) indices into classes; -1 without labels
    digests: tuple[bytes, ...]  # N times SHA-256 of a file's content
    left_out: LeftOut = field(default_factory=LeftOut)  # what else lies there

    def path(self, index: int) -> Path:
        """Return the path of a picture."""
        return self.root / self.names[index]

    @cached_property
    def sha256(self) -> str:
        """Over the names and contents of all pictures, not over dates: equal wherever they are copied."""
        digest = hashlib.sha256()
        for name, content in zip(self.names, self.digests, strict=True):
            digest.update(f"{name}\n".encode("utf-8", "surrogateescape") + content)
        return digest.hexdigest()

    def labelled_as(self, classes: Sequence[str], whose: str = "the model's classes") -> ImageFolder:
        """The same pictures with labels into other classes, in their order; matched as spoken.

        Raises:
            DataError: a folder that is not among them, or two that are one of them.
        """
        found = match_folders({name: name for name in self.classes}, classes, str(self.root))
        if unknown := [name for name in self.classes if name not in found]:
            raise DataError(f"{self.root}: folder {unknown[0]!r} is not among {whose}; rename or remove it")
        numbers = np.array([classes.index(found[name]) for name in self.classes])
        return replace(self, classes=tuple(classes), labels=numbers[self.labels])


def read_labelled(
    root: Path, classes: Sequence[str] | None = None, given: Mapping[str, str] | None = None
) -> ImageFolder:
    """Pictures in one folder per class.

    Args:
        root: the folder of folders.
        classes: those to take, in the order of the labels; default all, sorted by their folders.
        given: the class of a folder by the folder's name, where it is not the name itself.

    Raises:
        DataError: no such folder, fewer than two classes, a class without a folder or pictures, a name that
            matches twice, or folders that are splits and not classes.
    """
    _check_folder(root)
    folders, left_out = list_folders(root)
    said = say_folders(folders, given or {}, str(root))
    if classes is None or not set(classes) <= set(said.values()):
        refuse_splits(root)
    if classes is None:
        if len(folders) < 2:
            raise DataError(
                f"{root}: {len(folders)} class folder; expected at least two, as in {root}/cat/1.jpg and "
                f"{root}/dog/1.jpg"
            )
        classes = tuple(dict.fromkeys(said.values()))
        _check_utf8(root, classes)
    found = match_folders(said, classes, str(root))
    _refuse_one_folder_twice(root, found, folders)
    for folder in folders.keys() - found.keys():
        left_out.add(Why.NO_CLASS, folder)
    by_class = {name: folders[folder] for folder, name in found.items()}
    labels: dict[str, int] = {}
    for label, name in enumerate(classes):
        if name not in by_class:
            raise DataError(
                f"{root}: no folder for class {name!r}; it has {_some(folders)}; rename folders, or give "
                "--classes a file with lines of folder<TAB>name"
            )
        pictures = find_pictures(by_class[name])
        left_out.counts.update(pictures.left_out.counts)
        if not pictures.paths:
            _refuse_empty(by_class[name], "no pictures in this class", pictures.left_out)
        labels |= {path.relative_to(root).as_posix(): label for path in pictures.paths}
    names = tuple(sorted(labels))  # whatever the order of the classes, the data are the same
    numbers = np.array([labels[name] for name in names])
    return ImageFolder(root, names, tuple(classes), numbers, _digests(root, names), left_out)


def read_unlabelled(root: Path) -> ImageFolder:
    """All pictures under a folder.

    Raises:
        DataError: no such folder, or no pictures in it.
    """
    _check_folder(root)
    found = find_pictures(root)
    names = tuple(sorted(path.relative_to(root).as_posix() for path in found.paths))
    if not names:
        _refuse_empty(root, "no pictures in this folder", found.left_out)
    return ImageFolder(root, names, (), np.full(len(names), -1), _digests(root, names), found.left_out)


def report_left_out(folder: ImageFolder, reporter: Reporter) -> None:
    """Says in one line what else lies in a folder, as a warning where somebody may think that it was read."""
    if folder.left_out:
        (reporter.warn if folder.left_out.matters else reporter.say)(
            f"{folder.root}: left out: {folder.left_out}"
        )


def refuse_splits(root: Path) -> None:
    """Raises DataError if a folder holds `train`, `val` and the like, with class folders in them."""
    _check_folder(root)
    folders, _ = list_folders(root)
    splits = [name for name in folders if _SPLIT.fullmatch(matching_key(name))]
    of_folders = [name for name in splits if list_folders(folders[name])[0]]
    if len(of_folders) < 2 and not (len(splits) == len(folders) > 0 and (of_folders or len(splits) > 1)):
        return
    to_train = [str(folders[name]) for name in splits if matching_key(name).startswith("train")]
    to_measure = [str(folders[name]) for name in splits if not matching_key(name).startswith("train")]
    advice = [f"{' or '.join(to_train)} to train on"] * bool(to_train)
    advice += [f"{' or '.join(to_measure)} to measure on"] * bool(to_measure)
    raise DataError(f"{root}: holds splits ({', '.join(splits)}), not classes; give {', '.join(advice)}")


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
        raise DataError(f"{root}: no such folder; check its name")
    if not root.is_dir():
        raise DataError(f"{root}: not a folder; expected pictures as in {root}/cat/1.jpg")


def _check_utf8(root: Path, classes: Sequence[str]) -> None:
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{root}: the folder '{shown(name)}' is no UTF-8, so it names no class; rename it"
            ) from None


def _refuse_one_folder_twice(root: Path, found: Mapping[str, str], folders: Mapping[str, Path]) -> None:
    places: dict[object, str] = {}
    for folder in found:
        other = places.setdefault(identity(str(folders[folder])), folder)
        if other != folder:
            raise DataError(f"{root}: {other!r} and {folder!r} are links to one folder; remove one")


def _refuse_empty(folder: Path, reason: str, left_out: LeftOut) -> None:
    raise DataError(f"{folder}: {reason}{left_out.hint or '; add some or remove the folder'}")


def _some(folders: dict[str, Path]) -> str:
    names = list(folders)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "no folders"


def _digests(root: Path, names: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(_digest(root / name) for name in names)


def _digest(file: Path) -> bytes:
    """SHA-256 of a file of any size, a part at a time."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as opened:
        while part := opened.read(PART):
            digest.update(part)
    return digest.digest()
