"""The README's two commands in a clone in an empty folder, with a new virtual environment.

    python benchmarks/fresh_clone.py

Clones the last commit, runs `make demo` and `make test`, and says how long each took and how it ended.
Fifteen minutes on two cores, most of it pip and the tests. Expect exit code 0 twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from measuring.result import save

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
        rows = [run(command, clone) for command in COMMANDS]
    save("fresh_clone", {"commands": rows}, {"commit": commit})


def run(command: str, clone: Path) -> dict[str, object]:
    """Run a command in the clone, without the user's own settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TGEMS_")}
    environment["TGEMS_CACHE_DIR"] = str(clone.parent / "cache")
    started = perf_counter()
    done = subprocess.run(command.split(), cwd=clone, env=environment, stdout=subprocess.PIPE, text=True)
    sys.stdout.write(done.stdout)
    return {
        "command": command,
        "seconds": perf_counter() - started,
        "exit_code": done.returncode,
        "last_line": done.stdout.strip().splitlines()[-1],
    }


if __name__ == "__main__":
    main()
