"""What each rewriting of the graph saves: exit 5 as exported, against the same with one of them undone.

    python benchmarks/rewritings.py

ViT-B-32 with random weights, one thread, interleaved. Five minutes. Writes
benchmarks/results/rewritings.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
from report import write_report
from speed import BATCHES, export_exit, session_run, time_in_turn

from tgems_edge.progress import Reporter
from tgems_edge.session import open_session
from tgems_export.encoders.encoder import RANDOM, load_encoder
from tgems_export.encoders.towers import blocks

ARCHITECTURE = "ViT-B-32"
LAYER = 5
AS_EXPORTED = "as exported"


# Of each rewriting, what is put in its place in `tgems_export.encoders.towers.blocks`.
UNDONE: dict[str, tuple[str, Callable[..., object] | type]] = {
    "rows that are no multiple of 4 KiB": ("_padding", lambda width: 0),
    "patch embedding as one product": ("_is_one_product", lambda convolutions: False),
    "class token without keys and values": ("_attention", blocks._Attention),
    "GELU as onnxruntime fuses it": ("_activation", lambda activation: activation),
}


def main() -> None:
    """Undo one rewriting at a time."""
    reporter = Reporter()
    encoder = load_encoder(ARCHITECTURE, RANDOM)
    with TemporaryDirectory() as name:
        paths = {AS_EXPORTED: Path(name) / "exported.onnx"}
        export_exit(encoder, LAYER, paths[AS_EXPORTED])
        for number, (title, (attribute, replacement)) in enumerate(UNDONE.items()):
            reporter.say(f"exporting without: {title}")
            paths[title] = Path(name) / f"{number}.onnx"
            with mock.patch.object(blocks, attribute, replacement):
                export_exit(encoder, LAYER, paths[title])
        sessions = {title: open_session(path, threads=1) for title, path in paths.items()}
        cells = {
            batch: time_in_turn(
                {title: session_run(session, batch) for title, session in sessions.items()},
                f"batch {batch}",
                reporter,
            )
            for batch in BATCHES
        }
    rows = []
    for title in UNDONE:
        row = [title]
        for times in cells.values():
            ratios = np.array(times[title]) / np.array(times[AS_EXPORTED])
            low, middle, high = np.percentile(100 * (ratios - 1), [25, 50, 75])
            row.append(f"{middle:.1f} ({low:.1f} to {high:.1f})")
        rows.append(row)
    rounds = ", ".join(f"{len(times[AS_EXPORTED])} at batch {batch}" for batch, times in cells.items())
    write_report(
        "rewritings",
        "What the rewritings save",
        "python benchmarks/rewritings.py",
        f"Exit {LAYER} of {ARCHITECTURE}, fp32, one thread: by how many per cent a run takes longer when one "
        f"rewriting is undone, median and quartiles of the ratios within a round. Rounds: {rounds}.",
        ["rewriting", *(f"%, batch {batch}" for batch in BATCHES)],
        rows,
    )


if __name__ == "__main__":
    main()
