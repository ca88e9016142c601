"""With what, and on which machine, something was made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

__all__ = ["made_with", "processor", "versions"]


def versions(*distributions: str) -> dict[str, str]:
    """Installed versions, our own first."""
    return {name: importlib.metadata.version(name) for name in ("tgems-edge", *distributions)}


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def made_with(*distributions: str) -> str:
    """A sentence for the end of a report."""
    found = ", ".join(f"{name} {version}" for name, version in versions(*distributions).items())
    return (
        f"Made with {found}, Python {platform.python_version()}, on {os.cpu_count()} cores of {processor()}."
    )
