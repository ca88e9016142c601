"""The process whose start and memory are measured: opens one file and labels pictures with it.

    tgems_edge.bench.child '{"path": "model.onnx", ...}'

It imports what a program with `tgems_edge.load` imports, and nothing else of the command line. The first
line that it prints ends the measurement of the start; it, too, is JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from tgems_edge.bench.contenders import STAGES, ModelFile, open_contender, run, same_labels
from tgems_edge.errors import TgemsError
from tgems_edge.runtime.session import import_onnxruntime

STATUS = Path("/proc/self/status")
KEYS = {"peak": "VmHWM", "steady": "VmRSS"}  # kilobytes


def main() -> None:
    """Serves one request; what goes wrong is part of the answer."""
    request = json.loads(sys.argv[1])
    try:
        _serve(request)
    except TgemsError as error:
        _say(error=str(error))
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = " ".join(str(error).split())
        _say(error=f"{request['path']}: cannot be run here ({reason}); see `tgems-edge doctor`")


def _serve(request: dict[str, Any]) -> None:
    """Keys of the request: those of `open_contender`, and `pictures` (paths, B of them) and `runs`."""
    import_onnxruntime()  # here, so that opening the file is all that the next lines time
    started = perf_counter()
    contender = open_contender(
        Path(request["path"]),
        tower_classes=request["tower_classes"],
        threads=request["threads"],
        provider=request["provider"],
    )
    opened = perf_counter()
    files = [Path(name).read_bytes() for name in request["pictures"]]
    first = run(contender, files)
    _say(session=opened - started, first_run=first.seconds[STAGES.index("inference")])
    for _ in range(request["runs"]):
        run(contender, files)
    memory = _memory()
    if isinstance(contender, ModelFile):
        classifier = contender.classifier
        _say(**memory, card=classifier.card.to_json(), reproduces=same_labels(classifier))
    else:
        _say(**memory, card=None, reproduces=None)


def _say(**answer: Any) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")  # whatever PYTHONIOENCODING is
    sys.stdout.buffer.flush()


def _memory() -> dict[str, int | None]:
    """Resident bytes of this process, as Linux counts them; what wait4 says counts the parent's too."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = (line.split(":", 1) for line in lines)
    sizes = {name: int(value.split()[0]) for name, value in fields if name in KEYS.values()}
    return {name: 1024 * sizes[key] if key in sizes else None for name, key in KEYS.items()}


if __name__ == "__main__":
    main()
