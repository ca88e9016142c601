"""Training time of all heads of the demo CLIP on cached activations, and whether they repeat.

    python benchmarks/training_time.py TRAIN

Runs `tgems-edge train` for all 12 blocks into a temporary folder, and compares the bytes with the heads
that ship. Ten minutes on two idle cores. Expect about a minute a head, and equal bytes.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from measuring.commands import COMMAND
from measuring.options import Quick
from measuring.result import save

from tgems_edge.progress import Reporter
from tgems_edge.sources.data import read_labelled
from tgems_export.encoders.encoder import load_encoder
from tgems_export.encoders.features import compute_features
from tgems_export.exporting.exits import DEMO_HEADS
from tgems_export.heads.file import head_file, load_head_card


def main(
    train: Annotated[Path, typer.Argument(help="Image folder to train on.")], quick: Quick = False
) -> None:
    """Measure the training of all heads; quickly, of the first one for an epoch."""
    encoder = load_encoder()
    compute_features(encoder, read_labelled(train), Reporter())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for layer in range(1, 2 if quick else encoder.blocks + 1):
            command = [*COMMAND, "train", train, "--layer", str(layer), "--out", folder]
            started = perf_counter()
            subprocess.run([*command, "--epochs", "1"] if quick else command, check=True)
            seconds = perf_counter() - started
            made, shipped = head_file(Path(folder), layer), head_file(DEMO_HEADS, layer)
            same = "yes" if made.read_bytes() == shipped.read_bytes() else "no"
            card = load_head_card(made)
            rows.append({"exit": layer, "pool": card.pool, "seconds": seconds, "equal": same})
    facts = {
        "epochs": card.settings["epochs"],
        "pictures": card.pictures,
        "minutes": sum(row["seconds"] for row in rows) / 60,
    }
    save("training_time", {"heads": rows}, facts, quick=quick)


if __name__ == "__main__":
    typer.run(main)
