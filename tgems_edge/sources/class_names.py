"""Names of classes: files that list them, and which folder holds the pictures of which class.

Names match by how they are spoken: `Sea_slug`, `sea-slug` and `sea slug` are one class, and so are the two
Unicode forms of `café`. An exact match comes first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tgems_edge.errors import DataError
from tgems_edge.sources.text_files import read_text

LONGEST_LINE = 1000  # characters: a name that CLIP reads has a few dozen

__all__ = ["ClassList", "match_folders", "matching_key", "read_class_list", "read_lines", "say_folders"]


@dataclass(frozen=True)
class ClassList:
    """C class names in their order, and the folders that a file says hold their pictures."""

    names: tuple[str, ...]
    folders: Mapping[str, str] = field(default_factory=dict)  # from a folder's name to a class name


def read_class_list(path: Path) -> ClassList:
    """Reads a file with one class a line: `name`, or `folder<TAB>name` where folders are named otherwise.

    Blank lines and lines that start with # do not count.

    Raises:
        DataError: no such file, not UTF-8, no names, or a line that cannot be used, with its number.
    """
    names: list[str] = []
    folders: dict[str, str] = {}
    for number, line in read_lines(path, "class names"):
        if line.startswith("#"):
            continue
        folder, *rest = (part.strip() for part in line.split("\t"))
        name = rest[0] if rest else folder
        if len(rest) > 1 or not folder or not name:
            raise DataError(f"{path}, line {number}: expected a class name, or a folder, one tab and a name")
        if not line.replace("\t", "").isprintable():
            raise DataError(f"{path}, line {number}: {line!r} holds characters that cannot be shown")
        if rest and folder in folders:
            raise DataError(f"{path}, line {number}: folder {folder!r} has a line already; keep one")
        if rest:
            folders[folder] = name
        names.append(name)
    return ClassList(tuple(names), folders)


def read_lines(path: Path, what: str, otherwise: str = "one a line") -> list[tuple[int, str]]:
    """Lines of a text file that are not blank, with their numbers from 1; without spaces at the ends.

    Raises:
        DataError: no such file, not a plain one, not UTF-8, no lines, or one that is too long.
    """
    try:
        text = read_text(path, "utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give a file of {what}, {otherwise}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    # A tab at either end is an empty folder or name, and no space.
    lines = [(number, line.strip(" \r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path}: holds no {what}")
    if (found := next((number for number, line in lines if len(line) > LONGEST_LINE), None)) is not None:
        raise DataError(f"{path}, line {found}: more than {LONGEST_LINE} characters; expected {what}")
    return lines


def matching_key(name: str) -> str:
    """Return a key without case, `_`, hyphens, spaces and Unicode form."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
    return " ".join(re.sub(r"[_\-\u2010\u2011]", " ", unicodedata.normalize("NFC", folded)).split())


def match_folders(folders: Mapping[str, str], classes: Sequence[str], where: str) -> dict[str, str]:
    """Finds the class of each folder.

    Args:
        folders: from the names of folders to what they are said to hold, see `say_folders`.
        classes: names of classes.
        where: the folders' folder, for messages.

    Returns:
        from folders to classes; folders of no class are not in it.

    Raises:
        DataError: one folder for two classes, or two folders for one class.
    """
    found: dict[str, str] = {}
    by_class: dict[str, str] = {}
    known = _Names.of(classes)
    for folder, said in folders.items():
        name = known.find(said, where)
        if name is None:
            continue
        if name in by_class:
            raise DataError(
                f"{where}: folders {by_class[name]!r} and {folder!r} are both class {name!r}; merge them or "
                "rename one"
            )
        found[folder] = name
        by_class[name] = folder
    return found


def say_folders(folders: Iterable[str], given: Mapping[str, str], where: str) -> dict[str, str]:
    """Map folders to classes: what a class file states, else their own names.

    Raises:
        DataError: a folder that two lines of the file may mean.
    """
    stated = _Names.of(given)
    lines = {folder: stated.find(folder, where) for folder in folders}
    return {folder: folder if line is None else given[line] for folder, line in lines.items()}


@dataclass(frozen=True)
class _Names:
    """Names that can be found by how they are spoken."""

    by_spelling: frozenset[str]
    by_key: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, names: Iterable[str]) -> _Names:
        by_key: dict[str, tuple[str, ...]] = {}
        for name in dict.fromkeys(names):
            key = matching_key(name)
            by_key[key] = (*by_key.get(key, ()), name)
        return cls(frozenset(name for group in by_key.values() for name in group), by_key)

    def find(self, name: str, where: str) -> str | None:
        """The name spelled like this or, without one, the only name that is spoken like it.

        Raises:
            DataError: two names are spoken like it.
        """
        if name in self.by_spelling:
            return name
        found = self.by_key.get(matching_key(name), ())
        if len(found) > 1:
            raise DataError(
                f"{where}: {name!r} may be {found[0]!r} or {found[1]!r}; spell it like one of them"
            )
        return found[0] if found else None
