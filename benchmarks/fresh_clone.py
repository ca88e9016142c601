"""The README's two commands in a clone in an empty folder, with a new virtual environment.

    python benchmarks/fresh_clone.py

Clones the last commit, runs `make demo` and `make test`, and says how long each took and how it ended.
Ten minutes on two cores, most of it pip and the tests. Writes benchmarks/results/fresh_clone.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from report import write_report

ROOT = Path(__file__).parent.parent
COMMANDS = ("make demo", "make test")


def main() -> None:
    """Run both commands as a newcomer would."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "tgems-edge"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=clone, check=True, capture_output=True, text=True
        ).stdout.strip()
        rows = [[command, *_run(command, clone)] for command in COMMANDS]
    write_report(
        "fresh_clone",
        "The two commands on a fresh clone",
        "python benchmarks/fresh_clone.py",
        f"Commit {commit}, an empty cache; `make test` finds the environment of `make demo`.",
        ["command", "wall seconds", "exit code", "last line on standard output"],
        rows,
    )


def _run(command: str, clone: Path) -> tuple[str, int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TGEMS_")}
    environment["TGEMS_CACHE_DIR"] = str(clone.parent / "cache")
    started = perf_counter()
    run = subprocess.run(command.split(), cwd=clone, env=environment, stdout=subprocess.PIPE, text=True)
    sys.stdout.write(run.stdout)
    return f"{perf_counter() - started:.0f}", run.returncode, f"`{run.stdout.strip().splitlines()[-1]}`"


if __name__ == "__main__":
    main()
