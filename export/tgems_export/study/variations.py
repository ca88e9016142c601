"""One head, trained as usual or with one thing changed, and all that can be said of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tgems_export.encoders.prompts import class_embeddings, teacher_targets
from tgems_export.encoders.towers.base import Pool
from tgems_export.heads.losses import LossName
from tgems_export.heads.tgem import TGemHead
from tgems_export.heads.training.base import TrainingSet, predict
from tgems_export.heads.training.health import examine
from tgems_export.heads.training.tgem import TGemSettings, train_tgem_head
from tgems_export.splits import split
from tgems_export.study.material import Material
from tgems_export.study.measures import Value, measure_answers, measure_certainty

__all__ = ["Variation", "measure_head", "training_members"]

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Variation:
    """A head; everything behind `epochs` is what may differ from the method as `train` has it."""

    layer: int
    pool: Pool
    seed: int
    k: int
    epochs: int
    loss: LossName = "tgems"
    jumper: bool = True  # without: the activation itself, standardised
    templates: Literal["all", "one"] = "all"
    per_class: int | None = None  # labelled pictures; None for all
    labels: Literal["folders", "teacher"] = "folders"
    training: float = 1  # times as many epochs

    @property
    def passes(self) -> int:
        """Epochs, all told."""
        return max(1, round(self.training * self.epochs))

    @property
    def name(self) -> str:
        """Says what is unusual; different variations of one study have different names."""
        fields = dataclasses.fields(self)
        unusual = [
            f"{f.name} {getattr(self, f.name)}" for f in fields[5:] if getattr(self, f.name) != f.default
        ]
        return ", ".join([f"layer {self.layer}", self.pool, f"seed {self.seed}", f"k {self.k}", *unusual])


class _Unprojected(TGemHead):
    """A head without Jumper: the T-GEM describes the activation itself, all of its D dimensions.

    Standardised, as the Jumper's output is; otherwise the floor under sigma would mean something else.
    """

    def __init__(self, width: int, embedding_width: int, k: int):
        super().__init__(width, embedding_width, width)
        self.jumper = nn.BatchNorm1d(width, affine=False)  # type: ignore[assignment]


def training_members(
    material: Material, seed: int, per_class: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the training pictures into those that train and those that watch, as for the rivals."""
    labels = material.training.labels
    train, watch = split(labels, VALIDATION_SHARE, seed)
    if per_class is not None:
        rng = np.random.default_rng(seed)
        groups = [rng.permutation(train[labels[train] == label]) for label in range(len(material.classes))]
        train = np.sort(np.concatenate([group[:per_class] for group in groups]))
    return train, watch


def measure_head(material: Material, variation: Variation) -> Iterator[tuple[str, Value]]:
    """Trains a head and yields its figures: answers, health, certainty, other prompts and other names."""
    layer, pool = variation.layer, variation.pool
    head, watching = _train(material, variation)
    text = class_embeddings(_prompts(material, variation))

    def rates(activations: Tensor, words: Tensor = text) -> NDArray[np.float32]:
        return head.rates(activations, words).numpy()

    unseen = material.evaluation.activations(layer, pool)
    width = unseen.shape[1]
    labels = material.evaluation.labels
    yield "watched", float((predict(head, watching[0], text) == watching[1]).float().mean())
    yield from measure_answers(rates(unseen), labels)
    held_out = material.held_out_text
    if held_out is not None:
        yield "held-out templates", float((rates(unseen, held_out).argmin(1) == labels).mean())
    if material.new_names and material.new_text is not None:
        answers = rates(material.new_names.activations(layer, pool), material.new_text).argmin(1)
        yield "new names", float((answers == material.new_names.labels).mean())
    yield from _measure_health(material, head, text, unseen)
    yield from measure_certainty(
        rates(material.calibration.activations(layer, pool)),
        material.calibration.labels,
        rates(unseen),
        labels,
        {what: rates(p.activations(layer, pool)) for what, p in material.unknown.items()},
        min(variation.k, width) if variation.jumper else width,
    )


def _train(material: Material, variation: Variation) -> tuple[TGemHead, tuple[Tensor, Tensor]]:
    """The head, and the pictures (m, D) and labels (m,) that watched."""
    train, watch = training_members(material, variation.seed, variation.per_class)
    activations = material.training.activations(variation.layer, variation.pool)
    labels = torch.from_numpy(material.training.labels)
    if variation.labels == "teacher":
        embeddings = material.training.embeddings()
        targets = teacher_targets(embeddings, material.text, material.logit_scale)
    else:
        targets = nn.functional.one_hot(labels, len(material.classes)).float()
    prompts = _prompts(material, variation)
    width = activations.shape[1]
    settings = TGemSettings(k=min(variation.k, width), loss=variation.loss, seed=variation.seed)
    data = TrainingSet(
        activations=activations[train],
        targets=targets[train],
        prompts=prompts,
        validation_activations=activations[watch],
        validation_labels=labels[watch],
        text=class_embeddings(prompts),
    )
    epochs = _epochs(settings, variation.passes, len(train))
    settings = dataclasses.replace(settings, epochs=epochs)
    make = TGemHead if variation.jumper else _Unprojected
    head = train_tgem_head(data, settings, layer=variation.layer, make=make)
    return head, (data.validation_activations, data.validation_labels)


def _prompts(material: Material, variation: Variation) -> Tensor:
    return material.prompts if variation.templates == "all" else material.prompts[:, :1]


def _epochs(settings: TGemSettings, epochs: int, pictures: int) -> int:
    """More passes over a handful of pictures, so that it is not starved of steps."""
    steps = math.ceil(pictures / settings.least_batch)
    return epochs * max(1, settings.steps_per_epoch // steps)


def _measure_health(
    material: Material, head: TGemHead, text: Tensor, unseen: Tensor
) -> Iterator[tuple[str, Value]]:
    labels = torch.from_numpy(material.evaluation.labels)
    held_out = material.held_out_text
    answers = predict(head, unseen, text)
    health = examine(
        head.jumper(unseen),
        labels,
        head.tgem(text),
        answers,
        None if held_out is None else predict(head, unseen, held_out),
        material.classes,
    )
    yield "rank", health.rank
    yield "sigma least", health.sigma_least
    yield "sigma most", health.sigma_most
    yield "answers", torch.bincount(answers, minlength=len(material.classes)).tolist()
    yield "warnings", list(health.warnings())
