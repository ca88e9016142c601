"""Answers of every exit to every picture, in fp32 and INT8: the data of dynamic_exits.py.

Heads of both kinds are trained behind all blocks, from several seeds. For each kind, those of the first seed
are put into one graph, and that graph is made INT8. Both run once over the pictures that calibrate and those
that evaluate, so whatever subset of the exits decides together, and each exit alone, can be worked out from
the answers. Everything is kept in the cache as soon as it is there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from measuring.files import OPSET
from measuring.machine import int8_target
from measuring.pictures import paths_of, read_all
from numpy.typing import NDArray
from torch import Tensor

from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.session import open_session
from tgems_edge.sources.data import ImageFolder, read_labelled, refuse_shared
from tgems_export.encoders.encoder import Encoder, load_encoder
from tgems_export.encoders.features import compute_features
from tgems_export.encoders.prompts import class_embeddings, encode_prompts, load_templates
from tgems_export.encoders.towers.base import Pool
from tgems_export.exporting.dynamic.decisions import ExitAnswers
from tgems_export.exporting.dynamic.gates import inr
from tgems_export.exporting.exits import DEMO_HEADS, DEMO_HEADS_190
from tgems_export.exporting.graph.costs import count_full
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.exporting.quantization.products import find_readouts
from tgems_export.exporting.quantization.ranges import with_outputs
from tgems_export.exporting.quantization.recipe import Recipe
from tgems_export.exporting.quantization.search import Quantiser, batches, read_calibrating
from tgems_export.heads.base import HeadKindName
from tgems_export.heads.file import head_file, load_head, load_head_card
from tgems_export.heads.learning import TrainingSettings, train_heads
from tgems_export.heads.training.ssa import SsaSettings
from tgems_export.heads.training.tgem import TGemSettings
from tgems_export.storage.cache import cache_root

__all__ = [
    "EPOCHS",
    "FP32",
    "INT8",
    "KINDS",
    "TARGET",
    "Costs",
    "Heads",
    "Material",
    "Pictures",
    "Precision",
    "Said",
    "Tower",
    "gather",
]

Precision = Literal["fp32", "INT8"]
Purpose = Literal["calibration", "evaluation"]
FP32: Precision = "fp32"
INT8: Precision = "INT8"
PURPOSES: tuple[Purpose, ...] = ("calibration", "evaluation")

KINDS: dict[HeadKindName, str] = {"tgem": "T-GEM", "ssa": "SSA"}
EPOCHS = 30  # of a T-GEM head; 120 take four times as long and gain a few tenths of a point
SHARE = 1.0  # of the pictures that an SSA head learns from; the paper's tenth would give T-GEM an advantage
TARGET = int8_target()


@dataclass(frozen=True)
class Pictures:
    """n pictures with one purpose."""

    pixels: NDArray[np.uint8]  # (n, H, W, 3)
    labels: NDArray[np.int64]  # (n,)


@dataclass(frozen=True)
class Material:
    """The pictures that train heads, decide, and measure."""

    encoder: Encoder
    training: ImageFolder
    pools: dict[int, Pool]  # of the T-GEM heads, by layer
    text: Tensor  # (C, E)
    ranging: NDArray[np.uint8]  # pictures that calibrate, as `export` takes them to make INT8
    calibration: Pictures
    evaluation: Pictures
    zero_shot: float  # accuracy of the full CLIP on the pictures that evaluate
    cache: Path  # of heads
    key: str  # of answers: they depend on all pictures

    @property
    def layers(self) -> tuple[int, ...]:
        """All blocks, counted from 1."""
        return tuple(range(1, self.encoder.blocks + 1))


def gather(train: Path, calibration: Path, evaluation: Path, reporter: Reporter) -> Material:
    """Reads the folders.

    Raises:
        DataError: a folder that cannot be used, or one picture with two purposes.
    """
    encoder, training = load_encoder(), read_labelled(train)
    calibrates, measures = (
        read_labelled(root).labelled_as(training.classes) for root in (calibration, evaluation)
    )
    refuse_shared(calibrates, training.digests, f"those of {train}")
    refuse_shared(measures, training.digests, f"those of {train}")
    refuse_shared(measures, calibrates.digests, f"those of {calibration}")
    text = class_embeddings(encode_prompts(encoder, training.classes, load_templates().train))
    embeddings = compute_features(encoder, measures, reporter).embeddings()
    digests = [encoder.id.sha256, *(folder.sha256 for folder in (training, calibrates, measures))]
    return Material(
        encoder=encoder,
        training=training,
        pools=_shipped_pools(training.classes, encoder.blocks),
        text=text,
        ranging=read_calibrating(paths_of(calibrates), encoder.preprocessing, reporter),
        calibration=Pictures(read_all(calibrates, encoder.preprocessing), calibrates.labels),
        evaluation=Pictures(read_all(measures, encoder.preprocessing), measures.labels),
        zero_shot=float(((embeddings @ text.T).argmax(1).numpy() == measures.labels).mean()),
        cache=cache_root() / "dynamic-exits" / train.name,
        key=hashlib.sha256(json.dumps([*digests, EPOCHS, SHARE, TARGET]).encode()).hexdigest()[:16],
    )


def _shipped_pools(classes: Sequence[str], blocks: int) -> dict[int, Pool]:
    """The pools of the built-in heads for these classes, so that none has to be tried again."""
    cards = {folder: load_head_card(head_file(folder, 1)) for folder in (DEMO_HEADS, DEMO_HEADS_190)}
    shipped = next(folder for folder, card in cards.items() if set(classes) <= set(card.classes))
    return {layer: load_head_card(head_file(shipped, layer)).pool for layer in range(1, blocks + 1)}


@dataclass(frozen=True)
class Said:
    """Answers of all exits, in one precision."""

    calibration: list[ExitAnswers]
    evaluation: list[ExitAnswers]


@dataclass(frozen=True)
class Heads:
    """The heads of one kind and seed behind all blocks."""

    material: Material
    kind: HeadKindName
    seed: int
    reporter: Reporter

    @property
    def place(self) -> Path:
        """The folder they are kept in."""
        return self.material.cache / f"seed-{self.seed}"

    @cached_property
    def parts(self) -> list[Cut]:
        """The exits, trained where they are not there yet."""
        material = self.material
        pools = material.pools if self.kind == "tgem" else dict.fromkeys(material.layers, "mean")
        head = (
            TGemSettings(epochs=EPOCHS, seed=self.seed)
            if self.kind == "tgem"
            else SsaSettings(share=SHARE, seed=self.seed)
        )
        for pool in sorted(set(pools.values())):
            layers = tuple(layer for layer in pools if pools[layer] == pool)
            settings = TrainingSettings(
                layers, material.training.classes, load_templates(), pool=pool, head=head
            )
            train_heads(material.encoder, material.training, settings, self.place, self.reporter)
        loaded = [
            load_head(head_file(self.place, i, self.kind), material.encoder, self.kind)
            for i in material.layers
        ]
        return [Cut(card.layer, card.pool, head) for head, card in loaded]

    @cached_property
    def costs(self) -> Costs:
        """Operations of exits."""
        return Costs(self.material, self.parts)

    def rates(self, activations: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Rates (n, C) of every exit, of activations (n, D) of each."""
        readouts = [part.head.readout(self.material.text) for part in self.parts]  # may train them
        with torch.no_grad():
            return [
                readout(torch.from_numpy(activation)).numpy()
                for readout, activation in zip(readouts, activations, strict=True)
            ]


