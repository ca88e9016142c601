"""Checks of a machine, its conditions and its runtime, each with a fix if it found a fault.

There is no table of the IR versions and opsets that each onnxruntime supports: the next version would make it
out of date. The probe loads the file instead, and the error of onnxruntime names the newest it supports.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from tgems_edge.doctor.failures import LESS_MEMORY, another_version, explain
from tgems_edge.doctor.probe import Runtime
from tgems_edge.machine import Conditions, Machine

__all__ = ["Check", "check"]

MODEL_STEPS = ("model", "load", "run")
OLDEST = (1, 17)  # oldest onnxruntime that the package is tested with
HOT = 80  # degrees Celsius, at which a Raspberry Pi slows down; other boards do a little later

# Processor features that multiply INT8 without an intermediate step in 16 bits.
VNNI = {"avx_vnni", "avx512_vnni", "amx_int8"}
DOT_PRODUCT = "asimddp"

EIGHT_BITS = {"x86-vnni", "arm64", "tensorrt"}  # targets whose weights use all bits
UNSIGNED = {"x86-vnni", "x86"}  # targets whose activations are unsigned

STEADY_CLOCK = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"


@dataclass(frozen=True)
class Check:
    """One check and its result."""

    name: str
    what: str  # what was found
    fix: str | None = None  # None if nothing is wrong


def check(machine: Machine, conditions: Conditions, runtime: Runtime) -> Iterator[Check]:
    """Yield all checks of a machine, its conditions and its runtime."""
    return chain(
        _system(machine),
        _onnxruntime(machine, runtime),
        _model(machine, runtime),
        _int8(machine, runtime),
        _fp16(machine, runtime),
        _provider(runtime),
        _threads(machine, runtime),
        _memory(machine, conditions, runtime),
        _clock(machine, conditions),
        _power(conditions),
        _temperature(conditions),
    )


def _system(machine: Machine) -> Iterator[Check]:
    python = f"Python {platform.python_version()}"
    yield Check("system", ", ".join(filter(None, (machine.board, machine.system, python))))
    cores = f"{machine.cores} cores"
    if machine.threads != machine.cores:
        cores += f" with {machine.threads} threads"
    features = " ".join(machine.features) or "features unknown"
    yield Check("processor", f"{machine.processor or machine.architecture}, {cores}, {features}")


def _onnxruntime(machine: Machine, runtime: Runtime) -> Iterator[Check]:
    """Check that onnxruntime can be imported, and that its version has no known fault here."""
    for failure in runtime.failures:
        if failure.step not in MODEL_STEPS:
            yield Check(failure.step, *explain(failure, machine, runtime))
    if len(runtime.packages) > 1:
        names = [package.split()[0] for package in runtime.packages]
        yield Check(
            "onnxruntime",
            f"{' and '.join(names)} are installed in the same place",
            f"pip uninstall -y {' '.join(names)}, then install one of them",
        )
    version = runtime.onnxruntime
    if version is None:
        return
    if _parse(version) < OLDEST:
        yield Check("onnxruntime", f"{version} is too old", "install 1.17 or later")
    elif version == "1.21.0" and machine.architecture == "aarch64":  # onnxruntime#23957
        yield Check(
            "onnxruntime",
            f"{version} crashes with an illegal instruction on a Raspberry Pi 4 and older ARM processors",
            another_version(runtime),
        )
    else:
        yield Check("onnxruntime", version)


def _model(machine: Machine, runtime: Runtime) -> Iterator[Check]:
    """Check that the model can be read, loaded and run."""
    failures = [failure for failure in runtime.failures if failure.step in MODEL_STEPS]
    if model := runtime.model:
        made = model.precision + (f" for {model.target}" if model.target else "")
        facts = f"{made}, {_bytes(model.size)}, IR version {model.ir_version}, opset {model.opset}"
        runs = "; loads and runs" if runtime.provider and not failures else ""
        yield Check("model", f"{model.path}: {facts}{runs}")
    for failure in failures:
        yield Check("model", *explain(failure, machine, runtime))


def _parse(version: str) -> tuple[int, ...]:
    """Return (1, 21, 0) for "1.21.0+cu126"."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _int8(machine: Machine, runtime: Runtime) -> Iterator[Check]:
    """Check that this processor suits the target of an INT8 file."""
    target = runtime.model.target if runtime.model else None
    features = set(machine.features)
    if target is None or not features:
        return
    if machine.architecture == "x86_64" and target in EIGHT_BITS and not features & VNNI:
        yield Check(
            "int8",
            f"made for {target}; this processor has no VNNI, so sums may overflow and answers may be wrong",
            "export it again with --target x86 or generic",
        )
    elif machine.architecture == "aarch64" and target in UNSIGNED:
        yield Check(
            "int8",
            f"made for {target}, which is slow on ARM",
            "export it again with --target arm64 or generic",
        )
    elif machine.architecture == "aarch64" and DOT_PRODUCT not in features:
        yield Check(
            "int8",
            "this processor has no dot product instruction for INT8, which may be no faster than fp32",
            "compare with a file exported without --precision int8: tgems-edge bench A.onnx B.onnx",
        )
    else:
        yield Check("int8", f"made for {target}, which suits this processor")


