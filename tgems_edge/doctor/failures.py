"""Explanations of failures of the probe, with their fixes."""

from __future__ import annotations

import signal
import sys
import sysconfig

from tgems_edge.doctor.probe import Failure, Runtime
from tgems_edge.machine import Machine

__all__ = ["LESS_MEMORY", "another_version", "explain"]

ACTIONS = {
    "numpy": "importing numpy",
    "model": "reading the model",
    "onnxruntime": "importing onnxruntime",
    "load": "loading the model",
    "run": "running the model",
}
SIGNALS: dict[int, str] = {
    signal.SIGILL: "an illegal instruction",
    signal.SIGSEGV: "a segmentation fault",
    signal.SIGABRT: "an abort",
    signal.SIGFPE: "a division by zero",
}
KILLED = 9  # SIGKILL, which Python on Windows does not define
# Windows ends a process with an exit code where other systems use a signal.
WINDOWS_SIGNALS = {0xC000001D: signal.SIGILL, 0xC0000005: signal.SIGSEGV, 0xC0000409: signal.SIGABRT}

# Fixes by words in the error or the output of a process; the numbers are issues of onnxruntime.
HINTS = {
    "NumPy 1.x": "pip install 'numpy<2', or onnxruntime 1.19 or later",  # 21063
    "_ARRAY_API": "pip install 'numpy<2', or onnxruntime 1.19 or later",
    "GLIBC": "this build is for a newer system: update the system, or install an older onnxruntime",
    "executable stack": "install a newer onnxruntime",
    "libcu": "install the CUDA version that this build needs, or pip install 'tgems-edge[cpu]' instead",
    "stl_vector.h": "enable all cores (on a Jetson: sudo nvpmodel -m 0), or install another version",  # 24221
    "list of possible processors": "make /sys/devices/system/cpu visible here",  # 10038
    "No module named": "install the missing package: pip install --force-reinstall 'tgems-edge[cpu]'",
}
# Fixes for versions that a signal ends; the numbers are issues of onnxruntime.
SET_VARIABLE = "set ORT_DISABLE_TELEMETRY=1, which this version needs where there is no shell"
KNOWN_CRASHES: dict[tuple[str | None, int], str] = {("1.29.0", signal.SIGSEGV): SET_VARIABLE}  # 32173, 32501

LESS_MEMORY = "end other programs, or export it with --precision int8 or an earlier --layer"


def explain(failure: Failure, machine: Machine, runtime: Runtime) -> tuple[str, str]:
    """Return what went wrong and the fix."""
    action = ACTIONS[failure.step]
    last_line = failure.message.splitlines()[-1][:300] if failure.message else ""
    if failure.kind == "advice":  # our own errors name the fault, then the fix
        what, _, fix = failure.message.rpartition("; ")
        return what, fix
    if failure.kind == "time":
        return f"{action} did not finish", _fix(failure, runtime)
    if failure.kind == "exception":
        missing = failure.step == "onnxruntime" and not runtime.packages
        fix = _how_to_install(machine) if missing else _fix(failure, runtime)
        return f"{action} failed ({last_line})", fix
    signal_number = _signal(failure)
    if signal_number == KILLED:
        return f"{action} was killed; systems do this when memory runs out", LESS_MEMORY
    code = f"signal {signal_number}" if signal_number > 0 else f"exit code {-signal_number}"
    cause = SIGNALS.get(signal_number, code)
    what = f"{action} crashed with {cause}" + (f" ({last_line})" if last_line else "")
    return what, _fix(failure, runtime)


def _signal(failure: Failure) -> int:
    """Return the signal that ended a process; without a signal, its exit code as a negative number."""
    code = int(failure.reason)
    return WINDOWS_SIGNALS.get(code, -code)


def _fix(failure: Failure, runtime: Runtime) -> str:
    """Return the best known fix of a failure."""
    for words, fix in HINTS.items():
        if words in failure.message:
            return fix
    if failure.kind == "death" and (runtime.version, _signal(failure)) in KNOWN_CRASHES:
        return KNOWN_CRASHES[runtime.version, _signal(failure)]
    if failure.step == "numpy":
        return "install it again: pip install --force-reinstall numpy"
    if failure.step == "model":
        return "export or copy it again"
    return another_version(runtime)


def another_version(runtime: Runtime) -> str:
    """Return the fix for a version of onnxruntime that does not work here."""
    package = runtime.packages[0].split()[0] if runtime.packages else "onnxruntime"
    other = f"!={runtime.version}" if runtime.version else ""
    return f"install another version: pip install '{package}{other}'"


def _how_to_install(machine: Machine) -> str:
    if sys.maxsize < 2**32:
        return "install a 64-bit system: there are no packages of onnxruntime for 32 bits"
    if "musl" in str(sysconfig.get_config_var("SOABI")):
        return "use a system with glibc, such as Debian, or Alpine's own package: pip has none for musl"
    if "Jetson" in machine.system:
        return "install NVIDIA's own onnxruntime-gpu for this JetPack, or pip install 'tgems-edge[cpu]'"
    return "pip install 'tgems-edge[cpu]', or [gpu]"
