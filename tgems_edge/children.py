"""Child processes: they import from the same places as this process, and end when it does."""

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

# `python -m` would import from the current folder first, where somebody may have put a file numpy.py.
START = """
import json, runpy, sys
sys.path[:] = json.loads(sys.argv.pop(1))
parent, module = int(sys.argv.pop(1)), sys.argv.pop(1)
from tgems_edge.children import end_with
end_with(parent)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def child_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module like `python -m`, with the import paths of this process.

    Isolated mode (`-I`) alone does not suffice: it ignores `pip install --user` and PYTHONPATH.
    """
    package = str(Path(__file__).parents[1])
    paths = [os.path.abspath(path) for path in sys.path if path]  # noqa: PTH100  ("" is the current folder)
    paths += [package] if package not in paths else []
    return [sys.executable, "-I", "-c", START, json.dumps(paths), str(os.getpid()), module, *arguments]


@contextmanager
def start_child(module: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a module in a child process, which is killed if an exception such as Ctrl-C leaves the block.

    Args:
        module: name of the module.
        arguments: arguments of its command line.
        options: options of `subprocess.Popen`.
    """
    with subprocess.Popen(child_command(module, *arguments), **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def end_with(parent: int) -> None:
    """Have the system kill this process when its parent ends for any reason; on Linux only.

    Args:
        parent: process id of the parent; nothing happens if it is this process itself.
    """
    if sys.platform != "linux" or parent == os.getpid():
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the call above
        os._exit(1)
