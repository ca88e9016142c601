"""The exits of a file: heads and the encoder they belong to, and the texts of the classes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tgems_edge.errors import HeadError, InputError
from tgems_edge.model_file.card import Exit as CardExit
from tgems_export.encoders.checkpoints.loading import DEMO, PHOTO
from tgems_export.encoders.encoder import Encoder, load_encoder
from tgems_export.encoders.prompts import class_embeddings, encode_prompts, load_templates
from tgems_export.encoders.towers.base import FULL
from tgems_export.exporting.graph.exit_graph import Cut
from tgems_export.exporting.settings import ExitSettings
from tgems_export.heads.base import ExitHead
from tgems_export.heads.file import (
    HeadCard,
    check_named_encoder,
    head_file,
    load_head,
    load_head_card,
    load_trained_pictures,
)
from tgems_export.heads.registry import DEFAULT_KIND, KINDS, HeadKind
from tgems_export.heads.zero_shot import ZeroShotHead
from tgems_export.threads import one_thread

__all__ = ["DEMO_HEADS", "DEMO_HEADS_190", "PHOTO_HEADS", "Exit", "load_exits"]

DEMO_HEADS = Path(__file__).parents[1] / "demo" / "heads"  # for the ten names of CIFAR-10
DEMO_HEADS_190 = Path(__file__).parents[1] / "demo" / "heads-190"  # and for the 180 of Tiny-ImageNet as well
PHOTO_HEADS = Path(__file__).parents[1] / "builtin" / "photo" / "heads"  # for 99 everyday objects
# The heads that ship, by name, and the default heads of the encoders that ship.
NAMED_HEADS = {Path("photo"): PHOTO_HEADS, Path("demo"): DEMO_HEADS, Path("demo-190"): DEMO_HEADS_190}
HEADS_OF = {PHOTO: PHOTO_HEADS, DEMO: DEMO_HEADS, "demo": DEMO_HEADS}


@dataclass(frozen=True)
class Exit:
    """An exit that goes into a file: an encoder, where it is cut, and the head behind it."""

    encoder: Encoder
    head: ExitHead
    card: HeadCard
    classes: tuple[str, ...]
    text: Tensor  # (C, E)
    trained_on: list[bytes] | None  # beginnings of the digests of its training pictures, where they are known

    @property
    def cut(self) -> Cut:
        """The exit as the graph needs it."""
        return Cut(self.card.layer, self.card.pool, self.head)

    def describe(self, operations: int) -> CardExit:
        """The exit as the card of the file has it, before anything is fitted."""
        card, point = self.card, self.encoder.tower.at(self.card.layer)
        name = None if point.name == str(point.number) else point.name
        return CardExit(card.layer, card.k, card.pool, card.head_kind, operations, None, None, name)


@one_thread()
def load_exits(settings: ExitSettings) -> list[Exit]:
    """Loads the heads of one or several exits, and the encoder they belong to.

    Raises:
        InputError: layers that do not increase.
        HeadError: no head of this kind for a layer or this encoder, or heads that do not go together.
        EncoderError: the encoder cannot be loaded, or has no such layer.
        DataError: a class name that the prompts cannot hold.
    """
    encoder, pretrained = settings.encoder, settings.pretrained
    if settings.layers == (FULL,) and settings.head is None:
        return [_zero_shot(settings)]
    if settings.head is None and encoder not in (None, *HEADS_OF):
        raise HeadError(f"--encoder {encoder}: give --head; `tgems-edge train --encoder {encoder}` makes one")
    folder = NAMED_HEADS.get(settings.head, settings.head) if settings.head else HEADS_OF[encoder or DEMO]
    if (kind := KINDS[settings.head_kind]).name != DEFAULT_KIND and folder in NAMED_HEADS.values():
        raise HeadError(f"{kind.option.strip()}: give --head; `tgems-edge train{kind.option}` makes one")
    if encoder is None:
        path = _any_head(folder, kind) if folder.is_dir() else folder
        named = load_head_card(path).encoder
        check_named_encoder(path, named, pretrained)
        encoder, pretrained = named.name, pretrained or named.pretrained
    clip = load_encoder(encoder, pretrained)
    points = [clip.point(layer) for layer in settings.layers]
    layers = [point.number for point in points]
    if layers != sorted(set(layers)):
        names = ", ".join(point.name for point in points)
        raise InputError(f"exits {names}: give them in increasing order, each once")
    if len(layers) > 1 and not folder.is_dir():
        raise HeadError(f"{folder}: a file, and {len(layers)} exits need a folder of heads; give --head DIR")
    files = [head_file(folder, layer, kind.name) if folder.is_dir() else folder for layer in layers]
    loaded = [load_head(path, clip, kind.name) for path in files]
    for path, (_, card), layer in zip(files, loaded, layers, strict=True):
        if card.layer != layer:
            raise HeadError(f"{path}: a head for layer {card.layer}, not {layer}; give --layer {card.layer}")
        if (card.classes, card.templates) != (loaded[0][1].classes, loaded[0][1].templates):
            raise HeadError(f"{path}: trained on other classes or templates than {files[0]}; train it again")
        if not settings.ignore_profiles and card.preprocessing.colour != loaded[0][1].preprocessing.colour:
            raise HeadError(
                f"{path}: colour profiles were not treated as for {files[0]}; train it again or give "
                "--ignore-icc"
            )
    # The demo heads were trained on pictures without profiles: they are right for either.
    trained_colour = "srgb" if folder in NAMED_HEADS.values() else loaded[0][1].preprocessing.colour
    clip = dataclasses.replace(clip, colour=None if settings.ignore_profiles else trained_colour)
    classes = tuple(settings.classes or loaded[0][1].classes)
    text = class_embeddings(encode_prompts(clip, classes, loaded[0][1].templates))
    return [
        Exit(clip, trained, card, classes, text, load_trained_pictures(path, card))
        for path, (trained, card) in zip(files, loaded, strict=True)
    ]


def _zero_shot(settings: ExitSettings) -> Exit:
    """The exit of a file for names alone: the joint embedding beside the texts of the classes."""
    encoder = load_encoder(
        settings.encoder or PHOTO,
        settings.pretrained,
        colour=None if settings.ignore_profiles else "srgb",
    )
    if not settings.classes:
        raise InputError("--layer full without --head knows names alone; give --classes FILE")
    templates = load_templates().train
    text = class_embeddings(encode_prompts(encoder, settings.classes, templates))
    head = ZeroShotHead(encoder.embedding_width, encoder.text.logit_scale).eval()
    card = HeadCard(
        encoder=encoder.id,
        preprocessing=encoder.preprocessing,
        layer=encoder.tower.full.number,
        pool="embedding",
        k=head.k,
        classes=(),
        templates=templates,
        templates_held_out=(),
        settings={},
        data_sha256="",
        pictures=0,
        accuracy=0.0,
        accuracy_held_out_templates=None,
        warnings=(),
        versions={},
        kind="zero-shot",
    )
    return Exit(encoder, head, card, settings.classes, text, trained_on=[])


def _any_head(folder: Path, kind: HeadKind) -> Path:
    heads = sorted(folder.glob(head_file(folder, 0, kind.name).name.replace("00", "*")))
    if not heads:
        command = f"tgems-edge train{kind.option} --out {folder}"
        raise HeadError(f"{folder}: no head files here; make some with `{command}`")
    return heads[0]
