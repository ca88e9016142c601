"""Fresh processes with one file each: how long they take to the first label, and the memory they take."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from tgems_edge.bench.contenders import Contender, open_contender
from tgems_edge.bench.report import Memory, Spread, Start
from tgems_edge.children import start_child
from tgems_edge.errors import ModelFileError
from tgems_edge.model_file.card import Card

__all__ = ["Entry", "Look", "look", "start_in_turn"]

CHILD = "tgems_edge.bench.child"
RUNS = 5  # behind which memory no longer grows
LEAST_STARTS, MOST_STARTS = 3, 10


@dataclass(frozen=True)
class Entry:
    """A file that is to be measured."""

    name: str
    path: Path
    provider: str | None
    tower_classes: int | None = None  # of a full tower: see `open_contender`

    @property
    def kind(self) -> Literal["model", "full tower"]:
        """What it is."""
        return "model" if self.tower_classes is None else "full tower"

    def open(self, threads: int) -> Contender:
        """Opens it in this process; see `open_contender`."""
        return open_contender(
            self.path, tower_classes=self.tower_classes, threads=threads, provider=self.provider
        )


@dataclass(frozen=True)
class Look:
    """What a process found that opened a file and ran it a few times."""

    card: Card | None  # None for a full tower
    reproduces: bool | None  # see `CardFacts`; None for a full tower
    memory: Memory | None


@dataclass(frozen=True)
class _Life:
    """One process: when it gave the first label, in seconds, and what it said."""

    first_label: float
    first: Mapping[str, Any]
    last: Mapping[str, Any]


def look(entry: Entry, threads: int, pictures: Sequence[Path]) -> Look:
    """Opens a file in a process of its own, which may crash, and runs it a few times.

    Args:
        entry: the file.
        threads: of one run.
        pictures: of one run.

    Raises:
        ModelFileError: it cannot be opened, or does not run here.
    """
    said = _live(entry, threads, pictures, RUNS).last
    memory = None if None in (said["peak"], said["steady"]) else Memory(said["peak"], said["steady"])
    card = None if said["card"] is None else Card.from_json(said["card"])
    return Look(card, said["reproduces"], memory)


def start_in_turn(entries: Sequence[Entry], threads: int, picture: Path, seconds: float) -> list[Start]:
    """Starts processes until the first label, each file in turn: 3 to 10 each, as many as time allows.

    Args:
        entries: files that have been looked at, and lie in the file cache.
        threads: of one run.
        picture: to label.
        seconds: for each file.
    """
    end = perf_counter() + seconds * len(entries)
    rounds: list[list[_Life]] = []
    while len(rounds) < LEAST_STARTS or (len(rounds) < MOST_STARTS and perf_counter() < end):
        rounds.append([_live(entry, threads, [picture], 0) for entry in entries])
    return [_summary(lives) for lives in zip(*rounds, strict=True)]


def _summary(lives: Sequence[_Life]) -> Start:
    peaks = [life.last["peak"] for life in lives]
    return Start(
        runs=len(lives),
        first_label=Spread.of([life.first_label for life in lives]),
        session=Spread.of([life.first["session"] for life in lives]),
        first_run=Spread.of([life.first["first_run"] for life in lives]),
        peak=None if None in peaks else max(peaks),
    )


def _live(entry: Entry, threads: int, pictures: Sequence[Path], runs: int) -> _Life:
    """One process from its start to its end."""
    request = {
        "path": str(entry.path),
        "tower_classes": entry.tower_classes,
        "threads": threads,
        "provider": entry.provider,
        "pictures": [str(picture) for picture in pictures],
        "runs": runs,
    }
    started = perf_counter()
    times, answers, complaints = [], [], []
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
                complaints.append(line)
    for answer in answers:
        if "error" in answer:
            raise ModelFileError(answer["error"])
    if process.returncode or len(answers) != 2:
        raise ModelFileError(f"{entry.path}: {_death(process.returncode, ' '.join(complaints))}")
    return _Life(times[0], *answers)


def _death(code: int, complaint: str) -> str:
    """What ended a process that did not say so itself."""
    if code < 0:
        cause = signal.strsignal(-code) or f"signal {-code}"
        return f"the process that ran it was killed ({cause}); see `tgems-edge doctor`"
    said = " ".join(complaint.split()[-20:]) or f"exit code {code}"
    return f"the process that ran it failed ({said})"
