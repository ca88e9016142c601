"""The demo CLIP: its zero-shot accuracy, that of every exit on 190 names, and names nobody trained on.

    python benchmarks/demo_clip.py CIFAR10 TINY_IMAGENET

Both are image folders of validation pictures, which trained and chose nothing; TINY_IMAGENET holds the
classes of the `demo-190` heads and others, and the others are the names nobody trained on. Five minutes
on two cores. Expect exits to beat the full CLIP on names they learned, and to be near guessing on new ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from measuring.options import Quick
from measuring.result import save
from numpy.typing import NDArray

from tgems_edge.maths.metrics import top_accuracy
from tgems_edge.progress import Reporter
from tgems_edge.sources.data import read_labelled
from tgems_export.encoders.checkpoints.loading import DEMO_FOLDER
from tgems_export.encoders.encoder import Encoder, load_encoder
from tgems_export.encoders.features import Features, compute_features
from tgems_export.encoders.prompts import class_embeddings, encode_prompts
from tgems_export.exporting.exits import DEMO_HEADS, DEMO_HEADS_190
from tgems_export.heads.file import head_file, load_head, load_head_card

WEAKEST = 3  # classes to name


class Test:
    """Pictures, and the names to choose from."""

    def __init__(
        self,
        title: str,
        encoder: Encoder,
        root: Path,
        classes: Sequence[str],
        names: Sequence[str],
        reporter: Reporter,
    ):
        """Pictures of the classes under `root`."""
        self.title, self.names, folder = title, tuple(names), read_labelled(root, classes)
        self.features: Features = compute_features(encoder, folder, reporter)
        to_name = np.array([self.names.index(name) for name in folder.classes])
        self.labels = to_name[folder.labels[self.features.indices]]

    def accuracies(self, rates: NDArray[np.float32]) -> dict[str, float]:
        """Top-1 and top-5."""
        return {f"top{top}": top_accuracy(rates, self.labels, top) for top in (1, 5)}

    def guessing(self) -> dict[str, float]:
        """The same of guesses."""
        return {f"top{top}": top / len(self.names) for top in (1, 5)}


def weakest(test: Test, rates: NDArray[np.float32]) -> list[dict[str, object]]:
    """The classes that the full CLIP knows least, and what it takes them for."""
    answers = rates.argmin(1)
    right = [(float((answers[test.labels == c] == c).mean()), c) for c in range(len(test.names))]
    rows = []
    for accuracy, c in sorted(right)[:WEAKEST]:
        wrong = answers[(test.labels == c) & (answers != c)]
        taken_for = test.names[np.bincount(wrong, minlength=len(test.names)).argmax()]
        rows.append(
            {"test": test.title, "class": test.names[c], "accuracy": accuracy, "taken_for": taken_for}
        )
    return rows


def never_right(test: Test, rates: NDArray[np.float32]) -> int:
    """Count the classes that the full CLIP never gets right."""
    found = np.bincount(test.labels[rates.argmin(1) == test.labels], minlength=len(test.names))
    return int((found == 0).sum())


def size_facts(encoder: Encoder) -> dict[str, float]:
    """Parameters in millions, and files in megabytes."""

    def millions(module: torch.nn.Module) -> float:
        return sum(p.numel() for p in module.parameters()) / 1e6

    image = millions(encoder.tower.module)
    return {
        "image_tower_m": image,
        "block_m": millions(encoder.tower.module.transformer.resblocks[0]),
        "text_tower_m": millions(encoder.text.clip) - image,
        "weights_mb": (DEMO_FOLDER / "open_clip_model.safetensors").stat().st_size / 1e6,
        "head_mb": head_file(DEMO_HEADS, 1).stat().st_size / 1e6,
    }


def make_tests(encoder: Encoder, cifar10: Path, tiny_imagenet: Path, reporter: Reporter) -> list[Test]:
    """Known names alone, known names among all 190, and new names."""
    names = load_head_card(head_file(DEMO_HEADS_190, 1)).classes
    ten = load_head_card(head_file(DEMO_HEADS, 1)).classes
    folders = sorted(path.name for path in tiny_imagenet.iterdir())
    seen = [name for name in folders if name in names]
    new = [name for name in folders if name not in names]
    return [
        Test("CIFAR-10, its 10 names", encoder, cifar10, ten, ten, reporter),
        Test("CIFAR-10 among all 190", encoder, cifar10, ten, names, reporter),
        Test(f"Tiny-ImageNet, its {len(seen)}", encoder, tiny_imagenet, seen, seen, reporter),
        Test("Tiny-ImageNet among all 190", encoder, tiny_imagenet, seen, names, reporter),
        Test(f"{len(new)} new names", encoder, tiny_imagenet, new, new, reporter),
    ]


def main(
    cifar10: Annotated[Path, typer.Argument(help="Validation pictures of CIFAR-10.")],
    tiny_imagenet: Annotated[Path, typer.Argument(help="Validation pictures of Tiny-ImageNet.")],
    quick: Quick = False,
) -> None:
    """Measure the demo CLIP and its heads on known and on new names; quickly, the first exit."""
    reporter, encoder = Reporter(), load_encoder()
    tests = make_tests(encoder, cifar10, tiny_imagenet, reporter)
    rows: list[dict[str, object]] = []
    for layer in range(1, 2 if quick else encoder.blocks + 1):
        head, card = load_head(head_file(DEMO_HEADS_190, layer), encoder)
        found = []
        for test in tests:
            text = class_embeddings(encode_prompts(encoder, test.names, card.templates))
            rates = head.rates(test.features.activations(layer, card.pool), text).numpy()
            found.append(test.accuracies(rates))
        rows.append({"exit": layer, "pool": card.pool, "tests": found})
        reporter.say(f"exit {layer}")
    texts = [class_embeddings(encode_prompts(encoder, test.names, card.templates)) for test in tests]
    full = [-(test.features.embeddings() @ text.T).numpy() for test, text in zip(tests, texts, strict=True)]
    found = [test.accuracies(rates) for test, rates in zip(tests, full, strict=True)]
    rows.append({"exit": "full CLIP", "pool": None, "tests": found})
    rows.append({"exit": "guessing", "pool": None, "tests": [test.guessing() for test in tests]})
    history = json.loads((DEMO_FOLDER / "training.json").read_text(encoding="utf-8"))
    facts = {
        "tests": [{"title": test.title, "pictures": len(test.labels)} for test in tests],
        **size_facts(encoder),
        "start_from": history["configuration"]["start_from"],
        "batch": history["configuration"]["batch"],
        "device": history["device"],
        "training_minutes": history["seconds"]["training"] / 60,
        "checks_minutes": history["seconds"]["checks"] / 60,
        "never_right": never_right(tests[2], full[2]),
    }
    tables = {
        "exits": rows,
        "weakest": weakest(tests[0], full[0]) + weakest(tests[2], full[2]),
        "curve": history["curve"],
    }
    save("demo_clip", tables, facts, quick=quick)


if __name__ == "__main__":
    typer.run(main)
