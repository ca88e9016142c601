"""The cache of what is expensive to compute, and a substitute where nothing can be kept."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tgems_edge.errors import InputError

if TYPE_CHECKING:
    from tgems_edge.progress import Reporter

__all__ = ["cache_root", "give_home", "usable_cache"]

PROBE = 64 * 1024  # bytes that a disk with any room takes


def cache_root() -> Path:
    """Return `$TGEMS_CACHE_DIR`, else `$XDG_CACHE_HOME/tgems-edge`, else `~/.cache/tgems-edge`.

    Raises:
        InputError: the user has no home folder, as in a container with a user of its own number.
    """
    if named := os.environ.get("TGEMS_CACHE_DIR"):
        return Path(named)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "tgems-edge"
    home = _home()
    if home is None:
        raise InputError("this user has no home folder; set TGEMS_CACHE_DIR to a folder to keep features in")
    return home / ".cache" / "tgems-edge"


def usable_cache(reporter: Reporter) -> Path:
    """Return `cache_root()`, or a temporary folder where that cannot be written.

    The temporary folder is the same for the whole process and removed at its end; a warning says so once.
    """
    try:
        root = cache_root()
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as probe:
            probe.write(bytes(PROBE))
        return root
    except InputError as error:
        reason = str(error)
    except OSError as error:
        said = error.strerror or error
        reason = f"{root}: no cache here ({said}); set TGEMS_CACHE_DIR to a folder that can be written"
    if not _is_warned(reason):
        reporter.warn(f"{reason}. Until then what is computed is lost when this ends")
    return _temporary()


def give_home() -> None:
    """Give libraries a temporary home where the user has none; they would fail, or write to a folder `~`."""
    if _home() is None:
        os.environ["HOME"] = str(_temporary())


def _home() -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return None if _temporary.cache_info().currsize and home == _temporary() else home


@cache
def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="tgems-edge-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


_warned: set[str] = set()


def _is_warned(reason: str) -> bool:
    """Whether that was said before; from now on it was."""
    known = reason in _warned
    _warned.add(reason)
    return known
