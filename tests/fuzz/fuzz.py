"""Fuzzers of everything that reads what others wrote: model files, cards, pictures, caches, class names.

    pip install atheris
    python tests/fuzz/fuzz.py model --seconds 600        # or card, picture, cache, names
    python tests/fuzz/fuzz.py --report                   # a table of what was run so far

Coverage leads the search, so that it gets further than the random bytes of the test suite, which leaves this
out. Every exception that users should never see is a finding: the input and its traceback are kept under
--out, and the search goes on. So it does after a crash of native code, a hang or a bomb, which end a process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

ADDRESS_SPACE = 8 << 30  # bytes; torch alone maps some
RESIDENT, ONE_ALLOCATION = 2048, 1024  # MB
LONGEST_RUN = 30  # seconds
LARGEST_INPUT = 1 << 17  # bytes


@dataclass
class Record:
    """The state of a search, kept in a file as it goes on."""

    target: str
    seconds: float = 0.0
    executions: int = 0
    refused: int = 0  # that ended in a TgemsError, as bad files should
    peak_megabytes: float = 0.0
    findings: dict[str, int] = field(default_factory=dict)  # how often, by exception and where it came from

    @classmethod
    def read(cls, path: Path) -> Record:
        return cls(**json.loads(path.read_text("utf-8"))) if path.exists() else cls(path.stem)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2), "utf-8")


def search(name: str, out: Path, seconds: int) -> None:
    """Searches in this process until it ends or crashes."""
    import atheris

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["tgems_edge", "tgems_export", "PIL"]):
        from targets import TARGETS

        from tgems_edge.errors import TgemsError

        target = TARGETS[name]()
    path = out / f"{name}.json"
    record = Record.read(path)
    started = written = time.monotonic()
    before = record.seconds

    def save() -> None:
        nonlocal written
        written = time.monotonic()
        record.seconds = round(before + written - started, 1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        record.peak_megabytes = round(max(record.peak_megabytes, peak), 1)
        record.write(path)

    def once(data: bytes) -> None:
        record.executions += 1
        try:
            target.run(data)
        except TgemsError:
            record.refused += 1
        except Exception as error:
            keep(error, data)
        if time.monotonic() > written + 1:
            save()

    def keep(error: Exception, data: bytes) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "tgems" in frame.filename] or frames
        kind = f"{type(error).__name__} in {Path(ours[-1].filename).name}: {ours[-1].name}"
        if kind not in record.findings:
            number = hashlib.sha256(kind.encode()).hexdigest()[:8]
            (out / f"{name}-{number}.input").write_bytes(data)
            (out / f"{name}-{number}.txt").write_text("".join(traceback.format_exception(error)), "utf-8")
        record.findings[kind] = record.findings.get(kind, 0) + 1
        save()

    corpus = out / f"{name}-corpus"
    corpus.mkdir(exist_ok=True)
    begin = Path(tempfile.mkdtemp())
    for number, seed in enumerate(target.seeds):
        (begin / f"seed-{number}").write_bytes(seed)
    options = [
        *(f"-max_total_time={seconds}", f"-max_len={LARGEST_INPUT}", f"-timeout={LONGEST_RUN}"),
        *(f"-rss_limit_mb={RESIDENT}", f"-malloc_limit_mb={ONE_ALLOCATION}"),
        *(f"-artifact_prefix={out}/{name}-", "-verbosity=0"),
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus), str(begin)], once)
    atheris.Fuzz()


def search_on(name: str, out: Path, seconds: int) -> None:
    """Searches in processes of its own, one after the other, until the time is over."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.unlink(missing_ok=True)
    end = time.monotonic() + seconds
    while (left := round(end - time.monotonic())) > 0:
        command = [sys.executable, __file__, name, "--out", str(out), "--seconds", str(left), "--in-process"]
        with (out / f"{name}.log").open("ab") as log:
            done = subprocess.run(command, stdout=log, stderr=log, timeout=left + 300, check=False)
        if done.returncode != 0:
            record = Record.read(path)
            kind = f"the process ended with {done.returncode}"
            record.findings[kind] = record.findings.get(kind, 0) + 1
            record.write(path)


def report(out: Path) -> None:
    """Prints a table of the records."""
    print("| reads | minutes | executions | refused | peak memory | findings |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for path in sorted(out.glob("*.json")):
        record = Record.read(path)
        found = "; ".join(f"{kind} ({count})" for kind, count in sorted(record.findings.items())) or "none"
        print(
            f"| {record.target} | {record.seconds / 60:.1f} | {record.executions:,} | {record.refused:,} "
            f"| {record.peak_megabytes:.0f} MB | {found} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", choices=["model", "card", "picture", "cache", "names"])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("fuzzing"), help="folder of records and findings")
    parser.add_argument("--report", action="store_true", help="print what was found so far")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.target and given.in_process:
        search(given.target, given.out, given.seconds)
    elif given.target:
        search_on(given.target, given.out, given.seconds)
    if given.report:
        report(given.out)


if __name__ == "__main__":
    main()
