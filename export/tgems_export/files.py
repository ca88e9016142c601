"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path` and then takes its place.

    A reader sees the old file or the new one, never a part; a writer that dies leaves the old one.

    Raises:
        OSError: no space, or no permission; the old file is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:  # of a file that has no name yet
        reason = error.strerror
        if error.errno == errno.ENOSPC:
            reason = f"not enough disk for {len(content) / 1e6:.0f} MB; free some, or write elsewhere"
        raise OSError(error.errno, reason, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
