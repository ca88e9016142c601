"""Versions of packages, and the machine, with which something was made."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

__all__ = ["processor", "versions"]


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
