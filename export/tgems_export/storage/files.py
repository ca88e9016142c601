"""Files appear whole or not at all, and a cached one is used only while it holds what was written."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["read_checked", "write_atomically", "write_checked"]

SUFFIX = ".tgems.part"  # of files that are being written
DIGEST = hashlib.sha256().digest_size


def write_atomically(path: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Writes beside `path` and then takes its place.

    A reader sees the old file or the new one, never a part; a writer that dies leaves the old one. Of two
    writers that may not overwrite, one wins. What writers that died left in the folder is removed.

    Args:
        path: the file; its folder is made.
        content: all of it.
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: a file is there, or was made meanwhile, and is not to be replaced.
        OSError: no space, or no permission; what was there before still is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        with _temporary_beside(path) as temporary:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            if not overwrite:
                _claim(path, temporary)
            else:
                temporary.replace(path)
    except OSError as error:  # says the name of a file that has gone
        reason = error.strerror
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"not enough disk for {len(content) / 1e6:.0f} MB; free some, or write elsewhere"
        raise OSError(error.errno, reason, str(path)) from None


def write_checked(path: Path, content: bytes) -> None:
    """Writes a file for `read_checked`: a SHA-256, and then what it is of."""
    write_atomically(path, hashlib.sha256(content).digest() + content)


def read_checked(path: Path) -> bytes | None:
    """Read what `write_checked` wrote; None if there is no such file, or if it holds anything else now."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, content = whole[:DIGEST], whole[DIGEST:]
    return content if hashlib.sha256(content).digest() == digest else None


def _claim(path: Path, temporary: Path) -> None:
    """Gives a file its name, which must be free: nobody else can take it in between."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        path.touch(exist_ok=False)
        temporary.replace(path)


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, locked as long as its process lives; it is gone in the end."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=SUFFIX)
        if sys.platform == "win32":
            break
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            break
        os.close(handle)  # another process took it for abandoned before it was locked
    if sys.platform == "win32":
        os.close(handle)  # an open file could not be renamed there
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        if sys.platform != "win32":
            os.close(handle)


def _remove_abandoned(folder: Path) -> None:
    """Removes what dead processes were writing: a living one holds the lock of its file."""
    if sys.platform == "win32":
        return  # nothing says whose a file is
    for part in folder.glob(f".*{SUFFIX}"):
        with suppress(OSError):
            handle = os.open(part, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink(missing_ok=True)
            finally:
                os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
