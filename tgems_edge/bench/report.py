"""What `bench` measured. `bench --json` prints one `Report` as one object: each field below is a key.

Times are milliseconds, sizes and memory are bytes, and what a system does not show is null. No figure is
clipped: a quantile is a run that happened, and of fewer than 100 runs the 99th percentile is the slowest.

Fields may be added within a schema version; one that changes its meaning raises it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from tgems_edge.machine import Conditions, Machine

__all__ = [
    "SCHEMA_VERSION",
    "CardFacts",
    "Case",
    "ExitRuns",
    "FileFacts",
    "Memory",
    "Parameters",
    "Pictures",
    "Platform",
    "Quantiles",
    "Report",
    "Result",
    "Spread",
    "Stages",
    "Start",
    "TimesFaster",
]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Pictures:
    """What was labelled."""

    source: Literal["drawn", "folder"]
    count: int  # different ones
    bytes: float  # of a file, on average
    megapixels: float  # the same


@dataclass(frozen=True)
class Parameters:
    """What was asked for."""

    threads: tuple[int, ...]
    batch: tuple[int, ...]
    seconds: float  # for each file in each case
    against: str | None  # "full", or the file of a tower
    provider: str | None
    pictures: Pictures


@dataclass(frozen=True)
class Spread:
    """A few runs."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """In milliseconds."""
        return cls(*(_milliseconds(value) for value in (median(seconds), min(seconds), max(seconds))))


@dataclass(frozen=True)
class Quantiles:
    """Many runs."""

    least: float
    p50: float
    p90: float
    p99: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Quantiles:
        """In milliseconds: the smallest time that so many per cent of the runs do not exceed."""
        ordered = sorted(seconds)
        ranks = (max(1, -(-percent * len(ordered) // 100)) for percent in (0, 50, 90, 99, 100))
        return cls(*(_milliseconds(ordered[rank - 1]) for rank in ranks))


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 4)


@dataclass(frozen=True)
class Stages:
    """The parts of a run, which add up to it: from the bytes of files to their labels."""

    decode: Quantiles
    resize: Quantiles  # and crop; for a full tower scaling and normalising too, which our graphs do inside
    inference: Quantiles
    postprocess: Quantiles  # classes in order; for a full tower the product with the class texts too


@dataclass(frozen=True)
class CardFacts:
    """What a model file says about itself, and whether that holds here."""

    sha256: str
    encoder: str
    classes: int
    precision: str
    exit_layers: tuple[int, ...]
    accuracy: float | None  # None where it was not measured
    reproduces: bool  # whether the noise among its samples gets the labels here that it got at export


@dataclass(frozen=True)
class FileFacts:
    """What a file is."""

    bytes: int
    card: CardFacts | None  # None for a full tower


@dataclass(frozen=True)
class Start:
    """A fresh process with one thread setting, the first, and one picture; the file cache is warm."""

    runs: int
    first_label: Spread  # from the start of Python to the first label
    session: Spread  # of it, opening the file
    first_run: Spread  # of it, the graph
    peak: int | None  # resident memory at the first label, the most of all


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process with one file, Python and onnxruntime included."""

    peak: int
    steady: int  # after a few runs


@dataclass(frozen=True)
class TimesFaster:
    """The median of the ratios within a round: neighbours on the machine slow both."""

    than: str  # its name among the results
    run: float  # from bytes to labels
    inference: float


@dataclass(frozen=True)
class ExitRuns:
    """The pictures that one exit of a dynamic file answered."""

    layer: int
    pictures: int
    share: float
    latency: Quantiles | None  # None without pictures, and in batches, whose pictures leave together


@dataclass(frozen=True)
class Case:
    """A number of threads and of pictures a run."""

    threads: int
    batch: int
    rounds: int  # runs that were timed, after the warm-up
    latency: Quantiles  # of a run, from the bytes of its files to their labels
    stages: Stages
    pictures_per_second: float
    times_faster: TimesFaster | None  # None for what the others are compared with
    memory: Memory | None
    exits: tuple[ExitRuns, ...] | None  # of a dynamic file


@dataclass(frozen=True)
class Result:
    """One file."""

    name: str
    kind: Literal["model", "full tower"]
    error: str | None  # why it was not measured: the rest is then null
    file: FileFacts | None
    start: Start | None
    cases: tuple[Case, ...]

    @property
    def reproduces(self) -> bool:
        """Whether it was measured, and nothing speaks against its answers."""
        return self.file is not None and (self.file.card is None or self.file.card.reproduces)


@dataclass(frozen=True)
class Platform:
    """Where, with what, and under which conditions."""

    machine: Machine
    before: Conditions
    after: Conditions
    versions: dict[str, str]


@dataclass(frozen=True)
class Report:
    """Everything."""

    schema_version: int
    parameters: Parameters
    results: tuple[Result, ...]
    platform: Platform
