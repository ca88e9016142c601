"""Train heads on a folder of pictures: features, targets, one head per layer, its health, its card."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from tgems_edge.errors import DataError, HeadError, InputError
from tgems_edge.model_file import records
from tgems_edge.progress import Reporter, Task
from tgems_edge.sources.data import ImageFolder
from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.features import Features, compute_features
from tgems_export.encoders.prompts import (
    Templates,
    check_class_names,
    class_embeddings,
    encode_prompts,
    teacher_targets,
)
from tgems_export.encoders.towers.base import ExitPoint, Pool
from tgems_export.heads.base import ExitHead
from tgems_export.heads.calibrating import Calibrating, calibrate_head, given, hold_out
from tgems_export.heads.file import (
    HeadCard,
    head_file,
    list_pictures,
    load_head_card,
    save_head,
    save_trained_pictures,
)
from tgems_export.heads.registry import DEFAULT_KIND, HeadKind, kind_of
from tgems_export.heads.training.base import HeadSettings, OnEpoch, Teacher, TrainingSet, validate
from tgems_export.heads.training.tgem import TGemSettings
from tgems_export.provenance import versions
from tgems_export.splits import split
from tgems_export.storage.cache import usable_cache

__all__ = ["TrainingSettings", "default_views", "train_heads"]

VALIDATION_SHARE = 0.1
POOL_TITLES: dict[Pool, str] = {
    "cls": "the class token",
    "mean": "the mean over the positions",
    "embedding": "the joint embedding",
}
EPOCHS_BETWEEN_NOTES = 5
MOST_VIEWS = 8
ENOUGH_EXAMPLES = 20_000


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one training on a folder."""

    layers: tuple[int, ...]  # numbers of exit points
    classes: tuple[str, ...]
    templates: Templates
    labels: Literal["folders", "teacher"] = "folders"
    pool: Literal["auto"] | Pool = "auto"
    views: int = 1  # of every picture: itself, and random parts of it
    head: HeadSettings = field(default_factory=TGemSettings)

    def stated(self) -> dict[str, str]:
        """The fields that a head file records beside those of its kind."""
        stated: dict[str, str] = {"labels": self.labels, "pool": self.pool}
        return stated if self.views == 1 else {**stated, "views": str(self.views)}

    @property
    def kind(self) -> HeadKind:
        """The kind of head that is trained."""
        return kind_of(self.head)


@dataclass(frozen=True)
class _Material:
    """Data that all layers share: n readable pictures, split, and the texts of the classes."""

    views: tuple[Features, ...]  # the first of the pictures themselves
    targets: Tensor  # (n, C)
    train: Tensor  # indices into n
    validation: Tensor  # indices into n
    calibrating: Calibrating | None
    prompts: Tensor  # (C, P, E) trained on
    text: Tensor  # (C, E) tables are made from
    held_out_text: Tensor | None  # (C, E) of templates never trained on
    logit_scale: float  # CLIP's own


