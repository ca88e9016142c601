"""Cold start: the time to the first label and the memory of new processes with one file each."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from tgems_edge.bench.candidates import Candidate, open_candidate
from tgems_edge.bench.report import Memory, Spread, Start
from tgems_edge.children import start_child
from tgems_edge.errors import ModelFileError
from tgems_edge.model_file.card import Card

__all__ = ["FileProbe", "MeasuredFile", "measure_starts", "probe"]

CHILD = "tgems_edge.bench.child"
RUNS = 5  # after these, memory no longer grows
LEAST_STARTS, MOST_STARTS = 3, 10


@dataclass(frozen=True)
class MeasuredFile:
    """A model file or a full tower to measure."""

    name: str
    path: Path
    provider: str | None
    tower_classes: int | None = None  # for a full tower, see `open_candidate`

    @property
    def kind(self) -> Literal["model", "full tower"]:
        """Return the kind of the file."""
        return "model" if self.tower_classes is None else "full tower"

    def open(self, threads: int) -> Candidate:
        """Open the file in this process; see `open_candidate` for the errors."""
        return open_candidate(
            self.path, tower_classes=self.tower_classes, threads=threads, provider=self.provider
        )


@dataclass(frozen=True)
class FileProbe:
    """The results of a process that opened a file and ran it a few times."""

    card: Card | None  # None for a full tower
    reproduces: bool | None  # see `CardFacts`; None for a full tower
    memory: Memory | None


@dataclass(frozen=True)
class _ChildRun:
    """One child process, from its start to its end."""

    first_label: float  # seconds after its start
    first: Mapping[str, Any]  # its first answer: see `child`
    last: Mapping[str, Any]  # its second and last answer


def probe(file: MeasuredFile, threads: int, pictures: Sequence[Path]) -> FileProbe:
    """Open a file in a child process, which may crash, and run it a few times.

    Args:
        file: the file.
        threads: threads of one run.
        pictures: the pictures of one run.

    Raises:
        ModelFileError: the file cannot be opened, or does not run here.
    """
    answer = _run_child(file, threads, pictures, RUNS).last
    memory = None if None in (answer["peak"], answer["steady"]) else Memory(answer["peak"], answer["steady"])
    card = None if answer["card"] is None else Card.from_json(answer["card"])
    return FileProbe(card, answer["reproduces"], memory)


def measure_starts(files: Sequence[MeasuredFile], threads: int, picture: Path, seconds: float) -> list[Start]:
    """Start processes up to the first label, each file in turn: 3 to 10 a file, as many as time allows.

    Args:
        files: files that were probed before, so that they are in the file cache.
        threads: threads of one run.
        picture: the picture to label.
        seconds: time for each file.

    Raises:
        ModelFileError: a file cannot be opened, or does not run here.
    """
    end = perf_counter() + seconds * len(files)
    rounds: list[list[_ChildRun]] = []
    while len(rounds) < LEAST_STARTS or (len(rounds) < MOST_STARTS and perf_counter() < end):
        rounds.append([_run_child(file, threads, [picture], 0) for file in files])
    return [_summary(runs) for runs in zip(*rounds, strict=True)]


def _summary(runs: Sequence[_ChildRun]) -> Start:
    peaks = [run.last["peak"] for run in runs]
    return Start(
        runs=len(runs),
        first_label=Spread.of([run.first_label for run in runs]),
        session=Spread.of([run.first["session"] for run in runs]),
        first_run=Spread.of([run.first["first_run"] for run in runs]),
        peak=None if None in peaks else max(peaks),
    )


def _run_child(file: MeasuredFile, threads: int, pictures: Sequence[Path], runs: int) -> _ChildRun:
    """Run a child process to its end."""
    request = {
        "path": str(file.path),
        "tower_classes": file.tower_classes,
        "threads": threads,
        "provider": file.provider,
        "pictures": [str(picture) for picture in pictures],
        "runs": runs,
    }
    started = perf_counter()
    times, answers, other_output = [], [], []
    with start_child(
        CHILD,
        json.dumps(request),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                times.append(perf_counter() - started)
                answers.append(json.loads(line))
            else:
                other_output.append(line)
    for answer in answers:
        if "error" in answer:
            raise ModelFileError(answer["error"])
    if process.returncode or len(answers) != 2:
        raise ModelFileError(f"{file.path}: {_explain_exit(process.returncode, ' '.join(other_output))}")
    return _ChildRun(times[0], *answers)


def _explain_exit(code: int, output: str) -> str:
    """Explain the exit code of a process that printed no error of its own."""
    if code < 0:
        cause = signal.strsignal(-code) or f"signal {-code}"
        return f"the process that ran it was killed ({cause}); see `tgems-edge doctor`"
    reason = " ".join(output.split()[-20:]) or f"exit code {code}"
    return f"the process that ran it failed ({reason}); see `tgems-edge doctor`"
