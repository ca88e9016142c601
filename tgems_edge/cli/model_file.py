"""How a command takes a model file: the options, and opening it."""

from __future__ import annotations

import contextlib
import ctypes
import math
from pathlib import Path
from typing import Annotated

import typer

from tgems_edge.model import Classifier, built_in_model, default_model

__all__ = [
    *("Batch", "FastDecode", "IgnoreIcc", "Json", "MaxPixels", "Model", "NoVerify", "Provider", "Quiet"),
    *("MOST_BATCH", "Threads", "Timeout"),
    "open_model",
]

M_TRIM_THRESHOLD, TRIM_THRESHOLD = -1, 128 * 1024  # as in malloc.h, and glibc's default in bytes

Model = Annotated[
    Path | None,
    typer.Option(help="Model file. Default: $TGEMS_MODEL, else ./model.onnx, else the built-in demo file."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON Lines on standard output.")]
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
        help="Decode large JPEGs at reduced scale: sooner, and answers may change a little.",
    ),
]
NoVerify = Annotated[
    bool,
    typer.Option(
        "--no-verify",
        help="Also load a file that was changed after its export: leave its digest unchecked.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Give up on a file that takes longer to load, or longer to answer. Default: never.",
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="COUNT",
        help="Refuse pictures of more pixels, and files larger than these explain. Default: "
        "$TGEMS_MAX_PIXELS, else 52 million.",
    ),
]
IgnoreIcc = Annotated[
    bool,
    typer.Option(
        "--ignore-icc",
        help="Leave colour profiles alone, exactly as open_clip does. Default: convert to sRGB.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on standard error but errors.")]


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
    """The file that was named, or the default, and a line that says which it is and what runs it.

    Without a timeout, Ctrl-C can still end what it does.
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
    """Tells the C library to give freed memory back to the system at once; what is not glibc is left alone.

    As large blocks come and go, glibc keeps ever more of what is freed: after loading, two thirds of the size
    of the model file. To state the limit it begins with stops that. It is the whole process that is told, so
    a command may do this and the library must not; a program that loads models can be started with
    MALLOC_TRIM_THRESHOLD_=131072 instead.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
