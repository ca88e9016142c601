"""The machine: its fixed properties, and its conditions, which change while it runs.

The values come from files in /proc and /sys, and from a board's own tools if files do not suffice. They are
read below a root folder, which is `/` except for recordings of other machines. A value that the system does
not report is None (0 for bytes), never an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Conditions", "Machine", "describe", "observe", "own_peak_memory", "physical_cores"]

HERE = Path("/")
CPUS = "sys/devices/system/cpu"
SECONDS_FOR_A_TOOL = 5.0
PLAUSIBLE_CELSIUS = (0, 150)  # a disabled sensor reports -256

# Processor features that affect the latency of INT8 and of floats, from the oldest to the newest.
FEATURES = {
    "x86_64": ("sse4_1", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx_vnni", "avx512_vnni", "amx_int8"),
    "aarch64": ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
}
ARCHITECTURES = {"AMD64": "x86_64", "arm64": "aarch64"}  # names used by Windows and macOS

# An ARM processor reports two numbers, implementer and part, instead of a name.
ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x4e", "0x004"): "Carmel",
}

# Bits of a Raspberry Pi's `get_throttled`, from bit 0 for now and from bit 16 for "since boot".
THROTTLED_BITS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")

# Event counters of a Jetson Orin. The third counts brief peaks, which occur under any load, and is left out.
JETSON_COUNTS = (("under-voltage", "hwmon*/oc1_event_cnt"), ("over-current", "hwmon*/oc2_event_cnt"))


@dataclass(frozen=True)
class Machine:
    """Properties of a machine that do not change while it runs."""

    board: str | None  # "Raspberry Pi 5 Model B Rev 1.0"
    system: str  # "Linux 6.1.0"
    architecture: str  # "x86_64", "aarch64"
    processor: str | None
    features: tuple[str, ...]  # the FEATURES that every core has; () if the system does not report them
    cores: int  # physical cores that this process may use
    threads: int  # logical cores that this process may use
    memory: int  # bytes that this process may use
    swap: int  # bytes


@dataclass(frozen=True)
class Conditions:
    """Conditions of a machine, which change while it runs."""

    governor: str | None
    power_mode: str | None  # of a Jetson: "15W"
    megahertz: float | None  # current clock of the fastest core
    celsius: float | None  # of the hottest sensor
    throttled: tuple[str, ...] | None  # reasons, () for none; None if the system does not report it
    load: float | None  # load average of the last minute: running and waiting processes
    free: int  # bytes that a process can still allocate


def describe(root: Path = HERE) -> Machine:
    """Return the properties of this machine, or of the one whose files are below `root`."""
    architecture = _architecture(root)
    cpuinfo = _cpuinfo(root)
    memory = _sizes(root / "proc/meminfo")
    return Machine(
        board=_read(root / "proc/device-tree/model") or _read(root / "sys/class/dmi/id/product_name"),
        system=_system(root),
        architecture=architecture,
        processor=_processor(cpuinfo),
        features=_features(cpuinfo, architecture),
        cores=physical_cores(root),
        threads=_within_quota(root, len(_allowed(root))),
        memory=min([memory.get("MemTotal", 0), *(limit for limit, _ in _memory_limits(root))]),
        swap=memory.get("SwapTotal", 0),
    )


def observe(root: Path = HERE) -> Conditions:
    """Return the conditions of this machine, or of the one whose files are below `root`."""
    available = _sizes(root / "proc/meminfo").get("MemAvailable", 0)
    return Conditions(
        governor=_read(root / CPUS / "cpu0/cpufreq/scaling_governor"),
        power_mode=_power_mode(root),
        megahertz=_megahertz(root),
        celsius=_celsius(root),
        throttled=_throttled(root),
        load=_load(root),
        free=max(0, min([available, *(limit - used for limit, used in _memory_limits(root))])),
    )


def physical_cores(root: Path = HERE) -> int:
    """Return the number of physical cores that this process may use, given affinity and container quota.

    Hyperthreads share the units that multiply matrices: two on one core are not faster than one. If the
    system does not report which logical cores belong together (macOS, Windows), each counts as one.
    """
    remaining = _allowed(root)
    cores = 0
    while remaining:
        cpu = remaining.pop()
        siblings = _read(root / CPUS / f"cpu{cpu}/topology/thread_siblings_list")
        remaining -= _parse_list(siblings or "")
        cores += 1
    return _within_quota(root, cores)


def own_peak_memory() -> int | None:
    """Return the peak of this process's resident memory in bytes; None if the system does not report it."""
    sizes = _sizes(HERE / "proc/self/status")
    return sizes.get("VmHWM")


