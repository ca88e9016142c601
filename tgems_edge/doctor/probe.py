"""Tries onnxruntime on a model in another process, which may die of it.

`tgems_edge.doctor.probe [MODEL]` is that process: after each of STEPS it prints a JSON object, so
that whoever started it (`try_runtime`) knows what the step found out, or at which one the process died.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from tgems_edge.children import start_child
from tgems_edge.errors import InputError, TgemsError
from tgems_edge.machine import observe, own_peak_memory

__all__ = ["STEPS", "Failure", "ModelFacts", "Runtime", "try_runtime"]

STEPS = ("numpy", "model", "onnxruntime", "load", "run")
LAST_WORDS = 2000  # characters
SECONDS = 300.0  # for all steps; a large model on a slow card takes more than one minute


@dataclass(frozen=True)
class ModelFacts:
    """What a file says of itself, without onnxruntime."""

    path: str
    size: int  # bytes
    ir_version: int
    opset: int
    precision: str
    target: str | None  # the processor that INT8 was made for


@dataclass(frozen=True)
class Failure:
    """A step that did not succeed."""

    step: str  # one of STEPS
    kind: Literal["advice", "exception", "death", "time"]  # advice: one of our errors, which names the fix
    reason: str  # an exception's type, or -signal or exit code of the process
    message: str  # the exception's, or the last words of the process


@dataclass(frozen=True)
class Runtime:
    """What the steps found out; what none of them did is None, or empty."""

    packages: tuple[str, ...]  # those installed that bring an onnxruntime, with their versions
    numpy: str | None = None  # its version
    model: ModelFacts | None = None
    onnxruntime: str | None = None  # its version
    providers: tuple[str, ...] = ()  # that this onnxruntime has
    provider: str | None = None  # that the model runs on
    threads: int | None = None
    spinning: bool | None = None  # whether threads that wait keep a core busy
    peak_memory: int | None = None  # bytes, of a process that runs the model once, with all it imports
    failures: tuple[Failure, ...] = ()

    @property
    def version(self) -> str | None:
        """Of onnxruntime; where it cannot be imported, that of its package."""
        return self.onnxruntime or (self.packages[0].split()[1] if self.packages else None)


def try_runtime(model: Path | None = None, *, seconds: float = SECONDS) -> Runtime:
    """Imports onnxruntime, and loads and runs a model once, in another process.

    Args:
        model: the file; default as for every command.
        seconds: after which that process is ended.
    """
    in_time = True
    with start_child(
        "tgems_edge.doctor.probe",
        *([str(model)] if model else []),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            said, complaints = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            in_time = False
            process.kill()
            said, complaints = process.communicate()
    steps = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    facts: dict[str, Any] = {}
    for step in steps:
        facts |= step["facts"]
    failures = [Failure(**step["failure"]) for step in steps if step["failure"]]
    if process.returncode:
        last = STEPS[min(len(steps), len(STEPS) - 1)]  # after all of them it died while it ended
        kind: Literal["death", "time"] = "death" if in_time else "time"
        failures.append(Failure(last, kind, str(process.returncode), complaints.strip()[-LAST_WORDS:]))
    if facts.get("model"):
        facts["model"] = ModelFacts(**facts["model"])
    facts["providers"] = tuple(facts.get("providers", ()))
    return Runtime(packages=tuple(_installed()), failures=tuple(failures), **facts)


def _installed() -> Iterable[str]:
    names = set(metadata.packages_distributions().get("onnxruntime", ()))
    return (f"{name} {metadata.version(name)}" for name in sorted(names))


def main() -> None:
    """The other process."""
    named = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if not _step("numpy", _import_numpy):
        return
    model = _step("model", partial(_read_model, named))
    if _step("onnxruntime", _import_onnxruntime) and model:
        opened = _Opened(Path(model["model"]["path"]))
        if _step("load", opened.load):
            _step("run", opened.run)


def _step(name: str, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Does one step and prints what it found; that is empty if the step failed."""
    facts: dict[str, Any] = {}
    failure = None
    try:
        facts = act()
    except Exception as error:  # whatever it is: explaining it is what the other side is for
        kind: Literal["advice", "exception"] = "advice" if isinstance(error, TgemsError) else "exception"
        failure = asdict(Failure(name, kind, type(error).__name__, " ".join(str(error).split())))
    line = json.dumps({"facts": facts, "failure": failure})
    sys.stdout.buffer.write(line.encode() + b"\n")  # whatever PYTHONIOENCODING is
    sys.stdout.buffer.flush()
    return facts


def _import_numpy() -> dict[str, Any]:
    import numpy

    return {"numpy": numpy.__version__}


def _read_model(named: Path | None) -> dict[str, Any]:
    from tgems_edge.model_file.default import default_model
    from tgems_edge.model_file.gate import check_model_file

    path = named or default_model()
    checked, card = check_model_file(path)
    header = checked.header
    target = card.quantisation.target if card.quantisation else None
    size = path.stat().st_size
    facts = ModelFacts(str(path), size, header.ir_version, header.opset, card.precision, target)
    return {"model": asdict(facts)}


def _import_onnxruntime() -> dict[str, Any]:
    import onnxruntime  # not by way of a session: how this alone fails is what we want to know

    return {"onnxruntime": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}


class _Opened:
    """A model that is loaded, then run."""

    def __init__(self, path: Path):
        self._path = path

    def load(self) -> dict[str, Any]:
        from tgems_edge.runtime.classifier import Classifier

        size, free = self._path.stat().st_size, observe().free
        if 0 < free < size:
            raise InputError(
                f"{self._path}: its {size / 1e6:.0f} MB do not fit into the {free / 1e6:.0f} MB of memory "
                "that are free; end other programs, or export it with --precision int8 or an earlier --layer"
            )
        self._classifier = Classifier(self._path)
        session = self._classifier.session
        options = session.get_session_options()
        return {
            "provider": session.get_providers()[0],
            "threads": options.intra_op_num_threads,
            "spinning": options.get_session_config_entry("session.intra_op.allow_spinning") == "1",
        }

    def run(self) -> dict[str, Any]:
        import numpy as np

        self._classifier.run(np.zeros((1, *self._classifier.card.preprocessing.size, 3), np.uint8))
        return {"peak_memory": own_peak_memory()}


if __name__ == "__main__":
    main()
