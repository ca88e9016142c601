"""The table of boards, from what `tgems-edge bench --json` printed on them.

    python benchmarks/boards.py [docs/results]

Reads every BOARD.jsonl of a folder, one report a line, and writes README.md beside them: a row for each board
and model, with the case that was fastest for the smallest batch. Of the same model and provider the last
report counts. What is no report is named on standard error and left out, and the exit code is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from report import table

from tgems_edge import records
from tgems_edge.bench.report import SCHEMA_VERSION, Case, Report, Result

FOLDER = Path(__file__).parent.parent / "docs" / "results"
FINDING = 1
NONE = "–"
HEADER = (
    "board",
    "model",
    "provider",
    "MB",
    "threads",
    "ms, p50",
    "p90",
    "p99",
    "times faster than full",
    "ms, first label",
    "MB, peak",
    "onnxruntime",
    "°C before",
    "°C after",
)
INTRODUCTION = """# Boards

`python benchmarks/boards.py`

What contributors measured with `tgems-edge bench`, each on a board of theirs: [how to add
yours](../contributing-a-board.md), [what the columns mean](../reading-the-benchmark.md)."""
LEGEND = (
    "From the bytes of a picture's file to its label, one at a time, with the number of threads that was "
    "fastest. ✅ measured, ❎ measured, but samples of the file got other labels there, ❌ did not run."
)
EMPTY = "No board has been measured yet."


def main() -> None:
    """Write the table of a folder."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    rows: dict[tuple[str, str, str], list[str]] = {}
    complaints = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_bytes().splitlines() or [b""], 1):
            try:
                report = records.from_json(Report, line.decode(), schema=SCHEMA_VERSION, key="schema_version")
            except ValueError as error:
                complaints.append(f"{path}, line {number}: {error}")
            else:
                rows |= {(path.stem, *row[1:3]): row for row in _rows(path, report)}
    found = f"{table(HEADER, list(rows.values()))}\n\n{LEGEND}" if rows else EMPTY
    (folder / "README.md").write_text(f"{INTRODUCTION}\n\n{found}\n", encoding="utf-8")
    for complaint in complaints:
        print(f"error: {complaint}; left out, make it again with `tgems-edge bench --json`", file=sys.stderr)
    if complaints:
        raise SystemExit(FINDING)


def _rows(path: Path, report: Report) -> Iterator[list[str]]:
    machine, before, after = report.platform.machine, report.platform.before, report.platform.after
    what = machine.board or machine.processor or machine.architecture
    towers = {result.name for result in report.results if result.kind == "full tower"}
    for result in report.results:
        yield [
            f"[{path.stem}]({path.name}) ({what})",
            _title(result),
            report.parameters.provider or "CPU",
            *_figures(result, towers),
            report.platform.versions.get("onnxruntime", NONE),
            _cell(before.celsius),
            _cell(after.celsius),
        ]


def _title(result: Result) -> str:
    """What a file is, whatever its name; the name of a full tower, and of one that did not run."""
    mark = "❌" if result.error else "✅" if result.reproduces else "❎"
    card = result.file.card if result.file else None
    if card is None:
        return f"{mark} {result.name}"
    exits = ("exit " if len(card.exit_layers) == 1 else "exits ") + ", ".join(map(str, card.exit_layers))
    return f"{mark} {card.encoder}, {exits}, {card.precision}"


def _figures(result: Result, towers: set[str]) -> list[str]:
    """From the column of sizes to that of memory."""
    file, start = result.file, result.start
    size = _megabytes(file.bytes if file else None)
    first, peak = (_cell(start.first_label.median), _megabytes(start.peak)) if start else (NONE, NONE)
    case = _fastest(result)
    if case is None:
        return [size, *[NONE] * 5, first, peak]
    faster = case.times_faster
    threads = str(case.threads) if case.batch == 1 else f"{case.threads}, batch {case.batch}"
    times = (case.latency.p50, case.latency.p90, case.latency.p99)
    ratio = f"{faster.run:.2f}" if faster and faster.than in towers else NONE
    return [size, threads, *(f"{time:.1f}" for time in times), ratio, first, peak]


def _fastest(result: Result) -> Case | None:
    """Of the cases with the smallest batch the one with the fewest milliseconds."""
    return min(result.cases, key=lambda case: (case.batch, case.latency.p50), default=None)


def _cell(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f}"


def _megabytes(size: int | None) -> str:
    return NONE if size is None else f"{size / 1e6:.1f}"


if __name__ == "__main__":
    main()
