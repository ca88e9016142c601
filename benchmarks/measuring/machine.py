"""The machine that measures, and what suits it."""

from __future__ import annotations

import os
import platform
import sys
from typing import Literal

from tgems_export.provenance import processor, versions

__all__ = ["Target", "describe_machine", "installed_versions", "int8_target", "refuse_thread_limit"]

Target = Literal["generic", "x86-vnni", "arm64"]
PACKAGES = ("torch", "open_clip_torch", "onnxruntime", "numpy", "Pillow", "typer")


def describe_machine() -> dict[str, object]:
    """Return processor and number of cores."""
    return {"processor": processor(), "cores": os.cpu_count()}


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide how fast and how right results are."""
    return {"Python": platform.python_version(), **versions(*PACKAGES)}


def int8_target() -> Target:
    """Return the target of `export --precision int8` that suits this processor."""
    from tgems_edge.machine import describe  # loads more than a benchmark of memory may

    machine = describe()
    if machine.architecture == "aarch64":
        return "arm64"
    return "x86-vnni" if any("vnni" in feature for feature in machine.features) else "generic"


def refuse_thread_limit() -> None:
    """End the program where OMP_NUM_THREADS is set: runtimes would not take the threads they are told."""
    if "OMP_NUM_THREADS" in os.environ:
        sys.exit("OMP_NUM_THREADS is set, so runtimes ignore the number of threads asked for; unset it")
