"""Options that several commands share, and the opening of a model file."""

from __future__ import annotations

import contextlib
import ctypes
import math
from pathlib import Path
from typing import Annotated

import typer

from tgems_edge.model_file.default import built_in_model, default_model
from tgems_edge.runtime.classifier import Classifier

__all__ = [
    *("Batch", "FastDecode", "IgnoreIcc", "Json", "MaxPixels", "Model", "NoVerify", "Provider", "Quiet"),
    *("MOST_BATCH", "Threads", "Timeout"),
    "open_model",
]

M_TRIM_THRESHOLD, TRIM_THRESHOLD = -1, 128 * 1024  # parameter number of malloc.h; glibc's default in bytes

Model = Annotated[
    Path | None,
    typer.Option(help="Model file. Default: $TGEMS_MODEL, else ./model.onnx, else the built-in demo file."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON Lines on standard output.")]
MOST_BATCH = 4096  # far beyond what pays off anywhere, and of a size that memory holds
Batch = Annotated[int, typer.Option(min=1, max=MOST_BATCH, help="Pictures per run of the graph.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of one run. Default: $TGEMS_NUM_THREADS, else the physical cores."),
]
Provider = Annotated[
    str | None, typer.Option(help="onnxruntime execution provider, such as CUDA. Default: CPU.")
]
FastDecode = Annotated[
    bool,
    typer.Option(
        "--fast-decode",
        help="Decode large JPEGs at reduced scale: faster, but answers may change slightly.",
    ),
]
NoVerify = Annotated[
    bool,
    typer.Option(
        "--no-verify",
        help="Do not check the digest: also load a file that was changed after its export.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Stop with an error if loading the file, or a run of it, takes longer. Default: no limit.",
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="COUNT",
        help="Refuse pictures with more pixels, and files too large for so many pixels. Default: "
        "$TGEMS_MAX_PIXELS, else 52 million.",
    ),
]
IgnoreIcc = Annotated[
    bool,
    typer.Option(
        "--ignore-icc",
        help="Ignore colour profiles, as open_clip does. Default: convert to sRGB.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only warnings and errors on standard error.")
]


def open_model(
    model: Path | None,
    *,
    threads: int | None,
    provider: str | None,
    fast_decode: bool = False,
    verify: bool = True,
    timeout: float | None = None,
    max_pixels: int | None = None,
) -> tuple[Classifier, str]:
    """Open a model file, or the default one; return it with a line that describes it.

    Without a timeout the time limit is infinite rather than None, so that Ctrl-C still ends a run.

    Raises:
        ModelFileError: the file cannot be opened.
        InputError: the provider, the number of threads or the limit of pixels cannot be used.
        MissingDependency: onnxruntime is not installed.
    """
    _return_freed_memory()
    path = model or default_model()
    classifier = Classifier(
        path,
        threads=threads,
        provider=provider,
        fast_decode=fast_decode,
        verify=verify,
        timeout=math.inf if timeout is None else timeout,
        max_pixels=max_pixels,
    )
    named = "built-in demo file" if path == built_in_model() else str(path)
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    parts = [classifier.card.description, size]
    if classifier.provider != "CPU":
        parts.append(classifier.provider)
    if not classifier.verified:
        parts.append("not verified")
    return classifier, f"model: {named} ({', '.join(parts)})"


def _return_freed_memory() -> None:
    """Make glibc return freed memory to the system at once; do nothing with another C library.

    As large blocks are allocated and freed, glibc raises its limit on freed memory that it keeps: after
    loading, two thirds of the size of the model file. Setting the limit to its initial value stops that. This
    changes the whole process, so a command may do it and the library must not; a program that loads models
    can be started with MALLOC_TRIM_THRESHOLD_=131072 instead.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