@dataclass(frozen=True)
class Tower:
    """The graph of all exits of one kind, in both precisions.

    Heads stay in fp32, so in INT8 as well every seed has the same activations in front of them. The graph has
    those of the first seed, whose rates choose the recipe.
    """

    heads: Heads

    def _kept(self, name: str) -> Path:
        folder = self.heads.place / self.heads.material.key
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.heads.kind}-{name}"

    @cached_property
    def exact(self) -> onnx.ModelProto:
        """The graph in fp32."""
        path, material = self._kept("fp32.onnx"), self.heads.material
        if not path.exists():
            graph = ExitGraph(material.encoder, self.heads.parts, material.text)
            _save(to_onnx(graph, material.encoder.preprocessing.size, OPSET), path)
        return onnx.load(path)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe for INT8 that changes the rates of all exits least."""
        path = self._kept("recipe.json")
        if not path.exists():
            quantiser = Quantiser(self.exact, self.heads.material.ranging, self.heads.reporter)
            recipe = quantiser.best(TARGET)
            _save(quantiser.make(recipe), self._kept("int8.onnx"))
            path.write_text(json.dumps(dataclasses.asdict(recipe)), encoding="utf-8")
        return Recipe(**json.loads(path.read_text(encoding="utf-8")))

    @cached_property
    def int8(self) -> onnx.ModelProto:
        """The graph in INT8; it lies beside its recipe."""
        assert self.recipe
        return onnx.load(self._kept("int8.onnx"))

    def seen(self, precision: Precision, purpose: Purpose) -> dict[str, NDArray[np.float32]]:
        """Rates (exits, n, C), spreads (exits - 1, n) and activations (exits, n, D) of the graph itself."""
        path, material = self._kept(f"{precision}-{purpose}.npz"), self.heads.material
        if not path.exists():
            model = self.exact if precision == FP32 else self.int8
            pixels = getattr(material, purpose).pixels
            title = f"{KINDS[self.heads.kind]}, {precision}, {purpose}"
            _save_arrays(path, **_run(model, material.layers, pixels, title, self.heads.reporter))
        with np.load(path) as kept:
            return dict(kept)

    def said(self, heads: Heads, precision: Precision) -> Said:
        """Answers of heads of any seed to all pictures."""
        return Said(*(self._answers(heads, self.seen(precision, purpose)) for purpose in PURPOSES))

    def _answers(self, heads: Heads, seen: dict[str, NDArray[np.float32]]) -> list[ExitAnswers]:
        rates = heads.rates(seen["activations"])
        return [ExitAnswers(*pair) for pair in zip(rates, [*seen["spreads"], None], strict=True)]

    @cached_property
    def rounding(self) -> float:
        """The largest difference between a rate of the graph and of `Heads.rates`, in either precision."""
        found = [self.seen(precision, "evaluation") for precision in (FP32, INT8)]
        return max(
            float(np.abs(seen["rates"] - np.stack(self.heads.rates(seen["activations"]))).max())
            for seen in found
        )

    @cached_property
    def inr(self) -> NDArray[np.float64]:
        """Eq. 5 of every exit, on the pictures that calibrate."""
        clean, noisy = (self.seen(precision, "calibration")["activations"] for precision in (FP32, INT8))
        return inr(clean, noisy)

    def static(self, layer: int) -> onnx.ModelProto:
        """The graph of one exit in INT8, by the recipe of all of them."""
        part, material = self.heads.parts[layer - 1], self.heads.material
        graph = ExitGraph(material.encoder, [part], material.text)
        model = to_onnx(graph, material.encoder.preprocessing.size, OPSET)
        return Quantiser(model, material.ranging, self.heads.reporter).make(self.recipe)


def _run(
    model: onnx.ModelProto,
    layers: Sequence[int],
    pixels: NDArray[np.uint8],
    title: str,
    reporter: Reporter,
) -> dict[str, NDArray[np.float32]]:
    """See `Tower.seen`."""
    names = {
        "rates": [f"rates_{layer}" for layer in layers],
        "spreads": [f"spread_{layer}" for layer in layers[:-1]],
        "activations": find_readouts(model),
    }
    wanted = [name for group in names.values() for name in group]
    session = open_session(with_outputs(model, wanted))
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in wanted}
    with reporter.task(title, len(pixels), unit="pictures") as task:
        for batch in batches(pixels):
            for name, values in zip(wanted, session.run(wanted, {INPUT: batch}), strict=True):
                found[name].append(values)
            task.advance(len(batch))
    return {key: np.stack([np.concatenate(found[name]) for name in group]) for key, group in names.items()}


class Costs:
    """Operations of a picture, as shares of the full image tower's; heads and gates are counted."""

    def __init__(self, material: Material, parts: Sequence[Cut]):
        """Start with heads of one kind behind all blocks."""
        self._material, self._parts = material, parts
        self._known: dict[tuple[int, ...], list[float]] = {}
        self.full = count_full(material.encoder).operations
        self.static = [self._count([layer])[0] / self.full for layer in material.layers]

    @cached_property
    def gate(self) -> int:
        """A gate's: the spread of the patch tokens (mean, difference, square, sum) and its weighted sum."""
        encoder = self._material.encoder
        stem = encoder.tower.stem(encoder.preprocessing).module
        tokens, _, width = stem(_blank(encoder)).shape
        return 4 * (tokens - encoder.tower.prefix) * width + 6

    def dynamic(self, layers: Sequence[int]) -> list[float]:
        """Operations of a picture that leaves at each of several exits, those of earlier exits included."""
        if tuple(layers) not in self._known:
            gates = [min(number + 1, len(layers) - 1) for number in range(len(layers))]
            self._known[tuple(layers)] = [
                (count + passed * self.gate) / self.full
                for count, passed in zip(self._count(layers), gates, strict=True)
            ]
        return self._known[tuple(layers)]

    def operations(self, layers: Sequence[int]) -> list[int]:
        """The same as numbers, for a card."""
        return [round(share * self.full) for share in self.dynamic(layers)]

    def _count(self, layers: Sequence[int]) -> list[int]:
        among = [self._parts[layer - 1] for layer in layers]
        return ExitGraph(self._material.encoder, among, self._material.text).operations


def _blank(encoder: Encoder) -> Tensor:
    return Tensor(1, *encoder.preprocessing.size, 3).byte()


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Whole or not at all, as is all that is kept: an interrupted run goes on with it."""
    beside = path.with_name(f"{path.name}.part")
    onnx.save(model, beside)
    beside.replace(path)


def _save_arrays(path: Path, **arrays: NDArray) -> None:
    beside = path.with_name(f"part-{path.name}")
    np.savez(beside, **arrays)
    beside.replace(path)
