"""What the end of a trial means, and what to do about it."""

from __future__ import annotations

import signal
import sys
import sysconfig

from tgems_edge.doctor.probe import Failure, Runtime
from tgems_edge.machine import Machine

__all__ = ["LESS_MEMORY", "another_version", "explain"]

DOING = {
    "numpy": "importing numpy",
    "model": "reading the model",
    "onnxruntime": "importing onnxruntime",
    "load": "loading the model",
    "run": "running the model",
}
DEATHS: dict[int, str] = {
    signal.SIGILL: "an illegal instruction",
    signal.SIGSEGV: "a segmentation fault",
    signal.SIGABRT: "an abort",
    signal.SIGFPE: "a division by zero",
}
KILLED = 9  # a signal that Windows has no name for
# Windows has exit codes where others have signals.
WINDOWS_DEATHS = {0xC000001D: signal.SIGILL, 0xC0000005: signal.SIGSEGV, 0xC0000409: signal.SIGABRT}

# Fixes for what an error or the last words of a process say; the numbers are issues of onnxruntime.
HINTS = {
    "NumPy 1.x": "pip install 'numpy<2', or onnxruntime 1.19 or later",  # 21063
    "_ARRAY_API": "pip install 'numpy<2', or onnxruntime 1.19 or later",
    "GLIBC": "this build is for a newer system: update the system, or install an older onnxruntime",
    "executable stack": "install a newer onnxruntime",
    "libcu": "install the CUDA that this build asks for, or pip install 'tgems-edge[cpu]' in its place",
    "stl_vector.h": "switch all cores on (a Jetson: sudo nvpmodel -m 0), or install another version",  # 24221
    "list of possible processors": "make /sys/devices/system/cpu visible here",  # 10038
    "No module named": "install what is missing: pip install --force-reinstall 'tgems-edge[cpu]'",
}
# Fixes for versions that die of a signal; again with the issues.
SET_VARIABLE = "set ORT_DISABLE_TELEMETRY=1, which this version needs where there is no shell"
KNOWN_DEATHS: dict[tuple[str | None, int], str] = {("1.29.0", signal.SIGSEGV): SET_VARIABLE}  # 32173, 32501

LESS_MEMORY = "end other programs, or export it with --precision int8 or an earlier --layer"


def explain(failure: Failure, machine: Machine, runtime: Runtime) -> tuple[str, str]:
    """What went wrong, and the fix."""
    doing = DOING[failure.step]
    last_words = failure.message.splitlines()[-1][:300] if failure.message else ""
    if failure.kind == "advice":  # our own errors say what was wrong, then what to do
        what, _, fix = failure.message.rpartition("; ")
        return what, fix
    if failure.kind == "time":
        return f"{doing} did not come to an end", _fix(failure, runtime)
    if failure.kind == "exception":
        missing = failure.step == "onnxruntime" and not runtime.packages
        fix = _how_to_install(machine) if missing else _fix(failure, runtime)
        return f"{doing} failed ({last_words})", fix
    death = _death(failure)
    if death == KILLED:
        return f"{doing} was killed, as the system does when memory runs out", LESS_MEMORY
    of = DEATHS.get(death, f"signal {death}" if death > 0 else f"exit code {-death}")
    what = f"{doing} died of {of}" + (f" ({last_words})" if last_words else "")
    return what, _fix(failure, runtime)


def _death(failure: Failure) -> int:
    """The signal that ended a process; where none did, its exit code below 0."""
    code = int(failure.reason)
    return WINDOWS_DEATHS.get(code, -code)


def _fix(failure: Failure, runtime: Runtime) -> str:
    """The best that is known to do about a failure."""
    for words, fix in HINTS.items():
        if words in failure.message:
            return fix
    if failure.kind == "death" and (runtime.version, _death(failure)) in KNOWN_DEATHS:
        return KNOWN_DEATHS[runtime.version, _death(failure)]
    if failure.step == "numpy":
        return "install it again: pip install --force-reinstall numpy"
    if failure.step == "model":
        return "export or copy it again"
    return another_version(runtime)


def another_version(runtime: Runtime) -> str:
    """What to do about a version of onnxruntime that does not work here."""
    package = runtime.packages[0].split()[0] if runtime.packages else "onnxruntime"
    other = f"!={runtime.version}" if runtime.version else ""
    return f"install another version: pip install '{package}{other}'"


def _how_to_install(machine: Machine) -> str:
    if sys.maxsize < 2**32:
        return "install a 64-bit system: there are no packages of onnxruntime for 32 bits"
    if "musl" in str(sysconfig.get_config_var("SOABI")):
        return "take a system with glibc, such as Debian, or Alpine's own package: pip has none for musl"
    if "Jetson" in machine.system:
        return "install NVIDIA's own onnxruntime-gpu for this JetPack, or pip install 'tgems-edge[cpu]'"
    return "pip install 'tgems-edge[cpu]', or [gpu]"
