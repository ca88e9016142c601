"""Run a model with onnxruntime in another process, which may crash.

`tgems_edge.doctor.probe [MODEL]` is that process. It prints a JSON object after each of STEPS, so that
`try_runtime`, which started it, knows the facts of each step and the step at which it crashed.
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
MOST_OUTPUT = 2000  # characters of standard error that are kept
SECONDS = 300.0  # for all steps; a large model on slow storage takes more than one minute


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model file that are read without onnxruntime."""

    path: str
    size: int  # bytes
    ir_version: int
    opset: int
    precision: str
    target: str | None  # the processor that an INT8 file was made for


@dataclass(frozen=True)
class Failure:
    """A step that failed."""

    step: str  # one of STEPS
    kind: Literal["advice", "exception", "death", "time"]  # advice: one of our errors, which names the fix
    reason: str  # type of the exception; or exit code of the process, -signal after a signal
    message: str  # message of the exception; or the end of the process's standard error


@dataclass(frozen=True)
class Runtime:
    """The facts of all steps; a fact that no step reached is None or empty."""

    packages: tuple[str, ...]  # installed packages that provide onnxruntime, with their versions
    numpy: str | None = None  # its version
    model: ModelFacts | None = None
    onnxruntime: str | None = None  # its version
    providers: tuple[str, ...] = ()  # execution providers of this onnxruntime
    provider: str | None = None  # the execution provider that the model runs on
    threads: int | None = None
    spinning: bool | None = None  # whether waiting threads keep a core busy
    peak_memory: int | None = None  # bytes, of a process that runs the model once, imports included
    failures: tuple[Failure, ...] = ()

    @property
    def version(self) -> str | None:
        """Return the version of onnxruntime, or of its package if it cannot be imported."""
        return self.onnxruntime or (self.packages[0].split()[1] if self.packages else None)


def try_runtime(model: Path | None = None, *, seconds: float = SECONDS) -> Runtime:
    """Import onnxruntime, load a model and run it once, in another process.

    Args:
        model: the model file; default: the one that every command uses.
        seconds: time limit, after which the process is killed.
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
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            in_time = False
            process.kill()
            output, errors = process.communicate()
    steps = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    facts: dict[str, Any] = {}
    for step in steps:
        facts |= step["facts"]
    failures = [Failure(**step["failure"]) for step in steps if step["failure"]]
    if process.returncode:
        last = STEPS[min(len(steps), len(STEPS) - 1)]  # a crash at exit comes after all steps
        kind: Literal["death", "time"] = "death" if in_time else "time"
        failures.append(Failure(last, kind, str(process.returncode), errors.strip()[-MOST_OUTPUT:]))
    if facts.get("model"):
        facts["model"] = ModelFacts(**facts["model"])
    facts["providers"] = tuple(facts.get("providers", ()))
    return Runtime(packages=tuple(_installed()), failures=tuple(failures), **facts)


def _installed() -> Iterable[str]:
    names = set(metadata.packages_distributions().get("onnxruntime", ()))
    return (f"{name} {metadata.version(name)}" for name in sorted(names))


def main() -> None:
    """Run the steps in this process."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if not _step("numpy", _import_numpy):
        return
    model = _step("model", partial(_read_model, path))
    if _step("onnxruntime", _import_onnxruntime) and model:
        trial = _ModelTrial(Path(model["model"]["path"]))
        if _step("load", trial.load):
            _step("run", trial.run)


def _step(name: str, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run one step and print its facts; return them, or {} if the step failed."""
    facts: dict[str, Any] = {}
    failure = None
    try:
        facts = action()
    except Exception as error:  # of any type: the parent process explains it
        kind: Literal["advice", "exception"] = "advice" if isinstance(error, TgemsError) else "exception"
        failure = asdict(Failure(name, kind, type(error).__name__, " ".join(str(error).split())))
    line = json.dumps({"facts": facts, "failure": failure})
    # Bytes, because PYTHONIOENCODING may have changed the encoding of standard output.
    sys.stdout.buffer.write(line.encode() + b"\n")
    sys.stdout.buffer.flush()
    return facts


def _import_numpy() -> dict[str, Any]:
    import numpy

    return {"numpy": numpy.__version__}


def _read_model(model: Path | None) -> dict[str, Any]:
    from tgems_edge.model_file.default import default_model
    from tgems_edge.model_file.gate import check_model_file

    path = model or default_model()
    checked, card = check_model_file(path)
    header = checked.header
    target = card.quantisation.target if card.quantisation else None
    size = path.stat().st_size
    facts = ModelFacts(str(path), size, header.ir_version, header.opset, card.precision, target)
    return {"model": asdict(facts)}


def _import_onnxruntime() -> dict[str, Any]:
    import onnxruntime  # directly, because the step tests this import alone

    return {"onnxruntime": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}


class _ModelTrial:
    """The steps that load a model and run it once."""

    def __init__(self, path: Path):
        self._path = path

    def load(self) -> dict[str, Any]:
        from tgems_edge.runtime.classifier import Classifier

        size, free = self._path.stat().st_size, observe().free
        if 0 < free < size:
            raise InputError(
                f"{self._path}: its {size / 1e6:.0f} MB do not fit into the {free / 1e6:.0f} MB of free "
                "memory; end other programs, or export it with --precision int8 or an earlier --layer"
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
