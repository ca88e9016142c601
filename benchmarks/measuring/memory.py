"""Peak memory of a process of its own, and work that gives its memory back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

__all__ = ["PROCESSES", "in_own_process", "peak_of_file", "peak_of_program"]

Result = TypeVar("Result")

PROCESSES = 3  # the system may take pages back meanwhile, so the most of several counts

# Not what wait4 says: that counts the memory of the parent, from which the child was forked.
PRINT_PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
RUN_FILE = """
import sys
from pathlib import Path
import numpy as np
from tgems_edge.runtime.session import open_session
session = open_session(Path(sys.argv[1]), threads=1)
value = session.get_inputs()[0]
kind = np.uint8 if value.type == "tensor(uint8)" else np.float32
session.run(None, {value.name: np.zeros([1, *value.shape[1:]], kind)})
"""


def peak_of_program(program: str, *arguments: object) -> float:
    """Run Python source in a new process and return the peak of its resident memory in megabytes."""
    command = [sys.executable, "-c", program + PRINT_PEAK, *map(str, arguments)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(run.stdout.split()[-1]) / 1024


def peak_of_file(path: Path) -> float:
    """Megabytes of a process that opens a file with one thread and runs it on one picture."""
    return max(peak_of_program(RUN_FILE, path) for _ in range(PROCESSES))


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a new process, so that all of its memory is given back."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
