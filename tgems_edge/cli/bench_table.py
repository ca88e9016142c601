"""The tables that `bench` prints."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from tgems_edge.bench.report import Case, Platform, Quantiles, Report, Result
from tgems_edge.cli.tables import aligned, separated

__all__ = ["as_lines", "warnings"]

HOT = 80.0  # degrees Celsius, at which a Raspberry Pi slows down
BUSY = 0.5  # load before the measurement: half a core was busy
NONE = "-"
WIDTH = 80  # columns of a terminal


def as_lines(report: Report) -> list[str]:
    """Return the tables, a legend and the machine as lines of text."""
    sections = [_starts(report), *_cases(report), _exits(report), _legend(report), _machine(report.platform)]
    return separated(sections)


def _starts(report: Report) -> list[str]:
    rows = [["start", "first label", "least to most", "session", "first run", "peak"]]
    for result in report.results:
        if start := result.start:
            first = start.first_label
            spread = f"{_ms(first.least)} to {_ms(first.most)}"
            times = [_ms(spread.median) for spread in (start.session, start.first_run)]
            rows.append([_title(result), _ms(first.median), spread, *times, _mb(start.peak)])
    return aligned(rows)


def _cases(report: Report) -> Iterator[list[str]]:
    """Yield two tables for each number of threads and each batch size: whole runs, and their stages."""
    measured = [result for result in report.results if result.cases]
    failed = [result for result in report.results if result.error]
    for number, setting in enumerate(map(_setting, measured[0].cases)):
        rows = [[setting, "size", "accuracy", "p50", "p90", "p99", "FPS", "faster"]]
        rows += [_run_row(result, result.cases[number]) for result in measured]
        rows += [[_title(result), *[""] * 7] for result in failed]
        yield aligned(rows)
        rows = [["p50 of", "decode", "resize", "inference", "faster", "post", "peak", "steady", "runs"]]
        yield aligned([*rows, *(_stage_row(result, result.cases[number]) for result in measured)])


def _setting(case: Case) -> str:
    return f"threads {case.threads}, batch {case.batch}"


def _run_row(result: Result, case: Case) -> list[str]:
    file, faster = result.file, case.times_faster
    accuracy = file.card.accuracy if file and file.card else None
    return [
        _title(result),
        _mb(file.bytes if file else None),
        NONE if accuracy is None else f"{accuracy:.1%}",
        *_quantiles(case.latency),
        f"{case.pictures_per_second:.1f}",
        f"{faster.run:.2f}" if faster else NONE,
    ]


def _stage_row(result: Result, case: Case) -> list[str]:
    stages, memory, faster = case.stages, case.memory, case.times_faster
    return [
        _title(result),
        _ms(stages.decode.p50),
        _ms(stages.resize.p50),
        _ms(stages.inference.p50),
        f"{faster.inference:.2f}" if faster else NONE,
        _ms(stages.postprocess.p50),
        _mb(memory.peak if memory else None),
        _mb(memory.steady if memory else None),
        str(case.rounds),
    ]


def _exits(report: Report) -> list[str]:
    """Return the table of exits of dynamic files: share of pictures, and latency."""
    rows = [["exits", "pictures", "share", "p50", "p90", "p99"]]
    for result in report.results:
        for case in result.cases:
            for exit in case.exits or ():
                times = _quantiles(exit.latency) if exit.latency else [NONE] * 3
                title = f"{_title(result)}, {_setting(case)}, exit {exit.layer}"
                rows.append([title, str(exit.pictures), f"{exit.share:.1%}", *times])
    return aligned(rows) if len(rows) > 1 else []


def _legend(report: Report) -> list[str]:
    parameters, pictures = report.parameters, report.parameters.pictures
    results = [result for result in report.results if result.cases]
    cases = [case for result in results for case in result.cases]
    baselines = dict.fromkeys(case.times_faster.than for case in cases if case.times_faster)
    starts = next(result.start.runs for result in report.results if result.start)
    drawn = pictures.source == "drawn"
    parts = [
        "Times are milliseconds of a run, from the bytes of files to labels, on "
        f"{pictures.count} {'drawn' if drawn else 'of your'} pictures of {pictures.megapixels:.1f} "
        "megapixels. Outliers are kept; with fewer than 100 runs, p99 is the slowest. FPS: pictures per "
        "second.",
        f"Start: {starts} new processes with --threads {parameters.threads[0]}, from the start of Python to "
        "the first label. Session and first run are parts of it. Memory is the resident memory of a "
        "process with one file.",
    ]
    if baselines:
        parts.append(
            f"Faster: times faster than {' or '.join(baselines)}, the median of the ratios within a round."
        )
    if any(result.kind == "full tower" for result in results):
        parts.append(
            "Full: open_clip's image tower, exported with torch.onnx; its weights are random, except for the "
            "demo encoder."
        )
    if drawn and any(case.exits for case in cases):
        parts.append("Drawn pictures do not show which exits yours take: give --pictures FOLDER.")
    if any(_title(result)[0] != "✅" for result in report.results):
        parts.append(
            "✅ measured. ❎ measured, but the samples in its card get other labels here: see `tgems-edge "
            "verify`. ❌ not measured."
        )
    return [line for part in parts for line in wrap(part, WIDTH)]


def _machine(platform: Platform) -> list[str]:
    """Return the machine, its conditions before and after, and the versions, as lines of text."""
    machine, before, after = platform.machine, platform.before, platform.after
    names = [name for name in (machine.board, machine.processor or machine.architecture) if name]
    parts = [*names, f"{machine.cores} cores", machine.system]
    if before.governor:
        parts.append(f"governor {before.governor}")
    if before.power_mode:
        parts.append(f"mode {before.power_mode}")
    if before.megahertz is not None and after.megahertz is not None:
        parts.append(f"{before.megahertz:.0f} MHz before and {after.megahertz:.0f} after")
    if before.celsius is not None and after.celsius is not None:
        parts.append(f"{before.celsius:.0f} °C before and {after.celsius:.0f} after")
    parts += [f"{name} {version}" for name, version in platform.versions.items()]
    return wrap(", ".join(parts), WIDTH)


def warnings(platform: Platform) -> Iterator[str]:
    """Yield a warning for each condition that makes the measurements slower or less certain."""
    before, after = platform.before, platform.after
    if after.throttled:
        yield (
            f"the board throttled its clock ({', '.join(after.throttled)}); improve the power supply or the "
            "cooling and measure again"
        )
    if after.celsius is not None and after.celsius >= HOT:
        yield f"{after.celsius:.0f} °C: processors slow down near this temperature; cool it and measure again"
    if before.governor not in (None, "performance"):
        yield (
            f"the governor is {before.governor}, so the clock changes; for steady timings: "
            "sudo cpupower frequency-set -g performance"
        )
    if before.load is not None and before.load >= BUSY:
        yield (
            f"the machine was busy before the measurement (load {before.load:.1f}); end other programs and "
            "measure again, or rely on the ratios, which change less than the times"
        )


def _title(result: Result) -> str:
    if result.error:
        return f"❌ {result.name}"
    return f"{'✅' if result.reproduces else '❎'} {result.name}"


def _quantiles(times: Quantiles) -> list[str]:
    return [_ms(time) for time in (times.p50, times.p90, times.p99)]


def _ms(milliseconds: float) -> str:
    """Return a time with at least three digits."""
    decimals = 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:.{decimals}f}"


def _mb(size: int | None) -> str:
    return NONE if size is None else f"{size / 1e6:.1f} MB" if size < 1e7 else f"{size / 1e6:.0f} MB"
