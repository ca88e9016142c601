"""The measurements of `bench` as dataclasses: `bench --json` prints one `Report`, and each field is a key.

Times are in milliseconds, sizes and memory in bytes. A value that the system does not report is null. No
outlier is removed: each quantile is the time of one run, and with fewer than 100 runs the 99th percentile is
the slowest run.

A schema version may gain fields. A field whose meaning changes raises the version.
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
    """The pictures that were labelled."""

    source: Literal["drawn", "folder"]
    count: int  # distinct pictures
    bytes: float  # mean size of a file
    megapixels: float  # mean of a picture


@dataclass(frozen=True)
class Parameters:
    """The options of the measurement."""

    threads: tuple[int, ...]
    batch: tuple[int, ...]
    seconds: float  # for each file in each case
    against: str | None  # "full", or the path of a tower file
    provider: str | None
    pictures: Pictures


@dataclass(frozen=True)
class Spread:
    """Times of a few runs, in milliseconds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Return the spread of times given in seconds."""
        return cls(*(_milliseconds(value) for value in (median(seconds), min(seconds), max(seconds))))


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the times of many runs, in milliseconds."""

    least: float
    p50: float
    p90: float
    p99: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Quantiles:
        """Return the quantiles of times given in seconds.

        The p-th percentile is the smallest time that at least p per cent of the runs do not exceed.
        """
        ordered = sorted(seconds)
        ranks = (max(1, -(-percent * len(ordered) // 100)) for percent in (0, 50, 90, 99, 100))
        return cls(*(_milliseconds(ordered[rank - 1]) for rank in ranks))


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 4)


@dataclass(frozen=True)
class Stages:
    """The stages of a run, from the bytes of the files to the labels; their times add up to the run's."""

    decode: Quantiles
    resize: Quantiles  # and crop; for a full tower also scaling and normalizing, which our graphs do inside
    inference: Quantiles
    postprocess: Quantiles  # sorting the classes; for a full tower also the cosines with the text embeddings


@dataclass(frozen=True)
class CardFacts:
    """Facts from the card of a model file, and whether this machine reproduces its labels."""

    sha256: str
    encoder: str
    classes: int
    precision: str
    exit_layers: tuple[int, ...]
    accuracy: float | None  # None where it was not measured
    reproduces: bool  # whether the card's noise samples get the labels that they got at export


@dataclass(frozen=True)
class FileFacts:
    """Size and card of a file."""

    bytes: int
    card: CardFacts | None  # None for a full tower


@dataclass(frozen=True)
class Start:
    """Start-up of new processes with the first thread setting and one picture; the file cache is warm."""

    runs: int
    first_label: Spread  # from the start of Python to the first label
    session: Spread  # part of it: opening the file
    first_run: Spread  # part of it: the first run of the graph
    peak: int | None  # resident memory at the first label, the largest of all runs


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process with one file, Python and onnxruntime included."""

    peak: int
    steady: int  # after a few runs


@dataclass(frozen=True)
class TimesFaster:
    """Speed-up over a baseline: the median of the ratios within a round.

    Other load on the machine slows both files of a round, so that it affects the ratio little.
    """

    than: str  # name of the baseline among the results
    run: float  # of whole runs, from bytes to labels
    inference: float  # of the graph alone


@dataclass(frozen=True)
class ExitRuns:
    """The pictures that one exit of a dynamic file answered."""

    layer: int
    pictures: int
    share: float
    latency: Quantiles | None  # None without pictures, and with a batch above 1: a batch ends as a whole


@dataclass(frozen=True)
class Case:
    """Measurements of one file with one number of threads and one batch size."""

    threads: int
    batch: int
    rounds: int  # timed runs, after the warm-up
    latency: Quantiles  # of a run, from the bytes of its files to their labels
    stages: Stages
    pictures_per_second: float
    times_faster: TimesFaster | None  # None for the baseline itself
    memory: Memory | None
    exits: tuple[ExitRuns, ...] | None  # of a dynamic file


@dataclass(frozen=True)
class Result:
    """Measurements of one file."""

    name: str
    kind: Literal["model", "full tower"]
    error: str | None  # why it was not measured; the fields below are then null or empty
    file: FileFacts | None
    start: Start | None
    cases: tuple[Case, ...]

    @property
    def reproduces(self) -> bool:
        """Return whether the file was measured and gives the labels that its card records."""
        return self.file is not None and (self.file.card is None or self.file.card.reproduces)


@dataclass(frozen=True)
class Platform:
    """The machine, its conditions before and after the measurement, and the versions of packages."""

    machine: Machine
    before: Conditions
    after: Conditions
    versions: dict[str, str]


@dataclass(frozen=True)
class Report:
    """One benchmark: options, results of all files, and the machine."""

    schema_version: int
    parameters: Parameters
    results: tuple[Result, ...]
    platform: Platform
