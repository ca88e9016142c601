"""How a command takes a model file: the options, and opening it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tgems_edge.model import Classifier, built_in_model, default_model

__all__ = ["Batch", "Json", "Model", "Provider", "Quiet", "Threads", "open_model"]

Model = Annotated[
    Path | None,
    typer.Option(help="Model file. Default: $TGEMS_MODEL, else ./model.onnx, else the built-in demo file."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON Lines on standard output.")]
Batch = Annotated[int, typer.Option(min=1, help="Pictures per run of the graph.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of one run. Default: $TGEMS_NUM_THREADS, else the physical cores."),
]
Provider = Annotated[
    str | None, typer.Option(help="onnxruntime execution provider, such as CUDA. Default: CPU.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on standard error but errors.")]


def open_model(model: Path | None, *, threads: int | None, provider: str | None) -> tuple[Classifier, str]:
    """The file that was named, or the default, and a line that says which it is."""
    path = model or default_model()
    classifier = Classifier(path, threads=threads, provider=provider)
    named = "built-in demo file" if path == built_in_model() else str(path)
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    return classifier, f"model: {named} ({classifier.card.description}, {size})"