def default_views(pictures: int) -> int:
    """Views of every picture for so many pictures: few overfit, and many cost time."""
    return max(1, min(MOST_VIEWS, ENOUGH_EXAMPLES // max(1, pictures)))


def train_heads(
    encoder: Encoder,
    folder: ImageFolder,
    settings: TrainingSettings,
    out: Path,
    reporter: Reporter,
    *,
    calibration: ImageFolder | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Trains a head for every layer that is asked for; heads that are there already are kept.

    Args:
        encoder: frozen.
        folder: labelled, or not with `settings.labels == "teacher"`.
        settings: see `TrainingSettings`.
        out: the folder of the head files.
        reporter: where progress, figures and warnings go.
        calibration: labelled pictures that calibrate; default: a part of the folder, if it is enough.
        overwrite: replace head files that were trained otherwise.

    Raises:
        EncoderError: a layer the tower does not have.
        DataError: prompts that do not fit, or too few readable pictures.
        InputError: a pool that heads of this kind do not read.
        HeadError: a head file that was trained otherwise is in the way.
    """
    check_class_names(settings.classes, str(folder.root))
    settings = _settle(settings)
    if out.exists() and not out.is_dir():
        raise HeadError(f"{out}: a file, not a folder; give another --out")
    cards = [
        _card_before_training(encoder, folder, calibration, settings, layer) for layer in settings.layers
    ]
    files = [head_file(out, layer, settings.kind.name) for layer in settings.layers]
    pending = []
    for path, card in zip(files, cards, strict=True):
        if _is_trained(path, card, overwrite):
            reporter.say(f"{path}: trained already, kept")
        else:
            pending.append((path, card))
    save_trained_pictures(out, folder)
    if pending:
        material = _prepare(encoder, folder, calibration, settings, reporter)
        for path, card in pending:
            point = encoder.tower.at(card.layer)
            head, trained = _train_layer(material, point, card, settings, reporter)
            try:
                save_head(path, head, trained, overwrite=overwrite)
                _report(trained, path, settings, reporter)
            except FileExistsError:  # another process made one meanwhile
                if _is_trained(path, card, overwrite):
                    reporter.say(f"{path}: trained by another process meanwhile, kept")
            _checkpoint(dataclasses.replace(card, pool=trained.pool), reporter).unlink(missing_ok=True)
    return files


def _settle(settings: TrainingSettings) -> TrainingSettings:
    """The settings, with the pool of a head that has no choice."""
    readable = settings.head.pools(get_args(Pool))
    if settings.pool != "auto" and settings.pool not in readable:
        what = " or ".join(POOL_TITLES[pool] for pool in readable)
        raise InputError(
            f"--pool {settings.pool}: an {settings.kind.title} head reads {what}; "
            f"give --pool {' or '.join(readable)}"
        )
    return dataclasses.replace(settings, pool=readable[0]) if len(readable) == 1 else settings


def _card_before_training(
    encoder: Encoder,
    folder: ImageFolder,
    calibration: ImageFolder | None,
    settings: TrainingSettings,
    layer: int,
) -> HeadCard:
    """Return the card of a head before it is trained; what is learnt is left empty."""
    point = encoder.tower.at(layer)
    if settings.pool != "auto":
        encoder.check_pool(point, settings.pool)
    if not settings.head.pools(point.pools):
        raise InputError(
            f"layer {point.name}: an {settings.kind.title} head does not read {POOL_TITLES[point.pools[0]]}"
        )
    return HeadCard(
        encoder=encoder.id,
        preprocessing=encoder.preprocessing,
        layer=layer,
        pool="cls",
        k=settings.head.compared_in(
            point.width, encoder.embedding_width, f"layer {point.name} of {encoder.id.name}"
        ),
        classes=settings.classes,
        templates=settings.templates.train,
        templates_held_out=settings.templates.held_out,
        settings=settings.head.stated() | settings.stated() | _state_calibration(calibration),
        data_sha256=folder.sha256,
        pictures=0,
        accuracy=0.0,
        accuracy_held_out_templates=None,
        warnings=(),
        versions=versions("torch", "open_clip_torch"),
        trained_pictures_sha256=hashlib.sha256(list_pictures(folder)).hexdigest(),
        kind=None if settings.kind.name == DEFAULT_KIND else settings.kind.name,
    )


def _is_trained(path: Path, expected: HeadCard, overwrite: bool) -> bool:
    """Whether a head file is there that these settings would produce again."""
    if not path.exists():
        return False
    try:
        found = load_head_card(path)
    except HeadError:
        if overwrite:
            return False
        raise
    learnt = (
        "pool",
        "pictures",
        "accuracy",
        "accuracy_held_out_templates",
        "warnings",
        "versions",
        "calibration",
    )
    stated = (*learnt, "trained_pictures_sha256")  # which earlier versions left out; `data_sha256` has it all
    same = dataclasses.replace(expected, **{name: getattr(found, name) for name in stated}) == found
    if not same and not overwrite:
        raise HeadError(f"{path}: exists and was trained otherwise; give --overwrite or another --out")
    return same


def _state_calibration(calibration: ImageFolder | None) -> dict[str, str]:
    return {"calibration": calibration.sha256} if calibration else {}


def _prepare(
    encoder: Encoder,
    folder: ImageFolder,
    calibration: ImageFolder | None,
    settings: TrainingSettings,
    reporter: Reporter,
) -> _Material:
    prompts = encode_prompts(encoder, settings.classes, settings.templates.train)
    held_out = settings.templates.held_out
    text = class_embeddings(prompts)
    held_out_text = (
        class_embeddings(encode_prompts(encoder, settings.classes, held_out)) if held_out else None
    )
    views = tuple(compute_features(encoder, folder, reporter, view=view) for view in range(settings.views))
    features = views[0]
    if settings.labels == "teacher":
        targets = teacher_targets(features.embeddings(), text, encoder.text.logit_scale)
    else:
        labels = torch.from_numpy(folder.labels[features.indices])
        for label, name in enumerate(settings.classes):
            if not (labels == label).any():
                raise DataError(f"{folder.root}: no picture of class {name!r} can be read; add some")
        targets = torch.nn.functional.one_hot(labels, len(settings.classes)).float()
    train, validation = split(targets.argmax(1).numpy(), VALIDATION_SHARE, settings.head.seed)
    if len(train) < 2 or len(validation) < 1:
        raise DataError(
            f"{folder.root}: {len(targets)} readable pictures; training and validating needs more"
        )
    if calibration:
        calibrating: Calibrating | None = given(compute_features(encoder, calibration, reporter), calibration)
    elif settings.labels == "folders":
        train, calibrating = hold_out(features, folder, train, settings.head.seed)
    else:
        calibrating = None
    return _Material(
        views=views,
        targets=targets,
        calibrating=calibrating,
        train=torch.from_numpy(train),
        validation=torch.from_numpy(validation),
        prompts=prompts,
        text=text,
        held_out_text=held_out_text,
        logit_scale=encoder.text.logit_scale,
    )


def _train_layer(
    material: _Material, point: ExitPoint, card: HeadCard, settings: TrainingSettings, reporter: Reporter
) -> tuple[ExitHead, HeadCard]:
    """A head, and its card with what was learnt."""
    head_settings = settings.head
    teacher = Teacher(_of_all_views(material, Features.embeddings), material.logit_scale)
    pool = settings.pool
    if pool == "auto":
        pool = _choose_pool(material, point, head_settings, teacher, reporter)
    card = dataclasses.replace(card, pool=pool)
    data = _training_set(material, card.layer, pool)
    checkpoint = _checkpoint(card, reporter)
    epochs = head_settings.epochs_for(len(data.activations))
    with reporter.task(f"layer {point.name}, {pool}", epochs, unit="epochs") as task:
        note = _noter(task, epochs)
        head = head_settings.train(data, teacher, layer=card.layer, checkpoint=checkpoint, on_epoch=note)
    figures = head_settings.examine(head, data, material.held_out_text, card.classes)
    calibration = None
    if material.calibrating:
        calibration = calibrate_head(material.calibrating, head, material.text, point, pool)
    return head, dataclasses.replace(card, **vars(figures), calibration=calibration)


def _choose_pool(
    material: _Material, point: ExitPoint, settings: HeadSettings, teacher: Teacher, reporter: Reporter
) -> Pool:
    """The pool that does better on held-out pictures after a short training."""
    pools = settings.pools(point.pools)
    if len(pools) == 1:
        return pools[0]
    trial = settings.trial()
    accuracy: dict[Pool, float] = {}
    for pool in pools:
        data = _training_set(material, point.number, pool)
        accuracy[pool] = validate(trial.train(data, teacher, layer=point.number), data)
    epochs = trial.epochs_for(len(material.train))
    found = ", ".join(f"{pool} {value:.1%}" for pool, value in accuracy.items())
    reporter.say(f"layer {point.name}: after {epochs} epochs {found} on held-out pictures")
    return max(pools, key=lambda pool: accuracy[pool])


def _training_set(material: _Material, layer: int, pool: Pool) -> TrainingSet:
    return TrainingSet(
        activations=_of_all_views(material, lambda view: view.activations(layer, pool)),
        targets=material.targets[material.train].repeat(len(material.views), 1),
        prompts=material.prompts,
        validation_activations=material.views[0].activations(layer, pool)[material.validation],
        validation_labels=material.targets[material.validation].argmax(1),
        text=material.text,
    )


def _of_all_views(material: _Material, read: Callable[[Features], Tensor]) -> Tensor:
    """Read something of the pictures to train on, view after view."""
    return torch.cat([read(view)[material.train] for view in material.views])


def _checkpoint(card: HeadCard, reporter: Reporter) -> Path:
    key = hashlib.sha256(records.to_json(card).encode()).hexdigest()[:32]
    return usable_cache(reporter) / "training" / f"{key}.pt"


def _noter(task: Task, epochs: int) -> OnEpoch:
    """Counts epochs, and shows the accuracy on held-out pictures now and then."""
    seen = 0

    def note(epoch: int, accuracy: Callable[[], float]) -> None:
        nonlocal seen
        if epoch % EPOCHS_BETWEEN_NOTES == 0 or epoch == epochs:
            task.advance(epoch - seen, f"{accuracy():.1%} on held-out pictures")
            seen = epoch

    return note


def _report(card: HeadCard, path: Path, settings: TrainingSettings, reporter: Reporter) -> None:
    against = "agreement with the full CLIP" if settings.labels == "teacher" else "accuracy"
    held_out = card.accuracy_held_out_templates
    unseen = "" if held_out is None else f", {held_out:.1%} with templates never trained on"
    reporter.say(f"{path}: {against} {card.accuracy:.1%} on held-out pictures{unseen}")
    for warning in card.warnings:
        reporter.warn(f"layer {card.layer}: {warning}")
