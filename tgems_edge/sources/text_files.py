"""Text files that others wrote: read whole, so they must end, and be of a size to be read."""

from __future__ import annotations

import errno
from pathlib import Path

__all__ = ["LARGEST_TEXT", "read_text", "refuse_special_file"]

LARGEST_TEXT = 64_000_000  # bytes; a million class names have a quarter of it


def refuse_special_file(path: Path) -> None:
    """Raises OSError for a folder, a device or a pipe, which may have no end; not for a missing file."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise OSError(errno.EINVAL, f"{kind}, not a file; give a file", str(path))


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file.

    Raises:
        OSError: no such file, no plain one, or larger than any list or configuration; it says what to do.
        UnicodeDecodeError: not in this encoding.
    """
    refuse_special_file(path)
    if path.stat().st_size > LARGEST_TEXT:
        reason = f"more than {LARGEST_TEXT / 1e6:.0f} MB, too large for a list or a configuration; shorten it"
        raise OSError(errno.EFBIG, reason, str(path))
    return path.read_text(encoding=encoding)
