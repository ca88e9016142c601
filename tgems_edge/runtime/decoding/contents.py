"""The bytes of a picture file: from a path, from memory or from an open file, no more than may be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from tgems_edge.errors import ImageError
from tgems_edge.runtime.decoding.limits import FILES, Limits

__all__ = ["Source", "file_bytes", "source_name"]

Source = str | os.PathLike[Any] | bytes | bytearray | memoryview | BinaryIO

_AT_ONCE = 2**20


def source_name(source: object) -> str:
    """Return the name of a picture in a message."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    name = getattr(source, "name", None)
    return "standard input" if name == "<stdin>" else "the picture"


@contextmanager
def file_bytes(source: Source, limits: Limits) -> Iterator[bytes]:
    """The whole content of a picture file; meanwhile its bytes count as held.

    Raises:
        ImageError: missing, not a regular file, too large, empty, or a source of another type.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        limits.check_bytes(len(data))
        yield _not_empty(data)
    elif isinstance(source, str | os.PathLike):
        with _open(source) as file:
            size = os.fstat(file.fileno()).st_size
            limits.check_bytes(size)
            with FILES.hold(size, limits.file_bytes):
                yield _not_empty(_read(file, limits))
    elif callable(getattr(source, "read", None)):
        data = _read(source, limits)
        with FILES.hold(len(data), limits.file_bytes):
            yield _not_empty(data)
    else:
        raise ImageError(
            f"{_kind(source)} is not a picture; give a path, the bytes of a file, an open binary file, a "
            "Pillow image or a uint8 array"
        )


def _open(path: str | os.PathLike[Any]) -> BinaryIO:
    if stat.S_ISDIR(_mode(path)):
        raise ImageError("a folder, not a picture")
    try:
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
        file = os.fdopen(os.open(path, os.O_RDONLY | _NONBLOCK), "rb")
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no file can have
        raise ImageError("no such file") from None
    except OSError as error:
        if stat.S_ISSOCK(_mode(path)):
            raise ImageError(_NOT_A_FILE) from None
        raise ImageError(f"cannot be opened ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ImageError(_NOT_A_FILE)
    return file


_NONBLOCK = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NOT_A_FILE = "a device, a pipe or a socket, not a file; give - for standard input"


def _mode(path: str | os.PathLike[Any]) -> int:
    try:
        return os.stat(path).st_mode  # noqa: PTH116  (any path-like)
    except OSError:
        return 0


def _read(file: Any, limits: Limits) -> bytes:
    """Reads to the end: an open file may give a little at a time, and standard input may never end."""
    parts: list[bytes] = []
    count = 0
    try:
        while part := file.read(_AT_ONCE):
            if not isinstance(part, bytes):
                raise ImageError(f"{_kind(file)} gives text; open it as binary, with mode 'rb'")
            parts.append(part)
            count += len(part)
            limits.check_bytes(count)
    except (OSError, ValueError) as error:  # ValueError: a closed file
        raise ImageError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return b"".join(parts)


def _not_empty(data: bytes) -> bytes:
    if not data:
        raise ImageError("the file is empty (0 bytes); copy it again")
    return data


def _kind(source: object) -> str:
    return f"an object of type {type(source).__name__}"