def _fp16(machine: Machine, runtime: Runtime) -> Iterator[Check]:
    if runtime.model is None or runtime.model.precision != "fp16":
        return
    if runtime.provider not in (None, "CPUExecutionProvider"):
        return
    what = "fp16 is no faster on a CPU"
    version = runtime.version
    if machine.architecture == "aarch64" and version and _parse(version) >= (1, 24, 1):
        what += f", and may overflow in onnxruntime {version} on ARM"  # onnxruntime#32600
    yield Check("fp16", what, "export it with --precision fp32 or int8, or run it on a GPU with --provider")


def _provider(runtime: Runtime) -> Iterator[Check]:
    if runtime.provider is None:
        return
    used = _short(runtime.provider)
    others = [_short(name) for name in runtime.providers if _short(name) not in (used, "Azure")]  # no device
    choices = f"; --provider can also be {', '.join(others)}" if others else ", the only one"
    yield Check("provider", used + choices)


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _threads(machine: Machine, runtime: Runtime) -> Iterator[Check]:
    if runtime.threads is None:
        return
    if runtime.threads > machine.cores:
        yield Check(
            "threads",
            f"{runtime.threads} on {machine.cores} cores, so threads wait for each other",
            f"unset TGEMS_NUM_THREADS, or set it to {machine.cores}",
        )
    else:
        waiting = "keep a core busy each" if runtime.spinning else "sleep"
        yield Check("threads", f"{runtime.threads} on {machine.cores} cores; waiting threads {waiting}")


def _memory(machine: Machine, conditions: Conditions, runtime: Runtime) -> Iterator[Check]:
    """Compare the memory that running the model once took with the free memory."""
    if not machine.memory:
        return
    needed = runtime.peak_memory
    swap = f"{_bytes(machine.swap)} of swap" if machine.swap else "no swap"
    available = f"{_bytes(conditions.free)} of {_bytes(machine.memory)} free, {swap}"
    if needed is None:
        yield Check("memory", available)
    elif needed > conditions.free:
        what = f"{_bytes(needed)} needed, {available}: the system will swap or kill the process"
        yield Check("memory", what, LESS_MEMORY)
    else:
        yield Check("memory", f"{_bytes(needed)} needed to classify a picture, {available}")


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _clock(machine: Machine, conditions: Conditions) -> Iterator[Check]:
    governor = conditions.governor
    if governor == "powersave" and machine.architecture != "x86_64":  # on x86_64 it follows the load
        yield Check("clock", "powersave keeps the clock at its lowest", STEADY_CLOCK)
    elif governor == "performance":
        yield Check("clock", "performance keeps the clock at its highest")
    elif governor:
        yield Check("clock", f"{governor}, which follows the load; for steady timings: {STEADY_CLOCK}")
    if conditions.power_mode:
        fastest = "; the fastest: sudo nvpmodel -m 0 && sudo jetson_clocks"
        yield Check("power mode", conditions.power_mode + fastest)


def _power(conditions: Conditions) -> Iterator[Check]:
    if conditions.throttled is None:
        return
    if not conditions.throttled:
        yield Check("power", "never throttled since boot")
        return
    reasons = ", ".join(conditions.throttled)
    weak_supply = "under-voltage" in reasons or "over-current" in reasons
    fix = "use a stronger power supply and a short cable" if weak_supply else "cool it"
    yield Check("power", reasons, fix)


def _temperature(conditions: Conditions) -> Iterator[Check]:
    if conditions.celsius is not None:
        hot = conditions.celsius >= HOT
        fix = "cool it with a heat sink or a fan: a hot processor slows down" if hot else None
        yield Check("temperature", f"{conditions.celsius:.0f} degrees", fix)
