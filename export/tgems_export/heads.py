"""From a folder of pictures to head files: features, targets, one head per layer, its health, its card."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tgems_edge.errors import DataError, HeadError, InputError
from tgems_edge.model_file import records
from tgems_edge.progress import Reporter, Task
from tgems_edge.sources.data import ImageFolder
from tgems_export.cache import usable_cache
from tgems_export.encoder import Encoder
from tgems_export.features import Features, compute_features
from tgems_export.head import (
    ExitHead,
    Head,
    HeadCard,
    HeadKind,
    SsaHead,
    head_file,
    list_pictures,
    load_head_card,
    save_head,
    save_trained_pictures,
)
from tgems_export.health import examine, guessing
from tgems_export.prompts import (
    Templates,
    check_class_names,
    class_embeddings,
    encode_prompts,
    teacher_targets,
)
from tgems_export.provenance import versions
from tgems_export.splits import split
from tgems_export.ssa import SsaSettings, Teacher, train_ssa_head
from tgems_export.towers import Pool
from tgems_export.training import Settings, TrainingSet, predict, train_head, validate

__all__ = ["Plan", "train_heads"]

VALIDATION_SHARE = 0.1
EPOCHS_BETWEEN_NOTES = 5
POOL_TRIAL = 8  # share of the epochs after which the better pool shows


@dataclass(frozen=True)
class Plan:
    """What is to be trained on a folder."""

    layers: tuple[int, ...]
    classes: tuple[str, ...]
    templates: Templates
    labels: Literal["folders", "teacher"] = "folders"
    pool: Literal["auto", "cls", "mean"] = "auto"
    settings: Settings | SsaSettings = field(default_factory=Settings)

    @property
    def kind(self) -> HeadKind:
        """Which heads its settings are for."""
        return "ssa" if isinstance(self.settings, SsaSettings) else "tgem"


@dataclass(frozen=True)
class _Material:
    """What all layers share: n readable pictures, split, and the texts of the classes."""

    features: Features
    pools: tuple[Pool, ...]  # that the encoder has
    targets: Tensor  # (n, C)
    train: Tensor  # indices into n
    validation: Tensor  # indices into n
    prompts: Tensor  # (C, P, E) trained on
    text: Tensor  # (C, E) tables are made from
    held_out_text: Tensor | None  # (C, E) of templates never trained on
    logit_scale: float  # CLIP's own


def train_heads(
    encoder: Encoder,
    folder: ImageFolder,
    plan: Plan,
    out: Path,
    reporter: Reporter,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Trains a head for every layer of the plan; heads that are there already are kept.

    Args:
        encoder: frozen.
        folder: labelled, or not with `plan.labels == "teacher"`.
        plan: see `Plan`.
        out: the folder of the head files.
        reporter: where progress, figures and warnings go.
        overwrite: replace head files that were trained otherwise.

    Raises:
        EncoderError: a layer the tower does not have.
        DataError: prompts that do not fit, or too few readable pictures.
        InputError: a pool that heads of this kind do not read.
        HeadError: a head file that was trained otherwise is in the way.
    """
    check_class_names(plan.classes, str(folder.root))
    plan = _settle(encoder, plan)
    if out.exists() and not out.is_dir():
        raise HeadError(f"{out}: a file, not a folder; give another --out")
    cards = [_card_before_training(encoder, folder, plan, layer) for layer in plan.layers]
    files = [head_file(out, layer, plan.kind) for layer in plan.layers]
    pending = []
    for path, card in zip(files, cards, strict=True):
        if _is_trained(path, card, overwrite):
            reporter.say(f"{path}: trained already, kept")
        else:
            pending.append((path, card))
    save_trained_pictures(out, folder)
    if pending:
        material = _prepare(encoder, folder, plan, reporter)
        for path, card in pending:
            head, trained = _train_layer(material, card, plan, reporter)
            try:
                save_head(path, head, trained, overwrite=overwrite)
                _report(trained, path, plan, reporter)
            except FileExistsError:  # another process made one meanwhile
                if _is_trained(path, card, overwrite):
                    reporter.say(f"{path}: trained by another process meanwhile, kept")
            _checkpoint(dataclasses.replace(card, pool=trained.pool), reporter).unlink(missing_ok=True)
    return files


def _settle(encoder: Encoder, plan: Plan) -> Plan:
    """The plan, if it fits the encoder; the pool of an SSA head is no choice."""
    settings = plan.settings
    if isinstance(settings, SsaSettings):
        if plan.pool == "cls":
            raise InputError("--pool cls: an SSA head reads the mean of the patch tokens; give --pool mean")
        return dataclasses.replace(plan, pool="mean")
    if settings.k > encoder.width:
        raise DataError(f"--k {settings.k}: at most {encoder.width}, the width of {encoder.id.name}")
    return plan


