"""Pictures in folders: which files they are, and a count of everything that is left out.

Files are opened by nobody here; devices, pipes and sockets never get that far. Links to folders are followed
once, after all real folders, so that a picture has the name of the place where it lies.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tgems_edge.errors import DataError
from tgems_edge.sources.formats import advice, can_decode, picture_suffixes

__all__ = [
    "Found",
    "LeftOut",
    "Why",
    "find_pictures",
    "identity",
    "is_broken",
    "is_cycle",
    "list_folders",
    "scan",
    "shown",
]

# What network drives, desktops and tools put beside pictures: copies of them, thumbnails, deleted files.
_SIDE_FOLDERS = frozenset(
    {
        *("@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin", "@sharesnap"),  # Synology
        *("@recycle", "@recently-snapshot", "@qmaildir", ".@__thumb", ".@upload_cache", ".streams"),  # QNAP
        *("$recycle.bin", "recycler", "system volume information"),  # Windows
        *("__macosx", ".appledouble", ".trashes", ".spotlight-v100", ".fseventsd", "network trash folder"),
        *(".thumbnails", ".thumbs", ".picasaoriginals", ".sh_thumbnails", ".xvpics", ".comments"),
        *("lost+found", ".ipynb_checkpoints", "__pycache__"),
    }
)
_SIDE_FILES = frozenset(
    {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", ".ds_store", "icon\r", ".picasa.ini"}
)
_SIDE_PREFIX = "._"  # what macOS writes beside each file on other systems' drives

_MOST_NAMES = 3  # of what is left out for one reason
_MOST_LETTERS = 60  # of each


class Why(Enum):
    """Why something is left out: one thing and several in words, and whether it is said with --quiet."""

    NO_DECODER = ("picture without decoder", "pictures without decoder", True)
    BROKEN_LINK = ("broken link", "broken links", True)
    CLOSED = ("folder that cannot be opened", "folders that cannot be opened", True)
    NO_CLASS = ("folder of no class", "folders of no class", False)
    NO_FOLDER = ("picture beside the class folders", "pictures beside the class folders", False)
    REPEATED = ("link to a folder read already", "links to folders read already", False)
    NO_FILE = ("device, pipe or socket", "devices, pipes and sockets", False)
    SIDE = ("side file", "side files", False)
    HIDDEN = ("hidden", "hidden", False)
    OTHER = ("other file", "other files", False)


@dataclass(frozen=True)
class LeftOut:
    """Counts what is not read, by the reason and by a name: a suffix, a folder or a file."""

    counts: Counter[tuple[Why, str]] = field(default_factory=Counter)

    def add(self, why: Why, name: str, count: int = 1) -> None:
        """Counts something more."""
        self.counts[why, name] += count

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.counts)

    @property
    def matters(self) -> bool:
        """Whether somebody may think that it was read."""
        return any(why.value[2] for why, _ in self.counts)

    @property
    def hint(self) -> str:
        """Return the end of a message about missing pictures; empty if there is nothing else."""
        return f"; it has {self}" if self else ""

    def __str__(self) -> str:
        """All of it in one line, such as `27 .heic (pip install 'tgems-edge[heif]'), 2 hidden`."""
        parts = []
        for why in Why:
            names = Counter({name: n for (reason, name), n in self.counts.items() if reason is why})
            ranked = sorted(names.items(), key=lambda item: (-item[1], item[0]))
            if why is Why.NO_DECODER:
                parts += [f"{count} {shown(suffix)} ({advice(suffix)})" for suffix, count in ranked]
            elif ranked:
                parts.append(_counted(why, names.total(), [name for name, _ in ranked if name]))
        return ", ".join(parts)


def _counted(why: Why, count: int, names: list[str]) -> str:
    text = f"{count} {why.value[0] if count == 1 else why.value[1]}"
    some = [shown(name) for name in names[:_MOST_NAMES]] + ["..."] * (len(names) > _MOST_NAMES)
    return f"{text} ({', '.join(some)})" if names else text


def shown(name: str) -> str:
    """A file's name for a message: bytes that are no UTF-8 as `\\xe9`, line breaks as `\\n`, not too long."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _MOST_LETTERS else f"...{text[-_MOST_LETTERS:]}"


@dataclass(frozen=True)
class Found:
    """Pictures under a folder, sorted, and what else there was."""

    paths: list[Path]
    left_out: LeftOut


def find_pictures(folder: Path) -> Found:
    """All pictures under a folder that can be decoded here; nothing hidden, no side files.

    Raises:
        DataError: the folder cannot be opened, or holds a link to a folder that it lies in.
    """
    walk = _Walk(folder)
    return Found(sorted(walk.pictures), walk.left_out)


