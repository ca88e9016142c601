"""Whether the output of long work can be written; asked before the work, not after it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tgems_edge.errors import InputError

__all__ = ["check_output_file", "check_output_folder"]


def check_output_file(path: Path, *, overwrite: bool, option: str = "--output") -> None:
    """Check that a file can be written; its folder may be missing.

    Raises:
        InputError: it exists and is not to be replaced, it is a folder or a device, or it cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; give {option} a file name, such as {path / 'model.onnx'}")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: a device or a pipe, not a file; give another {option}")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; give --overwrite or another {option}")
    _check_parent(path.parent, path, option)


def check_output_folder(path: Path, *, option: str = "--out") -> None:
    """Check that files can be written to a folder, which may be missing.

    Raises:
        InputError: it is a file, or nothing can be written there.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: a file, not a folder; give another {option}")
    _check_parent(path, path, option)


def _check_parent(folder: Path, output: Path, option: str) -> None:
    """Write a file without a name to the folder, or to the nearest one that exists."""
    existing = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if not existing.is_dir():
        raise InputError(f"{output}: {existing} is a file, not a folder; give another {option}")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}); give another {option}") from None
