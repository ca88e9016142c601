"""Savings of each rewriting of the graph: exit 5 as exported, against the same with one undone.

    python benchmarks/rewritings.py

ViT-B-32 with random weights, one thread, interleaved. Five minutes. Expect a few per cent each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import typer
from measuring.files import export_exit
from measuring.options import Quick
from measuring.result import save
from measuring.timing import SECONDS, session_run, time_in_turn

from tgems_edge.progress import Reporter
from tgems_edge.runtime.session import open_session
from tgems_export.encoders.encoder import RANDOM, load_encoder
from tgems_export.encoders.towers.vits import blocks

ARCHITECTURE, SMALL = "ViT-B-32", "ViT-S-32"
LAYER = 5
BATCHES = (1, 16)
AS_EXPORTED = "as exported"

# Of each rewriting, what is put in its place in `tgems_export.encoders.towers.vits.blocks`.
UNDONE: dict[str, tuple[str, Callable[..., object] | type]] = {
    "rows that are no multiple of 4 KiB": ("_padding", lambda width: 0),
    "patch embedding as one product": ("_is_one_product", lambda convolutions: False),
    "class token without keys and values": ("_attention", blocks._Attention),
    "GELU as onnxruntime fuses it": ("_activation", lambda activation: activation),
}


def export_all(architecture: str, folder: Path, reporter: Reporter) -> dict[str, Path]:
    """Write the exit as exported, and with each rewriting undone."""
    encoder = load_encoder(architecture, RANDOM)
    paths = {AS_EXPORTED: folder / "exported.onnx"}
    export_exit(encoder, LAYER, paths[AS_EXPORTED])
    for number, (title, (attribute, replacement)) in enumerate(UNDONE.items()):
        reporter.say(f"exporting without: {title}")
        paths[title] = folder / f"{number}.onnx"
        with mock.patch.object(blocks, attribute, replacement):
            export_exit(encoder, LAYER, paths[title])
    return paths


def main(quick: Quick = False) -> None:
    """Undo one rewriting at a time; quickly, of a small tower."""
    reporter, architecture = Reporter(), SMALL if quick else ARCHITECTURE
    with TemporaryDirectory() as folder:
        paths = export_all(architecture, Path(folder), reporter)
        sessions = {title: open_session(path, threads=1) for title, path in paths.items()}
        times = {
            batch: time_in_turn(
                {title: session_run(session, batch) for title, session in sessions.items()},
                f"batch {batch}",
                reporter,
                seconds=0 if quick else SECONDS,
            )
            for batch in BATCHES
        }
    rows = [
        {"rewriting": title, "longer": [longer(found[title], found[AS_EXPORTED]) for found in times.values()]}
        for title in UNDONE
    ]
    facts = {
        "architecture": architecture,
        "layer": LAYER,
        "rounds": [len(found[AS_EXPORTED]) for found in times.values()],
    }
    save("rewritings", {"rewritings": rows}, facts, quick=quick)


def longer(undone: list[float], exported: list[float]) -> dict[str, float]:
    """Return by which share a run takes longer: median and quartiles of the ratios within a round."""
    low, middle, high = np.percentile(np.array(undone) / np.array(exported) - 1, [25, 50, 75])
    return {"low": low, "median": middle, "high": high}


if __name__ == "__main__":
    typer.run(main)
