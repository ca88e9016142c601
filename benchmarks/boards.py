"""The table of boards, from what `tgems-edge bench --json` printed on them.

    python benchmarks/boards.py [docs/results]

Reads every BOARD.jsonl of a folder, one report a line, and writes README.md beside them: a row for each board
and model, with the case that was fastest for the smallest batch. Of the same model and provider the last
report counts. What is no report is named on standard error and left out, and the exit code is 1. A second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from rendering.pages import environment

from tgems_edge.bench.report import SCHEMA_VERSION, Case, Report, Result
from tgems_edge.model_file import records

FOLDER = Path(__file__).parent.parent / "docs" / "results"
FINDING = 1

Row = dict[str, object]


def main() -> None:
    """Write the table of a folder."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    rows: dict[tuple[object, ...], Row] = {}
    complaints = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_bytes().splitlines() or [b""], 1):
            try:
                report = records.from_json(Report, line.decode(), schema=SCHEMA_VERSION, key="schema_version")
            except ValueError as error:
                complaints.append(f"{path}, line {number}: {error}")
            else:
                rows |= {(path, row["model"], row["provider"]): row for row in make_rows(path, report)}
    page = environment().get_template("boards.md.j2").render(rows=list(rows.values()))
    (folder / "README.md").write_text(page, encoding="utf-8")
    for complaint in complaints:
        print(f"error: {complaint}; left out, make it again with `tgems-edge bench --json`", file=sys.stderr)
    if complaints:
        raise SystemExit(FINDING)


def make_rows(path: Path, report: Report) -> Iterator[Row]:
    """One row for each file that was measured."""
    machine, before, after = report.platform.machine, report.platform.before, report.platform.after
    towers = {result.name for result in report.results if result.kind == "full tower"}
    for result in report.results:
        yield {
            "stem": path.stem,
            "file": path.name,
            "board": machine.board or machine.processor or machine.architecture,
            "model": title(result),
            "provider": report.parameters.provider or "CPU",
            "mb": megabytes(result.file.bytes if result.file else None),
            **case_cells(fastest(result), towers),
            "first_label": result.start.first_label.median if result.start else None,
            "peak_mb": megabytes(result.start.peak) if result.start else None,
            "onnxruntime": report.platform.versions.get("onnxruntime"),
            "celsius_before": before.celsius,
            "celsius_after": after.celsius,
        }


def title(result: Result) -> str:
    """Return what a file is, whatever its name; the name of a full tower, and of one that did not run."""
    mark = "❌" if result.error else "✅" if result.reproduces else "❎"
    card = result.file.card if result.file else None
    if card is None:
        return f"{mark} {result.name}"
    exits = ("exit " if len(card.exit_layers) == 1 else "exits ") + ", ".join(map(str, card.exit_layers))
    return f"{mark} {card.encoder}, {exits}, {card.precision}"


def case_cells(case: Case | None, towers: set[str]) -> Row:
    """Return threads, times, and how many times faster than a full tower."""
    if case is None:
        return dict.fromkeys(("threads", "p50", "p90", "p99", "faster"))
    faster = case.times_faster
    return {
        "threads": str(case.threads) if case.batch == 1 else f"{case.threads}, batch {case.batch}",
        **{quantile: getattr(case.latency, quantile) for quantile in ("p50", "p90", "p99")},
        "faster": faster.run if faster and faster.than in towers else None,
    }


def fastest(result: Result) -> Case | None:
    """Return the case with the fewest milliseconds, of those with the smallest batch."""
    return min(result.cases, key=lambda case: (case.batch, case.latency.p50), default=None)


def megabytes(size: int | None) -> float | None:
    """Return 10⁶ bytes."""
    return None if size is None else size / 1e6


if __name__ == "__main__":
    main()
