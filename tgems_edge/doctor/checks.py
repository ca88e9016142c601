"""What was read and tried, in sentences: one for each thing that was looked at.

What IR versions and opsets an onnxruntime takes is not in a table here, which would be out of date with its
next version: the installed one is asked by loading the file, and its refusal names the newest it takes.
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
OLDEST = (1, 17)  # onnxruntime that the package is tested with
HOT = 80  # degrees, at which a Raspberry Pi slows down; others do a little later

# Processor features that multiply INT8 without a detour over 16 bits.
VNNI = {"avx_vnni", "avx512_vnni", "amx_int8"}
DOT_PRODUCT = "asimddp"

EIGHT_BITS = {"x86-vnni", "arm64", "tensorrt"}  # targets whose weights use all bits
UNSIGNED = {"x86-vnni", "x86"}  # targets whose activations are unsigned

STEADY_CLOCK = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    what: str  # was found
    fix: str | None = None  # None: nothing is wrong


def check(machine: Machine, conditions: Conditions, runtime: Runtime) -> Iterator[Check]:
    """What was read and tried, in sentences."""
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
    features = " ".join(machine.features) or "which does not show its features"
    yield Check("processor", f"{machine.processor or machine.architecture}, {cores}, {features}")


def _onnxruntime(machine: Machine, runtime: Runtime) -> Iterator[Check]:
    """That it can be imported, and is none that is known to be bad."""
    for failure in runtime.failures:
        if failure.step not in MODEL_STEPS:
            yield Check(failure.step, *explain(failure, machine, runtime))
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
        yield Check("onnxruntime", f"{version} is too old", "install 1.17 or later")
    elif version == "1.21.0" and machine.architecture == "aarch64":  # 23957, 24112
        yield Check(
            "onnxruntime",
            f"{version} dies of an illegal instruction on a Raspberry Pi 4 and other older ARM processors",
            another_version(runtime),
        )
    else:
        yield Check("onnxruntime", version)


def _model(machine: Machine, runtime: Runtime) -> Iterator[Check]:
    """That it can be read, loaded and run: onnxruntime itself says what is too new for it."""
    failures = [failure for failure in runtime.failures if failure.step in MODEL_STEPS]
    if model := runtime.model:
        made = model.precision + (f" for {model.target}" if model.target else "")
        facts = f"{made}, {_bytes(model.size)}, IR version {model.ir_version}, opset {model.opset}"
        runs = "; loads and runs" if runtime.provider and not failures else ""
        yield Check("model", f"{model.path}: {facts}{runs}")
    for failure in failures:
        yield Check("model", *explain(failure, machine, runtime))


def _parse(version: str) -> tuple[int, ...]:
    """(1, 21, 0) of "1.21.0+cu126"."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _int8(machine: Machine, runtime: Runtime) -> Iterator[Check]:
    """Whether this processor is what an INT8 file was made for."""
    target = runtime.model.target if runtime.model else None
    features = set(machine.features)
    if target is None or not features:
        return
    if machine.architecture == "x86_64" and target in EIGHT_BITS and not features & VNNI:
        yield Check(
            "int8",
            f"made for {target}; without VNNI, sums of two products overflow and answers may be wrong",
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
            "this processor has no dot product of INT8, which may be no faster than fp32",
            "compare with a file that is exported without --precision int8: tgems-edge bench A.onnx B.onnx",
        )
    else:
        yield Check("int8", f"made for {target}, which suits this processor")


def _fp16(machine: Machine, runtime: Runtime) -> Iterator[Check]:
    if runtime.model is None or runtime.model.precision != "fp16":
        return
    if runtime.provider not in (None, "CPUExecutionProvider"):
        return
    what = "a CPU gains nothing from fp16"
    version = runtime.version
    if machine.architecture == "aarch64" and version and _parse(version) >= (1, 24, 1):
        what += f", and on ARM this version may overflow in it ({version})"  # 32600
    yield Check("fp16", what, "export it with --precision fp32 or int8, or run it on a GPU with --provider")


def _provider(runtime: Runtime) -> Iterator[Check]:
    if runtime.provider is None:
        return
    used = _short(runtime.provider)
    others = [_short(name) for name in runtime.providers if _short(name) not in (used, "Azure")]  # no device
    also = f"; with --provider also {', '.join(others)}" if others else ", the only one"
    yield Check("provider", used + also)


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _threads(machine: Machine, runtime: Runtime) -> Iterator[Check]:
    if runtime.threads is None:
        return
    if runtime.threads > machine.cores:
        yield Check(
            "threads",
            f"{runtime.threads} on {machine.cores} cores, so that they wait for each other",
            f"unset TGEMS_NUM_THREADS, or set it to {machine.cores}",
        )
    else:
        waiting = "spin, which burns a core each" if runtime.spinning else "sleep"
        yield Check("threads", f"{runtime.threads} on {machine.cores} cores; those that wait {waiting}")


def _memory(machine: Machine, conditions: Conditions, runtime: Runtime) -> Iterator[Check]:
    """What running the model once took, which was measured, against what is there."""
    if not machine.memory:
        return
    needed = runtime.peak_memory
    swap = f"{_bytes(machine.swap)} of swap" if machine.swap else "no swap"
    there = f"{_bytes(conditions.free)} of {_bytes(machine.memory)} free, {swap}"
    if needed is None:
        yield Check("memory", there)
    elif needed > conditions.free:
        yield Check("memory", f"{_bytes(needed)} needed, {there}: it is swapped out or killed", LESS_MEMORY)
    else:
        yield Check("memory", f"{_bytes(needed)} needed to classify a picture, {there}")


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _clock(machine: Machine, conditions: Conditions) -> Iterator[Check]:
    governor = conditions.governor
    if governor == "powersave" and machine.architecture != "x86_64":  # there it follows the load
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
    starved = "under-voltage" in reasons or "over-current" in reasons
    yield Check("power", reasons, "take a stronger supply and a short cable" if starved else "cool it")


def _temperature(conditions: Conditions) -> Iterator[Check]:
    if conditions.celsius is not None:
        hot = conditions.celsius >= HOT
        fix = "cool it with a heat sink or a fan: it slows down when it is hot" if hot else None
        yield Check("temperature", f"{conditions.celsius:.0f} degrees", fix)
