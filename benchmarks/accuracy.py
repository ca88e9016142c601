"""Accuracy of every exit: T-GEM + Jumper, the sampling baseline, the full CLIP, and the ONNX file.

    python benchmarks/accuracy.py TRAIN VALIDATION

TRAIN and VALIDATION are image folders; the validation pictures only measure. Sampling draws S pictures
a class from TRAIN, five times. Four minutes on two cores once the activations of TRAIN are cached. Expect
accuracy to rise with depth up to that of the full CLIP, and ONNX labels equal to PyTorch's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from measuring.files import OPSET
from measuring.options import Quick
from measuring.result import save
from numpy.typing import NDArray
from torch import Tensor

from tgems_edge.maths.metrics import top_accuracy
from tgems_edge.maths.rates import class_rates
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import decode, to_pixels
from tgems_edge.runtime.session import open_session
from tgems_edge.sources.data import read_labelled
from tgems_export.encoders.encoder import Encoder, load_encoder
from tgems_export.encoders.features import compute_features
from tgems_export.encoders.prompts import class_embeddings, encode_prompts
from tgems_export.exporting.exits import DEMO_HEADS
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.heads.file import head_file, load_head
from tgems_export.study.rivals import FORMS, sampling

SAMPLES = 100  # a class
DRAWS = 5
PLAIN_PROMPT = ("a photo of a {}.",)


def sampling_accuracies(
    known: Tensor, known_labels: Tensor, activations: Tensor, labels: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """Mean and spread of the sampling baseline over several draws, by form of the rate.

    Args:
        known: activations (n, D) to draw from.
        known_labels: (n,).
        activations: (B, D) to measure on.
        labels: (B,).
    """
    found: dict[str, list[float]] = {form: [] for form in FORMS}
    for seed in range(DRAWS):
        moments = sampling(known, known_labels, SAMPLES, seed)
        for form, accuracies in found.items():
            rates = class_rates(activations, *moments, form=form, log2=torch.log2)
            accuracies.append(top_accuracy(rates.numpy(), labels, 1))
    return {
        form: {"mean": float(np.mean(shares)), "spread": float(np.std(shares))}
        for form, shares in found.items()
    }


def onnx_rates(graph: ExitGraph, pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Rates (B, C) of a graph in onnxruntime."""
    session = open_session(to_onnx(graph, size, OPSET).SerializeToString())
    batches = np.array_split(pixels, 50)
    return np.concatenate([session.run([graph.outputs[0]], {INPUT: batch})[0] for batch in batches])


def torch_activations(encoder: Encoder, pixels: NDArray[np.uint8], layer: int, pool: str) -> Tensor:
    """Activations (B, D) behind a block in PyTorch."""
    batches = np.array_split(pixels, 20)
    return torch.cat([encoder.exit_activation(encoder.normalise(b), layer, pool) for b in batches])


def main(
    train: Annotated[Path, typer.Argument(help="Image folder the heads were trained on.")],
    validation: Annotated[Path, typer.Argument(help="Image folder to measure on.")],
    heads: Annotated[Path, typer.Option(help="Folder of head files.")] = DEMO_HEADS,
    quick: Quick = False,
) -> None:
    """Measure every exit; quickly, the first."""
    reporter = Reporter()
    encoder = load_encoder()
    known, unseen = read_labelled(train), read_labelled(validation)
    known_features = compute_features(encoder, known, reporter)
    features = compute_features(encoder, unseen, reporter)
    known_labels = torch.from_numpy(known.labels[known_features.indices])
    labels = unseen.labels[features.indices]
    pixels = np.stack([to_pixels(decode(unseen.path(i)), encoder.preprocessing) for i in features.indices])

    rows = []
    for layer in range(1, 2 if quick else encoder.blocks + 1):
        head, card = load_head(head_file(heads, layer), encoder)
        text = class_embeddings(encode_prompts(encoder, unseen.classes, card.templates))
        activations = torch_activations(encoder, pixels, layer, card.pool)
        rates = head.rates(activations, text).numpy()
        in_onnx = onnx_rates(
            ExitGraph(encoder, [Cut(layer, card.pool, head)], text), pixels, encoder.preprocessing.size
        )
        known_activations = known_features.activations(layer, card.pool)
        rows.append(
            {
                "exit": layer,
                "pool": card.pool,
                "top1": top_accuracy(rates, labels, 1),
                "top3": top_accuracy(rates, labels, 3),
                "sampling": sampling_accuracies(known_activations, known_labels, activations, labels),
                "equal_labels": int((in_onnx.argmin(1) == rates.argmin(1)).sum()),
                "pictures": len(labels),
                "rate_difference": float(np.abs(in_onnx - rates).max()),
            }
        )
        reporter.say(f"exit {layer}: {rows[-1]['top1']:.3f}")

    zero_shot = []
    for templates in (PLAIN_PROMPT, card.templates):
        text = class_embeddings(encode_prompts(encoder, unseen.classes, templates))
        zero_shot.append(top_accuracy(-(features.embeddings() @ text.T).numpy(), labels, 1))
    facts = {
        "pictures": len(labels),
        "training_pictures": card.pictures,
        "samples": SAMPLES,
        "draws": DRAWS,
        "zero_shot_plain": zero_shot[0],
        "zero_shot": zero_shot[1],
        "templates": len(card.templates),
    }
    save("accuracy", {"exits": rows}, facts, quick=quick)


if __name__ == "__main__":
    typer.run(main)
