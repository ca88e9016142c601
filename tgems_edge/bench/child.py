"""The process whose start-up and memory are measured: it opens one file and labels pictures with it.

    tgems_edge.bench.child '{"path": "model.onnx", ...}'

It imports what a program that calls `tgems_edge.load` imports, and nothing of the command line. It prints
JSON Lines; the first line marks the first label and ends the measurement of the start.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from tgems_edge.bench.candidates import STAGES, ModelFile, open_candidate, run, same_labels
from tgems_edge.errors import TgemsError
from tgems_edge.runtime.session import import_onnxruntime

STATUS = Path("/proc/self/status")
KEYS = {"peak": "VmHWM", "steady": "VmRSS"}  # in KiB


def main() -> None:
    """Serve the request on the command line; print an error as part of the answer."""
    request = json.loads(sys.argv[1])
    try:
        _serve(request)
    except TgemsError as error:
        _print(error=str(error))
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = " ".join(str(error).split())
        _print(error=f"{request['path']}: cannot be run here ({reason}); see `tgems-edge doctor`")


def _serve(request: dict[str, Any]) -> None:
    """Open the file, label the pictures and print the measurements.

    The request has the arguments of `open_candidate`, `pictures` (B paths) and `runs` after the first.
    """
    import_onnxruntime()  # before the clock starts, which times only the opening of the file
    started = perf_counter()
    candidate = open_candidate(
        Path(request["path"]),
        tower_classes=request["tower_classes"],
        threads=request["threads"],
        provider=request["provider"],
    )
    opened = perf_counter()
    files = [Path(name).read_bytes() for name in request["pictures"]]
    first = run(candidate, files)
    _print(session=opened - started, first_run=first.seconds[STAGES.index("inference")])
    for _ in range(request["runs"]):
        run(candidate, files)
    memory = _memory()
    if isinstance(candidate, ModelFile):
        classifier = candidate.classifier
        _print(**memory, card=classifier.card.to_json(), reproduces=same_labels(classifier))
    else:
        _print(**memory, card=None, reproduces=None)


def _print(**answer: Any) -> None:
    # Bytes, because PYTHONIOENCODING may have changed the encoding of standard output.
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def _memory() -> dict[str, int | None]:
    """Return the resident memory of this process in bytes; None where the system does not report it.

    The numbers come from /proc because those of wait4 include memory of the parent.
    """
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = (line.split(":", 1) for line in lines)
    sizes = {name: int(value.split()[0]) for name, value in fields if name in KEYS.values()}
    return {name: 1024 * sizes[key] if key in sizes else None for name, key in KEYS.items()}


if __name__ == "__main__":
    main()
