"""Processes that we start: they import what we import, and end when we do."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["child_command", "end_with", "start_child"]

PR_SET_PDEATHSIG = 1  # as in sys/prctl.h

# `python -m` would import from the current folder first, where anybody may have put a numpy.py.
START = """
import json, runpy, sys
sys.path[:] = json.loads(sys.argv.pop(1))
parent, module = int(sys.argv.pop(1)), sys.argv.pop(1)
from tgems_edge.children import end_with
end_with(parent)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours as `python -m` does, but imports from where this process does.

    Isolated Python alone would not do: it finds nothing that `pip install --user` or PYTHONPATH brought.
    """
    package = str(Path(__file__).parents[1])
    paths = [os.path.abspath(path) for path in sys.path if path]  # noqa: PTH100  ("" is the current folder)
    paths += [package] if package not in paths else []
    return [sys.executable, "-I", "-c", START, json.dumps(paths), str(os.getpid()), module, *arguments]


@contextmanager
def start_child(module: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Runs a module of ours in a process that is ended when this is left by an exception, such as Ctrl-C.

    Args:
        module: its name.
        arguments: of its command line.
        options: of `subprocess.Popen`.
    """
    with subprocess.Popen(child_command(module, *arguments), **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def end_with(parent: int) -> None:
    """Has this process killed when the one that started it ends, however that ends; on Linux only.

    Args:
        parent: process id of the one that started it; where that is this process itself, nothing happens.
    """
    if sys.platform != "linux" or parent == os.getpid():
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)