def _read(path: Path) -> str | None:
    """Return the text of a file without the NUL of the device tree; None if it is missing or empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t") or None
    except OSError:
        return None


def _read_number(path: Path) -> int | None:
    return _parse_number(_read(path))


def _parse_number(text: str | None) -> int | None:
    return int(text) if text and text.removeprefix("-").isdecimal() else None


def _numbers(paths: Iterable[Path]) -> Iterator[int]:
    for path in paths:
        if (number := _read_number(path)) is not None:
            yield number


def _parse_list(text: str) -> set[int]:
    """Return {0, 1, 2, 5} for "0-2,5"."""
    members: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal():
            members.update(range(int(first), int(last if last.isdecimal() else first) + 1))
    return members


def _fields(text: str | None) -> Iterator[tuple[str, str]]:
    """Yield name and value of each line of the form `name: value`."""
    for line in (text or "").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _system(root: Path) -> str:
    kind, release = (_read(root / "proc/sys/kernel" / name) for name in ("ostype", "osrelease"))
    if kind is None or release is None:
        import platform

        kind, release = platform.system(), platform.release()
    tegra = _tegra_release(root)
    return f"{kind} {release}" + (f", Jetson Linux {tegra}" if tegra else "")


def _tegra_release(root: Path) -> str | None:
    """Return "36.3.0" for "# R36 (release), REVISION: 3.0, GCID: ..."."""
    parts = (_read(root / "etc/nv_tegra_release") or "").split(",")
    if not parts[0].startswith("# R") or len(parts) < 2:
        return None
    major = parts[0].removeprefix("# R").split()[0]
    return f"{major}.{parts[1].rpartition(':')[2].strip()}"


def _architecture(root: Path) -> str:
    """Return the architecture; on this machine, of this process: an emulator shows the host's files."""
    if root != HERE:
        return _read(root / "proc/sys/kernel/arch") or "unknown"
    import platform

    return ARCHITECTURES.get(platform.machine(), platform.machine()) or "unknown"


def _cpuinfo(root: Path) -> list[tuple[str, str]]:
    return list(_fields(_read(root / "proc/cpuinfo")))


def _processor(cpuinfo: list[tuple[str, str]]) -> str | None:
    makers = [value for name, value in cpuinfo if name == "CPU implementer"]
    parts = [value for name, value in cpuinfo if name == "CPU part"]
    arm = [ARM_PARTS.get(pair, "ARM {} {}".format(*pair)) for pair in zip(makers, parts, strict=False)]
    names = [value for name, value in cpuinfo if name == "model name"]
    return " + ".join(dict.fromkeys(arm or names)) or None


def _features(cpuinfo: list[tuple[str, str]], architecture: str) -> tuple[str, ...]:
    lists = [set(value.split()) for name, value in cpuinfo if name in ("flags", "Features")]
    common = set.intersection(*lists) if lists else set()
    return tuple(feature for feature in FEATURES.get(architecture, ()) if feature in common)


def _allowed(root: Path) -> set[int]:
    """Return the logical cores that this process may run on."""
    status = dict(_fields(_read(root / "proc/self/status")))
    return _parse_list(status.get("Cpus_allowed_list", "")) or set(range(os.cpu_count() or 1))


