"""Accuracy of every exit: T-GEM + Jumper, the sampling baseline, the full CLIP, and the ONNX file.

    python benchmarks/accuracy.py TRAIN VALIDATION

TRAIN and VALIDATION are image folders; the validation pictures only measure. Sampling draws S pictures
a class from TRAIN, five times. Four minutes on two cores once the activations of TRAIN are cached.
Writes benchmarks/results/accuracy.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from report import write_report

from tgems_edge.data import read_labelled
from tgems_edge.images import decode, to_pixels
from tgems_edge.progress import Reporter
from tgems_edge.rates import class_rates, top_k
from tgems_edge.session import INPUT, open_session
from tgems_export.encoders.encoder import load_encoder
from tgems_export.encoders.features import compute_features
from tgems_export.encoders.prompts import class_embeddings, encode_prompts
from tgems_export.exporting.freeze import DEMO_HEADS
from tgems_export.exporting.graph.exit_graph import ExitGraph
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.heads.file import head_file, load_head
from tgems_export.study.rivals import sampling

SAMPLES = 100  # a class
DRAWS = 5
PLAIN = ("a photo of a {}.",)


def main(
    train: Annotated[Path, typer.Argument(help="Image folder the heads were trained on.")],
    validation: Annotated[Path, typer.Argument(help="Image folder to measure on.")],
    heads: Annotated[Path, typer.Option(help="Folder of head files.")] = DEMO_HEADS,
) -> None:
    """Measure every exit."""
    reporter = Reporter()
    encoder = load_encoder()
    known, unseen = read_labelled(train), read_labelled(validation)
    known_features = compute_features(encoder, known, reporter)
    features = compute_features(encoder, unseen, reporter)
    known_labels = torch.from_numpy(known.labels[known_features.indices])
    labels = torch.from_numpy(unseen.labels[features.indices])
    pixels = np.stack([to_pixels(decode(unseen.path(i)), encoder.preprocessing) for i in features.indices])

    rows = []
    for layer in range(1, encoder.blocks + 1):
        head, card = load_head(head_file(heads, layer), encoder)
        text = class_embeddings(encode_prompts(encoder, unseen.classes, card.templates))
        activations = torch.cat(
            [
                encoder.exit_activation(encoder.normalise(batch), layer, card.pool)
                for batch in np.array_split(pixels, 20)
            ]
        )
        rates = head.rates(activations, text).numpy()
        session = open_session(
            to_onnx(
                ExitGraph(encoder, layer, card.pool, head, text), encoder.preprocessing.size, 18
            ).SerializeToString()
        )
        onnx_rates = np.concatenate(
            [session.run(["rates"], {INPUT: b})[0] for b in np.array_split(pixels, 50)]
        )
        baseline = {form: [] for form in ("paper", "gaussian")}
        known_activations = known_features.activations(layer, card.pool)
        for seed in range(DRAWS):
            moments = sampling(known_activations, known_labels, SAMPLES, seed)
            for form, accuracies in baseline.items():
                sampled = class_rates(activations, *moments, form=form, log2=torch.log2)
                accuracies.append(accuracy(sampled.numpy(), labels))
        rows.append(
            [
                layer,
                card.pool,
                percent(accuracy(rates, labels)),
                percent(accuracy(rates, labels, top=3)),
                *(f"{percent(np.mean(found))} ± {100 * np.std(found):.1f}" for found in baseline.values()),
                f"{np.sum(onnx_rates.argmin(1) == rates.argmin(1))} / {len(labels)}",
                f"{np.abs(onnx_rates - rates).max():.1e}",
            ]
        )
        reporter.say(" | ".join(map(str, rows[-1])))

    zero_shot = []
    for templates in (PLAIN, card.templates):
        text = class_embeddings(encode_prompts(encoder, unseen.classes, templates))
        zero_shot.append(accuracy(-(features.embeddings() @ text.T).numpy(), labels))
    write_report(
        "accuracy",
        "Accuracy of every exit",
        f"python benchmarks/accuracy.py {train.name} {validation.name}",
        f"Top-1 in per cent on {len(labels)} pictures that neither trained nor chose anything; heads trained "
        f"on {card.pictures} pictures. Sampling: moments of {SAMPLES} pictures a class on the raw "
        f"activation, mean and spread of {DRAWS} draws, with the paper's rate and the Gaussian code length. "
        "ONNX: labels equal to PyTorch's, and the largest difference of a rate.\n\n"
        f"Full CLIP, zero-shot: {percent(zero_shot[0])} with one plain prompt, {percent(zero_shot[1])} with "
        f"{len(card.templates)} templates.",
        [
            "exit",
            "pool",
            "T-GEM + Jumper",
            "its top-3",
            "sampling, paper",
            "sampling, Gaussian",
            "ONNX = PyTorch",
            "max ΔR",
        ],
        rows,
    )


def accuracy(rates: np.ndarray, labels: torch.Tensor, top: int = 1) -> float:
    """Share of pictures with their label among the `top` smallest rates."""
    return float((top_k(rates, top) == labels.numpy()[:, None]).any(1).mean())


def percent(share: float) -> str:
    """With one decimal."""
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    typer.run(main)
