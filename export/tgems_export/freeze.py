"""Freezes one exit into one ONNX file: head, names and graph in, a checked and sealed model out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from PIL import Image
from torch import Tensor

from tgems_edge.card import (
    CalibrationData,
    Card,
    Parity,
    noise_pixels,
    seal,
    sealed_digest,
)
from tgems_edge.data import refuse_shared
from tgems_edge.errors import DataError, HeadError, InputError, ParityError
from tgems_edge.images import decode
from tgems_edge.model import Classifier
from tgems_edge.progress import Reporter
from tgems_edge.rates import posterior
from tgems_edge.session import IMAGE, open_session
from tgems_export.calibration import calibrate
from tgems_export.encoder import Encoder, load_encoder
from tgems_export.files import write_atomically
from tgems_export.final import FinalGraph, answer, make_samples, measure
from tgems_export.graph import IR_VERSION, ExitGraph, Precision, set_temperature, to_onnx
from tgems_export.head import (
    ExitHead,
    HeadCard,
    HeadKind,
    head_file,
    load_head,
    load_head_card,
    load_trained_pictures,
)
from tgems_export.labelled import Given, read_given
from tgems_export.loading import DEMO
from tgems_export.parity import check_rates, compare
from tgems_export.pictures import draw_many
from tgems_export.prompts import class_embeddings, encode_prompts
from tgems_export.provenance import versions
from tgems_export.resizing import compare_resizing, with_resizing

__all__ = ["DEMO_HEADS", "DEMO_HEADS_190", "Exit", "Form", "Frozen", "freeze", "load_exit"]

DEMO_HEADS = Path(__file__).parent / "demo" / "heads"  # for the ten names of CIFAR-10
DEMO_HEADS_190 = Path(__file__).parent / "demo" / "heads-190"  # and for the 180 of Tiny-ImageNet as well
NAMED_HEADS = {Path("demo"): DEMO_HEADS, Path("demo-190"): DEMO_HEADS_190}
DRAWN_PICTURES = 64
COMPARED_PICTURES = 1000  # at most, of --data: PyTorch runs over them too


@dataclass(frozen=True)
class Form:
    """What the file is to be like."""

    input: Literal["pixels", "image"] = "pixels"  # resized, or whole pictures that the graph resizes itself
    precision: Precision = "fp32"
    opset: int = 18


@dataclass(frozen=True)
class Exit:
    """What is to be frozen: an encoder, one of its blocks, and the head behind it."""

    encoder: Encoder
    head: ExitHead
    card: HeadCard
    classes: tuple[str, ...]
    text: Tensor  # (C, E)
    trained_on: list[bytes] | None  # beginnings of the digests of its training pictures, where they are known


@dataclass(frozen=True)
class Frozen:
    """What came out."""

    path: Path
    card: Card
    size: int  # bytes


def load_exit(
    layer: int,
    head: Path | None,
    encoder: str | None,
    pretrained: str | None,
    classes: Sequence[str] | None,
    head_kind: HeadKind = "tgem",
) -> Exit:
    """Loads a head and the encoder it belongs to.

    Args:
        layer: block, counted from 1.
        head: a head file or a folder of them, `demo` or `demo-190`; default the demo heads.
        encoder: a CLIP by name; default the one the head was trained on.
        pretrained: its weights; default those the head was trained on.
        classes: names for the tables; default those the head was trained on.
        head_kind: which of the two kinds of head.

    Raises:
        HeadError: no head of this kind for this layer or this encoder.
        EncoderError: the encoder cannot be loaded, or has no such layer.
        DataError: a class name that the prompts cannot hold.
    """
    if head is None and encoder not in (None, DEMO):
        raise HeadError(f"--encoder {encoder}: give --head; `tgems-edge train --encoder {encoder}` makes one")
    folder = NAMED_HEADS.get(head, head) if head else DEMO_HEADS
    if head_kind == "ssa" and folder in NAMED_HEADS.values():
        raise HeadError("--head-kind ssa: give --head; `tgems-edge train --head-kind ssa` makes one")
    if encoder is None:
        found = load_head_card(_any_head(folder, head_kind) if folder.is_dir() else folder)
        encoder, pretrained = found.encoder.name, pretrained or found.encoder.pretrained
    clip = load_encoder(encoder, pretrained)
    clip.check_layer(layer)
    path = head_file(folder, layer, head_kind) if folder.is_dir() else folder
    trained, card = load_head(path, clip, head_kind)
    if card.layer != layer:
        raise HeadError(f"{path}: a head for layer {card.layer}, not {layer}; give --layer {card.layer}")
    names = tuple(classes or card.classes)
    text = class_embeddings(encode_prompts(clip, names, card.templates))
    return Exit(clip, trained, card, names, text, load_trained_pictures(path, card))


def freeze(
    exit_: Exit,
    output: Path,
    reporter: Reporter,
    *,
    data: Path | None = None,
    calibration: Path | None = None,
    form: Form = Form(),
    overwrite: bool = False,
) -> Frozen:
    """Writes the model file, if the graph computes what PyTorch computes.

    Args:
        exit_: see `Exit`.
        output: the file.
        reporter: where progress goes.
        data: labelled pictures to compare and to measure on; without `calibration`, half of them calibrate.
        calibration: labelled pictures to calibrate on.
        form: see `Form`.
        overwrite: replace an existing file.

    Raises:
        ParityError: the graph differs from PyTorch, or its resizing from Pillow; nothing was written.
        InputError: the file exists, or the graph cannot be written as asked.
        DataError: pictures that cannot be used.
    """
    _check_output(output, overwrite)
    given = read_given(data, calibration, exit_.classes)
    _refuse_training_pictures(exit_, given, reporter)
    given.check_enough(exit_.classes)
    encoder, layer, pool = exit_.encoder, exit_.card.layer, exit_.card.pool
    reporter.say(f"cutting {encoder.id.name} behind block {layer} of {encoder.blocks}")
    graph = ExitGraph(encoder, layer, pool, exit_.head, exit_.text, precision=form.precision)
    model = to_onnx(graph, encoder.preprocessing.size, form.opset)
    session = open_session(model.SerializeToString())
    what = (session, encoder, layer, pool, exit_.head, exit_.text)
    drawn = _counted(draw_many(DRAWN_PICTURES), DRAWN_PICTURES, reporter)
    parity = compare(*what, drawn, "drawn from a seed, all aspect ratios", form.precision)
    resizing = None
    if form.input == IMAGE:
        reporter.say("comparing its resizing with Pillow's")
        model = with_resizing(model, encoder.preprocessing, form.opset)
        resizing = compare_resizing(model, encoder.preprocessing, session, draw_many(DRAWN_PICTURES))
    final = FinalGraph(open_session(model.SerializeToString()), form.input, encoder.preprocessing)
    fitted = accuracy = calibrated = measured = None
    if given.calibrates:
        rates, calibrated = answer(final, given.calibrates, "calibrating", reporter)
        fitted = calibrate(rates, calibrated.labels, exit_.card.k)
        set_temperature(model, exit_.card.k, fitted.temperature)
    if fitted and given.measures:
        rates, measured = answer(final, given.measures, "measuring", reporter)
        accuracy = measure(rates, measured, exit_.card.k, fitted)
    if real := measured or calibrated:
        chosen = real.paths[:: -(-len(real.paths) // COMPARED_PICTURES)]
        pictures = (decode(path) for path in chosen)  # one batch in memory at a time
        counted = _counted(pictures, len(chosen), reporter)
        of = "of --data" if measured else "of --calibration"
        parity = _worse(parity, compare(*what, counted, of, form.precision))
    card = Card(
        classes=exit_.classes,
        classes_not_trained=tuple(name for name in exit_.classes if name not in exit_.card.classes),
        templates=exit_.card.templates,
        layer=layer,
        k=exit_.card.k,
        pool=pool,
        encoder=encoder.id,
        input=form.input,
        preprocessing=encoder.preprocessing,
        temperature=fitted.temperature if fitted else None,
        conformal=fitted.conformal if fitted else None,
        conformal_adaptive=fitted.conformal_adaptive if fitted else None,
        rejection=fitted.rejection if fitted else None,
        calibration=CalibrationData.of(calibrated.digests) if calibrated else None,
        precision=form.precision,
        quantisation=None,
        dynamic=None,
        head_kind=exit_.card.head_kind,
        opset=form.opset,
        parity=parity,
        resizing=resizing,
        accuracy=accuracy,
        samples=make_samples(final),
        versions=versions("torch", "open_clip_torch", "onnx", "onnxsim", "onnxruntime"),
        licence={"code": "Apache-2.0", "weights": encoder.licence},
    )
    sealed = seal(_serialise(model, card))
    sealed_card = _check_sealed(sealed)
    write_atomically(output, sealed)
    return Frozen(output, sealed_card, len(sealed))


def _any_head(folder: Path, kind: HeadKind) -> Path:
    heads = sorted(folder.glob(head_file(folder, 0, kind).name.replace("00", "*")))
    if not heads:
        option = " --head-kind ssa" if kind == "ssa" else ""
        raise HeadError(
            f"{folder}: no head files here; make some with `tgems-edge train{option} --out {folder}`"
        )
    return heads[0]


def _check_output(output: Path, overwrite: bool) -> None:
    if output.is_dir():
        raise InputError(f"{output}: a folder; give --output a file name, such as {output / 'model.onnx'}")
    if output.parent.exists() and not output.parent.is_dir():
        raise InputError(f"{output}: {output.parent} is a file, not a folder; give another --output")
    if output.exists() and not overwrite:
        raise InputError(f"{output}: exists already; give --overwrite or another --output")


def _refuse_training_pictures(exit_: Exit, given: Given, reporter: Reporter) -> None:
    for labelled in (given.calibrates, given.measures):
        if labelled is None:
            continue
        folder = labelled.folder
        if folder.sha256 == exit_.card.data_sha256:
            raise DataError(f"{folder.root}: the head was trained on these very pictures; give others")
        if exit_.trained_on is None:
            reporter.warn(
                f"whether the head was trained on some of {folder.root} is not known: the list of its "
                "training pictures (pictures-*.sha256) does not lie beside it"
            )
        else:
            refuse_shared(folder, exit_.trained_on, "those the head was trained on")


def _counted(pictures: Iterable[Image.Image], total: int, reporter: Reporter) -> Iterator[Image.Image]:
    """The same pictures, with progress."""
    with reporter.task("comparing it with PyTorch", total, unit="pictures") as task:
        for picture in pictures:
            yield picture
            task.advance(1)


def _worse(one: Parity, other: Parity) -> Parity:
    """Both comparisons in one, with the larger difference."""
    pictures = one.pictures + other.pictures
    agreeing = one.label_agreement * one.pictures + other.label_agreement * other.pictures
    return Parity(
        pictures=pictures,
        of=f"{one.pictures} {one.of}; {other.pictures} {other.of}",
        largest_rate_difference=max(one.largest_rate_difference, other.largest_rate_difference),
        label_agreement=agreeing / pictures,
    )


def _serialise(model: onnx.ModelProto, card: Card) -> bytes:
    """The model with its metadata; fields that only debugging needs are left out."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "tgems-edge", card.versions["tgems-edge"]
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, card.metadata(_today()))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _today() -> str:
    """ISO date, from SOURCE_DATE_EPOCH where a build has to be reproducible."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        now = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch else datetime.now(timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise InputError(f"SOURCE_DATE_EPOCH is {epoch!r}; set it to seconds since 1970") from None
    return now.date().isoformat()


def _check_sealed(sealed: bytes) -> Card:
    """The card as the device will read it, once the digest holds and the file answers its own samples."""
    classifier = Classifier(sealed)
    card = classifier.card
    if sealed_digest(sealed, card) != card.file_sha256:
        raise ParityError("the file does not match its own digest; nothing was written, please report this")
    for sample in card.samples:
        if sample.kind == "noise":
            rates, probabilities, _ = classifier.run(
                noise_pixels(sample.content, card.preprocessing.size)[None]
            )
            check_rates(rates, np.array([sample.rates]), "of the card")
            if not np.allclose(probabilities, posterior(rates, card.k, card.temperature or 1.0), atol=1e-4):
                raise ParityError("its probabilities are not those of its temperature; nothing was written")
    return card
