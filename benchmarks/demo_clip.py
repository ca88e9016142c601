"""The demo CLIP: its zero-shot accuracy, that of every exit on 190 names, and names nobody trained on.

    python benchmarks/demo_clip.py CIFAR10 TINY_IMAGENET

Both are image folders of validation pictures, which trained and chose nothing; TINY_IMAGENET holds the
classes of the `demo-190` heads and others, and the others are the names nobody trained on. Five minutes
on two cores. Writes benchmarks/results/demo_clip.md and benchmarks/results/training_curve.svg.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import torch
import typer
from report import RESULTS, write_report

from tgems_edge.data import read_labelled
from tgems_edge.progress import Reporter
from tgems_edge.rates import top_k
from tgems_export.encoders.checkpoints.loading import DEMO_FOLDER
from tgems_export.encoders.encoder import Encoder, load_encoder
from tgems_export.encoders.features import Features, compute_features
from tgems_export.encoders.prompts import class_embeddings, encode_prompts
from tgems_export.exporting.freeze import DEMO_HEADS, DEMO_HEADS_190
from tgems_export.heads.file import head_file, load_head, load_head_card

matplotlib.use("Agg")
from matplotlib import pyplot

WEAKEST = 3  # classes to name


def main(
    cifar10: Annotated[Path, typer.Argument(help="Validation pictures of CIFAR-10.")],
    tiny_imagenet: Annotated[Path, typer.Argument(help="Validation pictures of Tiny-ImageNet.")],
) -> None:
    """Measure the demo CLIP and its heads on known and on new names."""
    reporter = Reporter()
    encoder = load_encoder()
    card = load_head_card(head_file(DEMO_HEADS_190, 1))
    ten = load_head_card(head_file(DEMO_HEADS, 1)).classes
    folders = sorted(path.name for path in tiny_imagenet.iterdir())
    seen = [name for name in folders if name in card.classes]
    new = [name for name in folders if name not in card.classes]
    tests = [
        Test("CIFAR-10, its 10 names", encoder, cifar10, ten, ten, reporter),
        Test("CIFAR-10 among all 190", encoder, cifar10, ten, card.classes, reporter),
        Test(f"Tiny-ImageNet, its {len(seen)}", encoder, tiny_imagenet, seen, seen, reporter),
        Test("Tiny-ImageNet among all 190", encoder, tiny_imagenet, seen, card.classes, reporter),
        Test(f"{len(new)} new names", encoder, tiny_imagenet, new, new, reporter),
    ]
    rows = []
    for layer in range(1, encoder.blocks + 1):
        head, head_card = load_head(head_file(DEMO_HEADS_190, layer), encoder)
        accuracies = []
        for test in tests:
            text = class_embeddings(encode_prompts(encoder, test.names, head_card.templates))
            rates = head.rates(test.features.activations(layer, head_card.pool), text).numpy()
            accuracies.append(cell(test.accuracies(rates)))
        rows.append([layer, head_card.pool, *accuracies])
        reporter.say(" | ".join(map(str, rows[-1])))
    full = []
    for test in tests:
        text = class_embeddings(encode_prompts(encoder, test.names, card.templates))
        full.append(-(test.features.embeddings() @ text.T).numpy())
    found = [test.accuracies(scores) for test, scores in zip(tests, full, strict=True)]
    rows.append(["full CLIP", "", *map(cell, found)])
    chances = [f"{100 / len(test.names):.1f} ({500 / len(test.names):.0f})" for test in tests]
    rows.append(["guessing", "", *chances])
    history = json.loads((DEMO_FOLDER / "training.json").read_text(encoding="utf-8"))
    write_report(
        "demo_clip",
        "The demo CLIP on known and on new names",
        f"python benchmarks/demo_clip.py {cifar10.name} {tiny_imagenet.name}",
        "Top-1 and, in brackets, top-5 in per cent, on validation pictures that trained and chose nothing: "
        + ", ".join(f"{len(test.labels)} for *{test.title}*" for test in tests)
        + ". Exits: T-GEM + Jumper of the `demo-190` heads, with tables for the names of the column; full "
        "CLIP: zero-shot with the same prompts. Nobody trained on the new names or their pictures.\n\n"
        + weakest(tests[0], full[0])
        + " "
        + weakest(tests[2], full[2])
        + "\n\n"
        + sizes(encoder)
        + "\n\n"
        + spent(history),
        ["exit", "pool", *(test.title for test in tests)],
        rows,
    )
    draw_curve(history, RESULTS / "training_curve.svg")


class Test:
    """What the encoder says of some pictures, and which of some names they show."""

    def __init__(
        self,
        title: str,
        encoder: Encoder,
        root: Path,
        classes: Sequence[str],
        names: Sequence[str],
        reporter: Reporter,
    ):
        """Pictures of the classes under `root`, and the `names` to choose from."""
        self.title, self.names, folder = title, tuple(names), read_labelled(root, classes)
        self.features: Features = compute_features(encoder, folder, reporter)
        to_name = np.array([self.names.index(name) for name in folder.classes])
        self.labels = to_name[folder.labels[self.features.indices]]

    def accuracies(self, rates: np.ndarray) -> tuple[float, float]:
        """Top-1 and top-5."""
        right = top_k(rates, 5) == self.labels[:, None]
        return float(right[:, 0].mean()), float(right.any(1).mean())


def cell(accuracies: tuple[float, float]) -> str:
    """Top-1 (top-5) in per cent."""
    return f"{100 * accuracies[0]:.1f} ({100 * accuracies[1]:.1f})"


def weakest(test: Test, rates: np.ndarray) -> str:
    """The classes that the full CLIP knows least, and what it takes them for."""
    answers = rates.argmin(1)
    right = [(float((answers[test.labels == c] == c).mean()), c) for c in range(len(test.names))]
    named = []
    for accuracy, c in sorted(right)[:WEAKEST]:
        wrong = answers[(test.labels == c) & (answers != c)]
        taken_for = test.names[np.bincount(wrong, minlength=len(test.names)).argmax()]
        named.append(f"{test.names[c]} ({100 * accuracy:.0f} %, most often taken for {taken_for})")
    nothing = sum(accuracy == 0 for accuracy, _ in right)
    none = f"; {nothing} names are never right" if nothing > 1 else ""
    return f"The full CLIP fails most at, {test.title}: {', '.join(named)}{none}."


def sizes(encoder: Encoder) -> str:
    """Parameters and bytes."""

    def millions(module: torch.nn.Module) -> float:
        return sum(p.numel() for p in module.parameters()) / 1e6

    image = millions(encoder.tower.module)
    block = millions(encoder.tower.module.transformer.resblocks[0])
    weights = (DEMO_FOLDER / "open_clip_model.safetensors").stat().st_size / 1e6
    head = head_file(DEMO_HEADS, 1).stat().st_size / 1e6
    return (
        f"Image tower {image:.2f} M parameters (a block {block:.3f} M), text tower "
        f"{millions(encoder.text.clip) - image:.2f} M; {weights:.1f} MB in fp16; a head {head:.2f} MB."
    )


def spent(history: dict[str, Any]) -> str:
    """What the training was and what its time went into."""
    configuration, seconds = history["configuration"], history["seconds"]
    begun = "from the weights of an earlier demo" if configuration["start_from"] else "from random weights"
    return (
        f"Trained {begun}, {history['curve'][-1]['pictures']} pictures shown in steps of "
        f"{configuration['batch']}, on {history['device']}: {seconds['training'] / 60:.0f} min of training "
        f"and {seconds['checks'] / 60:.0f} min of measuring on held-out training pictures."
    )


def draw_curve(history: dict[str, Any], path: Path) -> None:
    """Loss and accuracy on held-out pictures over the pictures shown."""
    curve = history["curve"]
    shown = [point["pictures"] / 1000 for point in curve]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot(shown, [point["loss"] for point in curve], color="tab:grey")
    left.set(title="Training loss", xlabel="thousand pictures shown")
    for data_set, name in enumerate(("CIFAR-10, 10 names", "Tiny-ImageNet, 180 names")):
        right.plot(shown, [100 * point[f"accuracy_{data_set}"] for point in curve], label=name)
    right.set(title="Zero-shot on held-out training pictures, %", xlabel="thousand pictures shown")
    right.set_ylim(0, 100)
    right.legend(loc="center right")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    matplotlib.rcParams["svg.hashsalt"] = "tgems-edge"  # the same curve is the same file
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    typer.run(main)
