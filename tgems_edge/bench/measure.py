"""The whole measurement, from files to a report."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from tgems_edge import __version__
from tgems_edge.bench.cold_start import FileProbe, MeasuredFile, measure_starts, probe
from tgems_edge.bench.make_tower import check_encoder_name, make_tower
from tgems_edge.bench.pictures import PictureCycle
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
from tgems_edge.bench.steady_state import Runs, run_interleaved
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
    """Settings of a measurement: a case for each number of threads and each batch size."""

    threads: tuple[int, ...]
    batch: tuple[int, ...]  # pictures in a run
    seconds: float  # for each file in each case
    against: str | None = None  # FULL: the full towers of the files' own encoders; or the path of a tower
    provider: str | None = None  # onnxruntime's execution provider; None is CPU


@dataclass(frozen=True, eq=False)
class _ProbedFile:
    """A file that runs on this machine."""

    file: MeasuredFile
    probes: Mapping[tuple[int, int], FileProbe]  # by threads and batch

    @property
    def probe(self) -> FileProbe:
        """Return the first probe, for facts that are the same in all cases."""
        return next(iter(self.probes.values()))

    @property
    def card(self) -> Card:
        """Return the card of a model file; a full tower has none."""
        assert self.probe.card is not None
        return self.probe.card

    @property
    def encoder(self) -> str:
        """Return the encoder that a model file was cut from."""
        return self.card.encoder.name


def measure(models: Sequence[Path], pictures: PictureCycle, settings: Settings, reporter: Reporter) -> Report:
    """Measure model files, and the full towers to compare them with.

    Each file first runs in child processes, which may crash and report its memory. More processes then
    measure the start-up. At last all files run in turn in this process, case after case.

    Args:
        models: model files.
        pictures: the pictures to label.
        settings: the cases and their time.
        reporter: shows progress.

    Raises:
        ModelFileError: no file runs here, or the file to compare with is not a full tower.
        InputError: the full tower cannot be exported here.
        DataError: no picture can be read.
    """
    before = observe()
    first_pictures = pictures.take(max(settings.batch))
    probed, failed = _probe_models(models, settings, first_pictures, reporter)
    if not probed:
        raise ModelFileError("; ".join(dict.fromkeys(str(result.error) for result in failed)))
    with TemporaryDirectory(prefix="tgems-edge-") as folder:
        towers = _probe_towers(probed, settings, Path(folder), first_pictures, reporter)
        files = [*dict.fromkeys(towers.values()), *probed]
        reporter.say("measuring start-up")
        starts = measure_starts(
            [p.file for p in files], settings.threads[0], first_pictures[0], settings.seconds
        )
        cases = _run_cases(files, towers, pictures, settings, reporter)
        measured = [
            Result(p.file.name, p.file.kind, None, _facts(p), start, tuple(own_cases))
            for p, start, own_cases in zip(files, starts, cases, strict=True)
        ]
    return Report(
        schema_version=SCHEMA_VERSION,
        parameters=Parameters(
            threads=settings.threads,
            batch=settings.batch,
            seconds=settings.seconds,
            against=settings.against,
            provider=settings.provider,
            pictures=pictures.facts(),
        ),
        results=(*measured, *failed),
        platform=Platform(describe(), before, observe(), _versions()),
    )


def _name(path: Path) -> str:
    return "built-in demo file" if path == built_in_model() else str(path)


def _probe_models(
    models: Sequence[Path], settings: Settings, pictures: Sequence[Path], reporter: Reporter
) -> tuple[list[_ProbedFile], list[Result]]:
    """Return the files that run here, and a result with the error of each that does not."""
    probed: list[_ProbedFile] = []
    failed: list[Result] = []
    for path in models:
        file = MeasuredFile(_name(path), path, settings.provider)
        try:
            probed.append(_probe(file, settings, pictures, reporter))
        except ModelFileError as error:
            failed.append(Result(file.name, "model", str(error), None, None, ()))
    return probed, failed


def _probe(
    file: MeasuredFile, settings: Settings, pictures: Sequence[Path], reporter: Reporter
) -> _ProbedFile:
    reporter.say(f"opening {file.name}")
    cases = [(threads, batch) for threads in settings.threads for batch in settings.batch]
    return _ProbedFile(file, {case: probe(file, case[0], pictures[: case[1]]) for case in cases})


def _probe_towers(
    probed: Sequence[_ProbedFile],
    settings: Settings,
    folder: Path,
    pictures: Sequence[Path],
    reporter: Reporter,
) -> dict[str, _ProbedFile]:
    """Return the full tower of each encoder; an empty dict without --against."""
    if settings.against is None:
        return {}
    encoders = list(dict.fromkeys(model.encoder for model in probed))
    classes = max(len(model.card.classes) for model in probed)

    def probe_tower(name: str, path: Path) -> _ProbedFile:
        return _probe(MeasuredFile(name, path, settings.provider, classes), settings, pictures, reporter)

    if settings.against != FULL:
        return dict.fromkeys(encoders, probe_tower(settings.against, Path(settings.against)))
    towers = {}
    for encoder in encoders:
        check_encoder_name(encoder)
    for number, encoder in enumerate(encoders):
        reporter.say(f"exporting the full tower of {encoder}")
        path = folder / f"{number}.onnx"
        make_tower(encoder, path)
        towers[encoder] = probe_tower(f"full {encoder}", path)
    return towers


def _run_cases(
    files: Sequence[_ProbedFile],
    towers: Mapping[str, _ProbedFile],
    pictures: PictureCycle,
    settings: Settings,
    reporter: Reporter,
) -> list[list[Case]]:
    """Return the cases of each file."""
    cases = []
    for threads in settings.threads:
        candidates = [probed.file.open(threads) for probed in files]
        for batch in settings.batch:
            reporter.say(f"threads {threads}, batch {batch}: {settings.seconds * len(files):g} s")
            all_runs = run_interleaved(candidates, pictures, batch, settings.seconds)
            runs = dict(zip(files, all_runs, strict=True))
            cases.append([_case(threads, batch, p, _baseline(p, files, towers), runs) for p in files])
        del candidates  # before the next ones are opened: a board may not have memory for both
    return list(map(list, zip(*cases, strict=True)))


def _baseline(
    probed: _ProbedFile, files: Sequence[_ProbedFile], towers: Mapping[str, _ProbedFile]
) -> _ProbedFile:
    """Return the file to compare with: the full tower of the same encoder, or else the first file."""
    if not towers:
        return files[0]
    return probed if probed.file.tower_classes else towers[probed.encoder]


def _case(
    threads: int,
    batch: int,
    probed: _ProbedFile,
    baseline: _ProbedFile,
    all_runs: Mapping[_ProbedFile, Runs],
) -> Case:
    runs, others = all_runs[probed], all_runs[baseline]
    faster = TimesFaster(
        baseline.file.name, runs.times_faster(others), runs.times_faster(others, "inference")
    )
    own = probed.probes[threads, batch]
    return Case(
        threads=threads,
        batch=batch,
        rounds=len(runs.runs),
        latency=runs.latency,
        stages=runs.stages,
        pictures_per_second=runs.pictures_per_second,
        times_faster=None if probed is baseline else faster,
        memory=own.memory,
        exits=runs.exits(own.card.exit_layers) if own.card and own.card.dynamic else None,
    )


def _facts(probed: _ProbedFile) -> FileFacts:
    path, card = probed.file.path, probed.probe.card
    files = (path, path.with_name(f"{path.name}.data"))  # torch writes weights of 2 GB and more there
    size = sum(file.stat().st_size for file in files if file.exists())
    if card is None:
        return FileFacts(size, None)
    card_facts = CardFacts(
        sha256=card.file_sha256,
        encoder=card.encoder.name,
        classes=len(card.classes),
        precision=card.precision,
        exit_layers=card.exit_layers,
        accuracy=card.accuracy.top1 if card.accuracy else None,
        reproduces=bool(probed.probe.reproduces),
    )
    return FileFacts(size, card_facts)


def _versions() -> dict[str, str]:
    # onnxruntime states its own version, because several packages provide it.
    return {
        "tgems-edge": __version__,
        "python": platform.python_version(),
        "onnxruntime": import_onnxruntime().__version__,
        **{name: version(name) for name in ("numpy", "Pillow")},
    }
