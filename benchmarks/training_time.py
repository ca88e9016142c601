"""How long all heads of the demo CLIP take on cached activations, and whether they come out the same.

    python benchmarks/training_time.py TRAIN

Runs `tgems-edge train` for all 12 blocks into a temporary folder, and compares the bytes with the heads
that ship. Ten minutes on two idle cores. Writes benchmarks/results/training_time.md.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from report import write_report

from tgems_edge.data import read_labelled
from tgems_edge.progress import Reporter
from tgems_export.encoders.encoder import load_encoder
from tgems_export.encoders.features import compute_features
from tgems_export.exporting.freeze import DEMO_HEADS
from tgems_export.heads.file import head_file, load_head_card


def main(train: Annotated[Path, typer.Argument(help="Image folder to train on.")]) -> None:
    """Measure the training of all heads."""
    encoder = load_encoder()
    compute_features(encoder, read_labelled(train), Reporter())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for layer in range(1, encoder.blocks + 1):
            started = perf_counter()
            subprocess.run(
                [sys.executable, "-m", "tgems_edge", "train", train, "--layer", str(layer), "--out", folder],
                check=True,
            )
            seconds = perf_counter() - started
            made, shipped = head_file(Path(folder), layer), head_file(DEMO_HEADS, layer)
            same = "yes" if made.read_bytes() == shipped.read_bytes() else "no"
            rows.append([layer, load_head_card(made).pool, f"{seconds:.0f}", same])
    total = sum(float(row[2]) for row in rows)
    card = load_head_card(head_file(DEMO_HEADS, 1))
    write_report(
        "training_time",
        "Training all heads",
        f"python benchmarks/training_time.py {train.name}",
        f"{card.settings['epochs']} epochs on {card.pictures} cached pictures, an eighth of that for each "
        "pool to choose it, one process a head with its start of torch and the reading of the folder. "
        f"All: {total / 60:.1f} min.",
        ["exit", "pool", "seconds", "bytes equal to the shipped head"],
        rows,
    )


if __name__ == "__main__":
    typer.run(main)