def _card_before_training(encoder: Encoder, folder: ImageFolder, plan: Plan, layer: int) -> HeadCard:
    """Everything about a head that is known before it is trained; the rest is left empty."""
    encoder.check_layer(layer)
    if plan.pool != "auto":
        encoder.check_pool(plan.pool)
    settings = plan.settings
    stated = dataclasses.asdict(settings) | {"labels": plan.labels, "pool": plan.pool}
    return HeadCard(
        encoder=encoder.id,
        preprocessing=encoder.preprocessing,
        layer=layer,
        pool="cls",
        k=encoder.embedding_width if isinstance(settings, SsaSettings) else settings.k,
        classes=plan.classes,
        templates=plan.templates.train,
        templates_held_out=plan.templates.held_out,
        settings={name: str(value) for name, value in stated.items()},
        data_sha256=folder.sha256,
        pictures=0,
        accuracy=0.0,
        accuracy_held_out_templates=None,
        warnings=(),
        versions=versions("torch", "open_clip_torch"),
        trained_pictures_sha256=hashlib.sha256(list_pictures(folder)).hexdigest(),
        kind="ssa" if plan.kind == "ssa" else None,
    )


def _is_trained(path: Path, expected: HeadCard, overwrite: bool) -> bool:
    """Whether a head file is there that this plan would produce again."""
    if not path.exists():
        return False
    try:
        found = load_head_card(path)
    except HeadError:
        if overwrite:
            return False
        raise
    learnt = ("pool", "pictures", "accuracy", "accuracy_held_out_templates", "warnings", "versions")
    stated = (*learnt, "trained_pictures_sha256")  # which earlier versions left out; `data_sha256` has it all
    same = dataclasses.replace(expected, **{name: getattr(found, name) for name in stated}) == found
    if not same and not overwrite:
        raise HeadError(f"{path}: exists and was trained otherwise; give --overwrite or another --out")
    return same


def _prepare(encoder: Encoder, folder: ImageFolder, plan: Plan, reporter: Reporter) -> _Material:
    prompts = encode_prompts(encoder, plan.classes, plan.templates.train)
    held_out = plan.templates.held_out
    text = class_embeddings(prompts)
    held_out_text = class_embeddings(encode_prompts(encoder, plan.classes, held_out)) if held_out else None
    features = compute_features(encoder, folder, reporter)
    if plan.labels == "teacher":
        targets = teacher_targets(features.embeddings(), text, encoder.text.logit_scale)
    else:
        labels = torch.from_numpy(folder.labels[features.indices])
        for label, name in enumerate(plan.classes):
            if not (labels == label).any():
                raise DataError(f"{folder.root}: no picture of class {name!r} can be read; add some")
        targets = torch.nn.functional.one_hot(labels, len(plan.classes)).float()
    train, validation = split(targets.argmax(1).numpy(), VALIDATION_SHARE, plan.settings.seed)
    if len(train) < 2 or len(validation) < 1:
        raise DataError(
            f"{folder.root}: {len(targets)} readable pictures; training and validating needs more"
        )
    return _Material(
        features=features,
        pools=encoder.tower.pools,
        targets=targets,
        train=torch.from_numpy(train),
        validation=torch.from_numpy(validation),
        prompts=prompts,
        text=text,
        held_out_text=held_out_text,
        logit_scale=encoder.text.logit_scale,
    )


def _train_layer(
    material: _Material, card: HeadCard, plan: Plan, reporter: Reporter
) -> tuple[ExitHead, HeadCard]:
    """A head, and its card with what was learnt."""
    if isinstance(plan.settings, SsaSettings):
        return _train_ssa(material, card, plan.settings, reporter)
    return _train_tgem(material, card, plan, plan.settings, reporter)


def _train_tgem(
    material: _Material, card: HeadCard, plan: Plan, settings: Settings, reporter: Reporter
) -> tuple[Head, HeadCard]:
    pool = _choose_pool(material, card.layer, settings, reporter) if plan.pool == "auto" else plan.pool
    card = dataclasses.replace(card, pool=pool)
    data = _training_set(material, card.layer, pool)
    checkpoint = _checkpoint(card, reporter)
    with reporter.task(f"layer {card.layer}, {pool}", settings.epochs, unit="epochs") as task:
        note = _noter(task, settings.epochs)
        head = train_head(data, settings, layer=card.layer, checkpoint=checkpoint, on_epoch=note)
    return head, _card_of_tgem(card, head, data, material.held_out_text)


