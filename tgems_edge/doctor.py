"""Whether a machine is fit to run a model file, and what to do where it is not.

What the machine is and how it is doing is read (`tgems_edge.machine`), what might crash is tried in another
process (`tgems_edge.probe`), and the checks below turn both into sentences.

What IR versions and opsets an onnxruntime takes is not in a table here, which would be out of date with its
next version: the installed one is asked by loading the file, and its refusal names the newest it takes.
"""

from __future__ import annotations

import platform
import re
import signal
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tgems_edge.machine import Conditions, Machine, describe, observe
from tgems_edge.probe import Failure, Runtime, try_runtime

__all__ = ["Check", "Examination", "check", "examine"]

OLDEST = (1, 17)  # onnxruntime that the package is tested with
HOT = 80  # degrees at which a Raspberry Pi slows down; others do a little later

# Processor features that multiply INT8 without a detour over 16 bits.
VNNI = {"avx_vnni", "avx512_vnni", "amx_int8"}
DOT_PRODUCT = "asimddp"

EIGHT_BITS = {"x86-vnni", "arm64", "tensorrt"}  # targets whose weights use all bits
UNSIGNED = {"x86-vnni", "x86"}  # targets whose activations are unsigned

CHOOSE_TARGET = "export it again with --target {}, or --target generic"
ANOTHER_RUNTIME = "install another version: pip install 'onnxruntime!={}'"

# What words in an error or in the last words of a process mean; see the issues of onnxruntime in brackets.
HINTS = {
    "NumPy 1.x": "pip install 'numpy<2', or onnxruntime 1.19 or later",  # 21063
    "_ARRAY_API": "pip install 'numpy<2', or onnxruntime 1.19 or later",
    "GLIBC": "this build is for a newer system: update the system, or install an older onnxruntime",
    "executable stack": "install a newer onnxruntime",
    "libcu": "install the CUDA this build asks for, or pip install 'tgems-edge[cpu]' in its place",
    "stl_vector.h": "switch all cores on (on a Jetson: sudo nvpmodel -m 0), or install another version",  # 24221
    "list of possible processors": "make /sys/devices/system/cpu visible here",  # 10038
}

DEATHS = {
    signal.SIGILL: "an illegal instruction",
    signal.SIGSEGV: "a segmentation fault",
    signal.SIGABRT: "an abort",
    signal.SIGFPE: "a division by zero",
}
KILLED = 9
# Windows has exit codes instead.
WINDOWS_DEATHS = {0xC000001D: signal.SIGILL, 0xC0000005: signal.SIGSEGV, 0xC0000409: signal.SIGABRT}

STEPS = {
    "numpy": "importing numpy",
    "model": "reading the model",
    "onnxruntime": "importing onnxruntime",
    "load": "loading the model",
    "run": "running the model",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    what: str  # was found
    fix: str | None = None  # None: nothing is wrong


@dataclass(frozen=True)
class Examination:
    """Everything that was found out."""

    machine: Machine
    conditions: Conditions
    runtime: Runtime
    checks: tuple[Check, ...]

    @property
    def findings(self) -> list[Check]:
        """The checks that found something wrong."""
        return [check for check in self.checks if check.fix]


def examine(model: Path | None = None) -> Examination:
    """Looks at this machine, and tries its onnxruntime on a model.

    Args:
        model: the file; default as for every command.
    """
    machine, conditions, runtime = describe(), observe(), try_runtime(model)
    return Examination(machine, conditions, runtime, tuple(check(machine, conditions, runtime)))


def check(machine: Machine, conditions: Conditions, runtime: Runtime) -> Iterator[Check]:
    """What this means, one line for each thing."""
    yield _system(machine)
    yield _processor(machine)
    yield from chain(
        _onnxruntime(machine, runtime),
        _model(runtime),
        _int8(machine, runtime),
        _fp16(machine, runtime),
        _providers(runtime),
        _threads(machine, runtime),
        _memory(machine, conditions, runtime),
        _clock(machine, conditions),
        _throttling(conditions),
        _temperature(conditions),
    )


def _system(machine: Machine) -> Check:
    python = f"Python {platform.python_version()}, {_bits()} bits"
    return Check("system", ", ".join(filter(None, (machine.board, machine.system, python))))


def _bits() -> int:
    return 64 if sys.maxsize > 2**32 else 32


def _processor(machine: Machine) -> Check:
    name = machine.processor or machine.architecture
    cores = f"{machine.cores} cores" if machine.cores == machine.threads else (
        f"{machine.cores} cores, {machine.threads} threads"
    )
    return Check("processor", f"{name}, {cores}: {' '.join(machine.features) or 'features not shown'}")


def _onnxruntime(machine: Machine, runtime: Runtime) -> Iterator[Check]:
    """That it can be imported, and is none that is known to be bad."""
    for failure in runtime.failures:
        if failure.step in ("numpy", "onnxruntime"):
            yield _explain(failure, machine, runtime)
    if len(runtime.packages) > 1:
        names = [package.split()[0] for package in runtime.packages]
        yield Check(
            "onnxruntime",
            f"{' and '.join(names)} are installed over each other",
            f"pip uninstall -y {' '.join(names)}, then install the one you want",
        )
    version = runtime.onnxruntime
    if version is None:
        return
    if _parse(version) < OLDEST:
        yield Check(
            "onnxruntime",
            f"{version} is older than the oldest this package is tested with",
            f"install {'.'.join(map(str, OLDEST))} or later",
        )
    elif _parse(version) == (1, 21, 0) and machine.architecture == "aarch64":  # onnxruntime#23957, #24112
        yield Check(
            "onnxruntime",
            f"{version} dies of an illegal instruction on a Raspberry Pi 4 and other older ARM processors",
            ANOTHER_RUNTIME.format(version),
        )
    else:
        yield Check("onnxruntime", version)


def _parse(version: str) -> tuple[int, ...]:
    """(1, 21, 0) of "1.21.0+cu126"."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def _explain(failure: Failure, machine: Machine, runtime: Runtime) -> Check:
    """What a step died of, and the fix."""
    name = "model" if failure.step in ("model", "load", "run") else failure.step
    doing = STEPS[failure.step]
    last_words = failure.message.splitlines()[-1][:300] if failure.message else ""
    hint = next((fix for words, fix in HINTS.items() if words in failure.message), None)
    if failure.kind == "advice":  # our errors say first what was wrong, then what to do
        what, _, fix = failure.message.rpartition("; ")
        return Check(name, what, fix)
    if failure.kind == "time":
        return Check(name, f"{doing} came to no end", "try it again; if it hangs each time, install it again")
    if failure.kind == "exception":
        if failure.reason == "ModuleNotFoundError" and failure.step == "onnxruntime":
            return Check(name, f"cannot be imported ({last_words})", hint or _how_to_install(machine))
        return Check(name, f"{doing} failed: {last_words}", hint or _another(failure, runtime))
    code = int(failure.reason)
    died_of = WINDOWS_DEATHS.get(code, -code)
    if died_of == KILLED:
        return Check(
            name,
            f"{doing} was killed, as the system does when memory runs out",
            "end other programs, or export with --precision int8 or an earlier --layer",
        )
    death = DEATHS.get(died_of, f"signal {died_of}" if code < 0 else f"exit code {code}")
    what = f"{doing} died of {death}" + (f" ({last_words})" if last_words else "")
    return Check(name, what, hint or _another(failure, runtime))


def _another(failure: Failure, runtime: Runtime) -> str:
    """Another version of what failed."""
    if failure.step == "numpy":
        return "install another version of numpy: pip install --force-reinstall numpy"
    return ANOTHER_RUNTIME
