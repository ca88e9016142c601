"""Files that match a glob such as `photos/**/*.jpg`.

Python's own `glob` reads a tree again for each `**`, names files several times, and follows links in circles.
Here a folder is read once: a set of places in the pattern says what may follow, as when a regular expression
is matched without going back.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import deque
from pathlib import Path

from tgems_edge.errors import DataError
from tgems_edge.sources.folders import LeftOut, Why, identity, is_broken, is_cycle, scan

__all__ = ["find_matches"]

_ANY_FOLDERS = "**"


def find_matches(pattern: str) -> tuple[list[str], LeftOut]:
    """Files that match a glob, sorted; `**` stands for any folders, and hidden names match only a dot.

    Where there is a `**`, links to folders are followed once, and never up. Devices, pipes, sockets and
    broken links are left out.
    """
    parts = re.split(f"[{re.escape(os.sep + (os.altsep or ''))}]", pattern)
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    head = pattern[: sum(len(part) + 1 for part in parts[:fixed])]
    steps: list[str] = []
    for step in Path(os.path.normpath(pattern[len(head) :])).parts:
        if not (step == _ANY_FOLDERS and steps[-1:] == [_ANY_FOLDERS]):
            steps.append(step)
    return _Matcher(steps).find(head)


class _Matcher:
    """Reads folders along a pattern; places are indices of the steps that may match next."""

    def __init__(self, steps: list[str]):
        self._steps = steps
        self._end = len(steps)
        self._crosses = _ANY_FOLDERS in steps
        self._files: set[str] = set()
        self._left_out = LeftOut()
        self._seen: set[tuple[tuple[int, int] | None, frozenset[int]]] = set()
        self._folders: list[tuple[str, frozenset[int]]] = []
        self._links: deque[tuple[str, frozenset[int]]] = deque()

    def find(self, head: str) -> tuple[list[str], LeftOut]:
        """All matches below `head`, which ends with a separator or is empty."""
        self._folders.append((head, self._reach({0})))
        while self._folders or self._links:
            if self._folders:
                self._read(*self._folders.pop())
                continue
            link, places = self._links.popleft()  # after all real folders, whose names are the better ones
            if (identity(link), places) not in self._seen and not is_cycle(link):
                self._folders.append((link + os.sep, places))
        return sorted(self._files), self._left_out

    def _read(self, folder: str, places: frozenset[int]) -> None:
        try:
            entries = scan(folder or os.curdir)
        except DataError:
            if os.path.isdir(folder):  # noqa: PTH112  (text all along: Path would drop a leading ./)
                self._left_out.add(Why.CLOSED, folder)
            return
        if self._crosses:
            self._seen.add((identity(folder or os.curdir), places))
        for entry in entries:
            after = self._step(entry.name, places)
            path = folder + entry.name
            if self._end in after:
                self._take(entry, path)
            reached = self._reach(after)
            if any(place < self._end for place in reached) and entry.is_dir():
                if self._crosses and entry.is_symlink():
                    self._links.append((path, reached))
                else:
                    self._folders.append((path + os.sep, reached))

    def _take(self, entry: os.DirEntry[str], path: str) -> None:
        if is_broken(entry):
            self._left_out.add(Why.BROKEN_LINK, path)
        elif entry.is_file():
            self._files.add(path)
        elif not entry.is_dir():
            self._left_out.add(Why.NO_FILE, path)

    def _step(self, name: str, places: frozenset[int]) -> set[int]:
        """Return where the pattern may go on behind a file or folder of this name."""
        after = set()
        for place in places:
            if place == self._end:
                continue
            step = self._steps[place]
            if name.startswith(".") and not step.startswith("."):
                continue
            if step == _ANY_FOLDERS:
                after.add(place)
                if place == self._end - 1:  # here, and only here, it stands for files as well
                    after.add(self._end)
            elif fnmatch.fnmatch(name, step):
                after.add(place + 1)
        return after

    def _reach(self, places: set[int]) -> frozenset[int]:
        """`**` may stand for no folder at all."""
        for place in range(self._end):
            if place in places and self._steps[place] == _ANY_FOLDERS:
                places.add(place + 1)
        return frozenset(places)