def _within_quota(root: Path, count: int) -> int:
    """Limit a number of threads to the quota, rounded down.

    One thread more than the quota makes all threads wait for the next period.
    """
    return max(1, min([count, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the number of processors that each control group of this process allows."""
    for folder in _control_groups(root, "cpu"):
        quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
        if not quota:
            quota = _read(folder / "cpu.cfs_quota_us") or ""
            period = _read(folder / "cpu.cfs_period_us") or ""
        if quota.isdecimal() and period.isdecimal() and int(period):  # no limit is "max" or -1
            yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use of memory, in bytes, of each control group of this process."""
    for folder in _control_groups(root, "memory"):
        for limit_name, used_name, cache_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _read_number(folder / limit_name)
            if limit is not None:
                sizes = dict(line.partition(" ")[::2] for line in _lines(folder / "memory.stat"))
                cache = _parse_number(sizes.get(cache_name)) or 0  # freed when a process needs memory
                yield limit, (_read_number(folder / used_name) or 0) - cache


def _lines(path: Path) -> list[str]:
    return (_read(path) or "").splitlines()


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups and their parents, for both versions.

    In a container the path is often the host's and does not exist; the top folder is then the container's.
    """
    for line in _lines(root / "proc/self/cgroup"):
        controllers, _, path = line.partition(":")[2].partition(":")
        if controller in controllers.split(",") or not controllers:
            top = root / "sys/fs/cgroup" / (controller if controllers else "")
            group = top / path.strip("/")
            while group != top:
                yield group
                group = group.parent
            yield top


def _sizes(path: Path) -> dict[str, int]:
    """Return sizes in bytes by name, from lines such as "MemTotal: 8245776 kB"."""
    sizes = {}
    for name, value in _fields(_read(path)):
        number = _parse_number(value.removesuffix(" kB"))
        if number is not None and value.endswith(" kB"):
            sizes[name] = number * 1024
    return sizes


def _megahertz(root: Path) -> float | None:
    kilohertz = list(_numbers((root / CPUS).glob("cpu[0-9]*/cpufreq/scaling_cur_freq")))
    if kilohertz:
        return max(kilohertz) / 1000
    try:
        clocks = [float(value) for name, value in _cpuinfo(root) if name == "cpu MHz"]
    except ValueError:
        return None
    return max(clocks, default=None)


def _celsius(root: Path) -> float | None:
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    chips = (root / "sys/class/hwmon").glob("hwmon*/temp1_input")  # sensors of AMD processors
    celsius = [number / 1000 for number in _numbers([*zones, *chips])]
    low, high = PLAUSIBLE_CELSIUS
    return max((value for value in celsius if low < value < high), default=None)


def _throttled(root: Path) -> tuple[str, ...] | None:
    """Return the reasons of throttling, from a Raspberry Pi's file or tool, or a Jetson's counters."""
    files = sorted((root / "sys/devices/platform").glob("soc*/*firmware/get_throttled"))
    text = next(filter(None, map(_read, files)), None) or _run(root / "usr/bin/vcgencmd", "get_throttled")
    if text is not None:
        return _parse_throttled(text)
    counts = {cause: list(_numbers((root / "sys/class/hwmon").glob(name))) for cause, name in JETSON_COUNTS}
    if any(counts.values()):
        return tuple(f"{cause} since boot" for cause, numbers in counts.items() if any(numbers))
    return None


def _parse_throttled(text: str) -> tuple[str, ...] | None:
    """Return the reasons encoded in "50005" or "throttled=0x50005"."""
    try:
        bits = int(text.rpartition("=")[2], 16)
    except ValueError:
        return None
    now = [reason for bit, reason in enumerate(THROTTLED_BITS) if bits >> bit & 1]
    before = [f"{reason} since boot" for bit, reason in enumerate(THROTTLED_BITS, 16) if bits >> bit & 1]
    return (*now, *before)


def _power_mode(root: Path) -> str | None:
    """Return "15W" for "NV Power Mode: MODE_15W"."""
    fields = dict(_fields(_run(root / "usr/sbin/nvpmodel", "-q")))
    return fields.get("NV Power Mode", "").removeprefix("MODE_") or None


def _run(tool: Path, *arguments: str) -> str | None:
    """Return the output of a tool; None if it is missing, prints nothing or does not finish."""
    import subprocess

    try:
        done = subprocess.run(
            [str(tool), *arguments], capture_output=True, text=True, timeout=SECONDS_FOR_A_TOOL
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _load(root: Path) -> float | None:
    first = (_read(root / "proc/loadavg") or "").split(" ")[0]
    try:
        return float(first)
    except ValueError:
        return None
