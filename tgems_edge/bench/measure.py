"""All of it: files in, a report out."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from tgems_edge import __version__
from tgems_edge.bench.album import Album
from tgems_edge.bench.fresh import Entry, Look, look, start_in_turn
from tgems_edge.bench.make_tower import check_encoder_name, make_tower
from tgems_edge.bench.report import (
    SCHEMA_VERSION,
    CardFacts,
    Case,
    FileFacts,
    Parameters,
    Platform,
    Report,
    Result,
    TimesFaster,
)
from tgems_edge.bench.steady import Runs, run_in_turn
from tgems_edge.errors import ModelFileError
from tgems_edge.machine import describe, observe
from tgems_edge.model_file.card import Card
from tgems_edge.model_file.default import built_in_model
from tgems_edge.progress import Reporter
from tgems_edge.runtime.session import import_onnxruntime

__all__ = ["FULL", "Settings", "measure"]

FULL = "full"


@dataclass(frozen=True)
class Settings:
    """What to measure, and how."""

    threads: tuple[int, ...]
    batch: tuple[int, ...]
    seconds: float  # for each file in each case
    against: str | None = None  # FULL: the full towers of the files' own encoders; or the file of a tower
    provider: str | None = None


@dataclass(frozen=True, eq=False)
class _Runner:
    """A file that runs here."""

    entry: Entry
    looks: Mapping[tuple[int, int], Look]  # by threads and batch

    @property
    def look(self) -> Look:
        """What is the same in all cases."""
        return next(iter(self.looks.values()))

    @property
    def card(self) -> Card:
        """Of a model file."""
        assert self.look.card is not None
        return self.look.card

    @property
    def encoder(self) -> str:
        """The CLIP that a model file was cut from."""
        return self.card.encoder.name


def measure(models: Sequence[Path], album: Album, settings: Settings, reporter: Reporter) -> Report:
    """Measures files.

    Each is opened in processes of its own first, which tell its memory and may crash; then others are started
    to see how long that takes; and then all run in turn in this process, case after case.

    Args:
        models: model files.
        album: what they label.
        settings: see `Settings`.
        reporter: where progress goes.

    Raises:
        ModelFileError: none of them runs here, or what they are to be held against is no full tower.
        InputError: the full tower cannot be made here.
        DataError: no picture can be read.
    """
    before = observe()
    pictures = album.take(max(settings.batch))
    runners: list[_Runner] = []
    failed: list[Result] = []
    for path in models:
        entry = Entry(_name(path), path, settings.provider)
        try:
            runners.append(_open(entry, settings, pictures, reporter))
        except ModelFileError as error:
            failed.append(Result(entry.name, "model", str(error), None, None, ()))
    if not runners:
        raise ModelFileError("; ".join(dict.fromkeys(str(result.error) for result in failed)))
    with TemporaryDirectory(prefix="tgems-edge-") as folder:
        towers = _open_towers(runners, settings, Path(folder), pictures, reporter)
        everyone = [*dict.fromkeys(towers.values()), *runners]
        reporter.say("starting each from nothing")
        entries = [runner.entry for runner in everyone]
        starts = start_in_turn(entries, settings.threads[0], pictures[0], settings.seconds)
        cases = _run_cases(everyone, towers, album, settings, reporter)
        measured = [
            Result(r.entry.name, r.entry.kind, None, _facts(r), start, tuple(its))
            for r, start, its in zip(everyone, starts, cases, strict=True)
        ]
    return Report(
        schema_version=SCHEMA_VERSION,
        parameters=Parameters(
            threads=settings.threads,
            batch=settings.batch,
            seconds=settings.seconds,
            against=settings.against,
            provider=settings.provider,
            pictures=album.facts(),
        ),
        results=(*measured, *failed),
        platform=Platform(describe(), before, observe(), _versions()),
    )


def _name(path: Path) -> str:
    return "built-in demo file" if path == built_in_model() else str(path)


def _open(entry: Entry, settings: Settings, pictures: Sequence[Path], reporter: Reporter) -> _Runner:
    reporter.say(f"opening {entry.name}")
    cases = [(threads, batch) for threads in settings.threads for batch in settings.batch]
    return _Runner(entry, {case: look(entry, case[0], pictures[: case[1]]) for case in cases})


def _open_towers(
    runners: Sequence[_Runner], settings: Settings, folder: Path, pictures: Sequence[Path], reporter: Reporter
) -> dict[str, _Runner]:
    """By encoder, the full tower that its files are held against; nothing where that was not asked for."""
    if settings.against is None:
        return {}
    encoders = list(dict.fromkeys(runner.encoder for runner in runners))
    classes = max(len(runner.card.classes) for runner in runners)

    def open_tower(name: str, path: Path) -> _Runner:
        return _open(Entry(name, path, settings.provider, classes), settings, pictures, reporter)

    if settings.against != FULL:
        return dict.fromkeys(encoders, open_tower(settings.against, Path(settings.against)))
    towers = {}
    for encoder in encoders:
        check_encoder_name(encoder)
    for number, encoder in enumerate(encoders):
        reporter.say(f"making the full tower of {encoder}")
        path = folder / f"{number}.onnx"
        make_tower(encoder, path)
        towers[encoder] = open_tower(f"full {encoder}", path)
    return towers


def _run_cases(
    everyone: Sequence[_Runner],
    towers: Mapping[str, _Runner],
    album: Album,
    settings: Settings,
    reporter: Reporter,
) -> list[list[Case]]:
    """The cases of each file."""
    cases = []
    for threads in settings.threads:
        contenders = [runner.entry.open(threads) for runner in everyone]
        for batch in settings.batch:
            reporter.say(f"threads {threads}, batch {batch}: {settings.seconds * len(everyone):g} s")
            runs = dict(zip(everyone, run_in_turn(contenders, album, batch, settings.seconds), strict=True))
            rivals = [_rival(runner, everyone, towers) for runner in everyone]
            cases.append(
                [_case(threads, batch, r, rival, runs) for r, rival in zip(everyone, rivals, strict=True)]
            )
        del contenders  # before the next are opened: a board has no memory for both
    return list(map(list, zip(*cases, strict=True)))


def _rival(runner: _Runner, everyone: Sequence[_Runner], towers: Mapping[str, _Runner]) -> _Runner:
    """What a file is held against: the full tower of its encoder, or else the first file."""
    if not towers:
        return everyone[0]
    return runner if runner.entry.tower_classes else towers[runner.encoder]


def _case(
    threads: int, batch: int, runner: _Runner, rival: _Runner, all_runs: Mapping[_Runner, Runs]
) -> Case:
    runs, others = all_runs[runner], all_runs[rival]
    faster = TimesFaster(rival.entry.name, runs.times_faster(others), runs.times_faster(others, "inference"))
    look = runner.looks[threads, batch]
    return Case(
        threads=threads,
        batch=batch,
        rounds=len(runs.runs),
        latency=runs.latency,
        stages=runs.stages,
        pictures_per_second=runs.pictures_per_second,
        times_faster=None if runner is rival else faster,
        memory=look.memory,
        exits=runs.exits(look.card.exit_layers) if look.card and look.card.dynamic else None,
    )


def _facts(runner: _Runner) -> FileFacts:
    path, card = runner.entry.path, runner.look.card
    files = (path, path.with_name(f"{path.name}.data"))  # where torch puts weights of 2 GB and more
    size = sum(file.stat().st_size for file in files if file.exists())
    if card is None:
        return FileFacts(size, None)
    stated = CardFacts(
        sha256=card.file_sha256,
        encoder=card.encoder.name,
        classes=len(card.classes),
        precision=card.precision,
        exit_layers=card.exit_layers,
        accuracy=card.accuracy.top1 if card.accuracy else None,
        reproduces=bool(runner.look.reproduces),
    )
    return FileFacts(size, stated)


def _versions() -> dict[str, str]:
    """onnxruntime's own word for it: its packages have several names."""
    return {
        "tgems-edge": __version__,
        "python": platform.python_version(),
        "onnxruntime": import_onnxruntime().__version__,
        **{name: version(name) for name in ("numpy", "Pillow")},
    }
