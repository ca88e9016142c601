"""Accuracy of encoders by names alone: no picture of these folders trained anything.

    python benchmarks/zero_shot.py FOLDER... --encoder photo --encoder vit-demo

FOLDERs are image folders, whose subfolders are the names to choose from. Three minutes for 2000 pictures on
two cores with `photo`. Expect about half of Caltech's 99 kinds of objects to be right with `photo`, and a
sixth of groceries, most of which are no class of ImageNet; hardly anything with `vit-demo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from measuring.options import Quick
from measuring.result import save

from tgems_edge.maths.metrics import top_accuracy
from tgems_edge.progress import Reporter
from tgems_edge.sources.data import read_labelled
from tgems_export.encoders.checkpoints.loading import known_names
from tgems_export.encoders.encoder import Encoder, load_encoder
from tgems_export.encoders.features import compute_features
from tgems_export.encoders.prompts import class_embeddings, encode_prompts, load_templates, spoken


def count_known(encoder: Encoder, names: Sequence[str]) -> int | None:
    """Count the names that an encoder says it was trained on; None for one that does not say."""
    known = known_names(encoder.id.name)
    return None if known is None else sum(spoken(name).lower() in known for name in names)


def measure(encoder: Encoder, root: Path, templates: Sequence[str], reporter: Reporter) -> dict[str, object]:
    """Measure an encoder on one folder."""
    folder = read_labelled(root)
    features = compute_features(encoder, folder, reporter)
    labels = folder.labels[features.indices]
    text = class_embeddings(encode_prompts(encoder, folder.classes, templates))
    distances = -(features.embeddings() @ text.T).numpy()
    return {
        "pictures": root.name,
        "encoder": encoder.id.name,
        "count": len(labels),
        "names": len(folder.classes),
        "known": count_known(encoder, folder.classes),
        "top1": top_accuracy(distances, labels, 1),
        "top5": top_accuracy(distances, labels, 5),
        "guessing": 1 / len(folder.classes),
    }


def main(
    folders: Annotated[list[Path], typer.Argument(help="Image folders to measure on.")],
    encoder: Annotated[list[str], typer.Option(help="Encoders to compare; may repeat.")],
    quick: Quick = False,
) -> None:
    """Measure every encoder on every folder; quickly, the first on the first."""
    reporter = Reporter()
    templates = load_templates().train
    encoders = [load_encoder(name) for name in (encoder[:1] if quick else encoder)]
    rows = [
        measure(each, root, templates, reporter)
        for root in (folders[:1] if quick else folders)
        for each in encoders
    ]
    save("zero_shot", {"folders": rows}, {"templates": len(templates)}, quick=quick)


if __name__ == "__main__":
    typer.run(main)