def list_folders(root: Path) -> tuple[dict[str, Path], LeftOut]:
    """Folders in a folder by name, sorted, without hidden ones and side files.

    Raises:
        DataError: the folder cannot be opened, or holds a link to a folder that it lies in.
    """
    folders: dict[str, Path] = {}
    left_out = LeftOut()
    for entry in scan(os.fspath(root)):
        if (why := _aside(entry.name)) is not None:
            left_out.add(why, _side_name(entry.name) if why is Why.SIDE else "")
        elif is_broken(entry):
            left_out.add(Why.BROKEN_LINK, entry.name)
        elif entry.is_dir():
            if entry.is_symlink():
                _refuse_cycle(entry.path)
            folders[entry.name] = root / entry.name
        elif os.path.splitext(entry.name)[1].lower() in picture_suffixes():  # noqa: PTH122  (a thousand files)
            left_out.add(Why.NO_FOLDER, "")
    return folders, left_out


def is_cycle(link: str) -> bool:
    """Whether a link leads to a folder that it lies in."""
    place = Path(os.path.abspath(link)).parent  # noqa: PTH100  (Path.resolve would follow the link)
    above = {path for start in (place, place.resolve()) for path in (start, *start.parents)}
    target = identity(link)
    return any(identity(os.fspath(path)) == target for path in above)


def _refuse_cycle(link: str) -> None:
    if is_cycle(link):
        raise DataError(f"{shown(link)}: a link to a folder that it lies in; remove it")


class _Walk:
    """Reads a folder and all below it, one after the other: folders may be nested as deep as names allow."""

    def __init__(self, root: Path):
        self.pictures: list[Path] = []
        self.left_out = LeftOut()
        self._root = os.fspath(root)
        self._seen: set[tuple[int, int] | None] = set()
        self._folders = deque([(self._root, "")])  # paths, and the side folder that they lie in
        self._links: deque[str] = deque()
        self._read(*self._folders.popleft(), scan(self._root))
        while self._folders or self._links:
            if not self._folders:
                self._follow(self._links.popleft())
                continue
            path, side = self._folders.popleft()
            try:
                entries = scan(path)
            except DataError:
                if not side:
                    self.left_out.add(Why.CLOSED, self._name(path))
                continue
            self._read(path, side, entries)

    def _follow(self, link: str) -> None:
        _refuse_cycle(link)
        if identity(link) in self._seen:
            self.left_out.add(Why.REPEATED, self._name(link))
        else:
            self._folders.append((link, ""))

    def _read(self, path: str, side: str, entries: list[os.DirEntry[str]]) -> None:
        self._seen.add(identity(path))
        for entry in entries:
            if side:
                self._count_side(entry, side)
            else:
                self._take(entry)

    def _count_side(self, entry: os.DirEntry[str], side: str) -> None:
        if entry.is_dir(follow_symlinks=False):
            self._folders.append((entry.path, side))
        else:
            self.left_out.add(Why.SIDE, side)

    def _take(self, entry: os.DirEntry[str]) -> None:
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  (twice as fast as Path)
        if (why := _aside(entry.name)) is not None:
            if why is Why.SIDE and entry.is_dir(follow_symlinks=False):
                self._folders.append((entry.path, entry.name))
            else:
                self.left_out.add(why, _side_name(entry.name) if why is Why.SIDE else "")
        elif is_broken(entry):
            self.left_out.add(Why.BROKEN_LINK, self._name(entry.path))
        elif entry.is_dir():
            if entry.is_symlink():
                self._links.append(entry.path)
            else:
                self._folders.append((entry.path, ""))
        elif not entry.is_file():
            self.left_out.add(Why.NO_FILE, self._name(entry.path))
        elif can_decode(suffix):
            self.pictures.append(Path(entry.path))
        elif suffix in picture_suffixes():
            self.left_out.add(Why.NO_DECODER, suffix)
        else:
            self.left_out.add(Why.OTHER, suffix or "no suffix")

    def _name(self, path: str) -> str:
        return os.path.relpath(path, self._root)


def scan(path: str) -> list[os.DirEntry[str]]:
    """List a folder, sorted by name.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be opened ({error.strerror})") from None


def _aside(name: str) -> Why | None:
    """Whether a file or folder is left out for its name."""
    folded = name.casefold()
    if folded in _SIDE_FOLDERS or folded in _SIDE_FILES or name.startswith(_SIDE_PREFIX):
        return Why.SIDE
    return Why.HIDDEN if name.startswith(".") else None


def _side_name(name: str) -> str:
    return f"{_SIDE_PREFIX}*" if name.startswith(_SIDE_PREFIX) else name


def is_broken(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link to nothing, or to itself."""
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110  (an entry is no Path)


def identity(path: str) -> tuple[int, int] | None:
    """Device and number of a file or folder, equal for all its names; None without one."""
    try:
        found = os.stat(path)  # noqa: PTH116  (an entry is no Path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