def _train_ssa(
    material: _Material, card: HeadCard, settings: SsaSettings, reporter: Reporter
) -> tuple[SsaHead, HeadCard]:
    card = dataclasses.replace(card, pool="mean")
    data = _training_set(material, card.layer, card.pool)
    teacher = Teacher(material.features.embeddings()[material.train], material.logit_scale)
    epochs = settings.passes(len(data.activations))
    with reporter.task(f"layer {card.layer}, SSA", epochs, unit="epochs") as task:
        note = _noter(task, epochs)
        head = train_ssa_head(data, teacher, settings, layer=card.layer, on_epoch=note)
    return head, _card_of_ssa(card, head, data, settings, material.held_out_text)


def _choose_pool(material: _Material, layer: int, settings: Settings, reporter: Reporter) -> Pool:
    """The pool that does better on held-out pictures after an eighth of the training."""
    if len(material.pools) == 1:
        return material.pools[0]
    settings = dataclasses.replace(settings, epochs=max(1, settings.epochs // POOL_TRIAL))
    accuracy: dict[Pool, float] = {}
    for pool in material.pools:
        data = _training_set(material, layer, pool)
        head = train_head(data, settings, layer=layer)
        accuracy[pool] = validate(head, data)
    trial = ", ".join(f"{pool} {value:.1%}" for pool, value in accuracy.items())
    reporter.say(f"layer {layer}: after {settings.epochs} epochs {trial} on held-out pictures")
    return max(material.pools, key=lambda pool: accuracy[pool])


def _training_set(material: _Material, layer: int, pool: Pool) -> TrainingSet:
    activations = material.features.activations(layer, pool)
    return TrainingSet(
        activations=activations[material.train],
        targets=material.targets[material.train],
        prompts=material.prompts,
        validation_activations=activations[material.validation],
        validation_labels=material.targets[material.validation].argmax(1),
        text=material.text,
    )


def _checkpoint(card: HeadCard, reporter: Reporter) -> Path:
    key = hashlib.sha256(records.to_json(card).encode()).hexdigest()[:32]
    return usable_cache(reporter) / "training" / f"{key}.pt"


def _noter(task: Task, epochs: int) -> Callable[[int, Callable[[], float]], None]:
    """Counts epochs, and shows the accuracy on held-out pictures now and then."""
    seen = 0

    def note(epoch: int, accuracy: Callable[[], float]) -> None:
        nonlocal seen
        if epoch % EPOCHS_BETWEEN_NOTES == 0 or epoch == epochs:
            task.advance(epoch - seen, f"{accuracy():.1%} on held-out pictures")
            seen = epoch

    return note


def _card_of_tgem(card: HeadCard, head: Head, data: TrainingSet, held_out_text: Tensor | None) -> HeadCard:
    activations = data.validation_activations
    held_out = None if held_out_text is None else predict(head, activations, held_out_text)
    health = examine(
        head.jumper(activations),
        data.validation_labels,
        head.tgem(data.text),
        predict(head, activations, data.text),
        held_out,
        card.classes,
    )
    return dataclasses.replace(
        card,
        pictures=len(data.activations),
        accuracy=health.accuracy,
        accuracy_held_out_templates=health.accuracy_held_out_templates,
        warnings=health.warnings(),
    )


def _card_of_ssa(
    card: HeadCard, head: SsaHead, data: TrainingSet, settings: SsaSettings, held_out_text: Tensor | None
) -> HeadCard:
    accuracy = validate(head, data)
    held_out = None if held_out_text is None else dataclasses.replace(data, text=held_out_text)
    watching = len(data.validation_labels)
    guessed = (
        f"accuracy {accuracy:.0%} on {watching} held-out pictures cannot be told from guessing; check the "
        "labels, give more pictures, or use a later layer"
    )
    return dataclasses.replace(
        card,
        pictures=settings.pictures(len(data.activations)),
        accuracy=accuracy,
        accuracy_held_out_templates=None if held_out is None else validate(head, held_out),
        warnings=(guessed,) if accuracy <= guessing(data.validation_labels) else (),
    )


def _report(card: HeadCard, path: Path, plan: Plan, reporter: Reporter) -> None:
    against = "agreement with the full CLIP" if plan.labels == "teacher" else "accuracy"
    held_out = card.accuracy_held_out_templates
    unseen = "" if held_out is None else f", {held_out:.1%} with templates never trained on"
    reporter.say(f"{path}: {against} {card.accuracy:.1%} on held-out pictures{unseen}")
    for warning in card.warnings:
        reporter.warn(f"layer {card.layer}: {warning}")
