"""Freezes exits into one ONNX file: heads, names and graph in, a checked and sealed model out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import onnx

from tgems_edge.errors import DataError, HeadError, InputError, ParityError
from tgems_edge.model_file.card import Calibration, Card, ExitCalibration, noise_pixels
from tgems_edge.model_file.gate import IMAGE
from tgems_edge.model_file.seal import is_sealed, seal
from tgems_edge.progress import Reporter
from tgems_edge.runtime.answers import Answers
from tgems_edge.runtime.classifier import Classifier
from tgems_edge.runtime.verification import check_samples
from tgems_edge.sources.data import refuse_shared
from tgems_export.encoders.checkpoints.loading import DEMO
from tgems_export.encoders.encoder import Encoder, load_encoder
from tgems_export.encoders.prompts import class_embeddings, encode_prompts
from tgems_export.exporting.calibration import calibrate_posterior, fit_temperature
from tgems_export.exporting.drafts import DRAWN_PICTURES, Exit, Form, draft
from tgems_export.exporting.final import (
    FinalGraph,
    answer,
    make_samples,
    measure,
    pass_gate,
)
from tgems_export.exporting.graph.onnx_graph import IR_VERSION, set_temperature
from tgems_export.exporting.graph.resizing import compare_resizing, with_resizing
from tgems_export.exporting.picture_sets import Given, Labelled, read_given
from tgems_export.files import write_atomically
from tgems_export.heads.base import HeadKindName
from tgems_export.heads.file import (
    check_named_encoder,
    head_file,
    load_head,
    load_head_card,
    load_trained_pictures,
)
from tgems_export.heads.registry import DEFAULT_KIND, KINDS
from tgems_export.outputs import check_output_file
from tgems_export.pictures import draw_many
from tgems_export.provenance import versions
from tgems_export.threads import one_thread, open_on_one_thread

__all__ = ["DEMO_HEADS", "DEMO_HEADS_190", "Exit", "Form", "Frozen", "freeze", "load_exits"]

DEMO_HEADS = Path(__file__).parents[1] / "demo" / "heads"  # for the ten names of CIFAR-10
DEMO_HEADS_190 = Path(__file__).parents[1] / "demo" / "heads-190"  # and for the 180 of Tiny-ImageNet as well
NAMED_HEADS = {Path("demo"): DEMO_HEADS, Path("demo-190"): DEMO_HEADS_190}


@dataclass(frozen=True)
class Frozen:
    """What came out."""

    path: Path
    card: Card
    size: int  # bytes


@one_thread()
def load_exits(
    layers: Sequence[int],
    head: Path | None,
    encoder: str | None,
    pretrained: str | None,
    classes: Sequence[str] | None,
    head_kind: HeadKindName = "tgem",
    *,
    ignore_profiles: bool = False,
) -> list[Exit]:
    """Loads the heads of one or several exits, and the encoder they belong to.

    Args:
        layers: blocks, counted from 1, increasing.
        head: a folder of heads, `demo` or `demo-190`, for one layer also a file; default the demo heads.
        encoder: a CLIP by name; default the one the heads were trained on, if it is built in or open_clip's.
        pretrained: its weights; default those the heads were trained on.
        classes: names for the tables; default those the heads were trained on.
        head_kind: which of the two kinds of head.
        ignore_profiles: ignore colour profiles, however the heads were trained; default as they were trained.

    Raises:
        InputError: layers that do not increase.
        HeadError: no head of this kind for a layer or this encoder, or heads that do not go together.
        EncoderError: the encoder cannot be loaded, or has no such layer.
        DataError: a class name that the prompts cannot hold.
    """
    if list(layers) != sorted(set(layers)):
        raise InputError(f"exits {', '.join(map(str, layers))}: give them in increasing order, each once")
    if head is None and encoder not in (None, DEMO):
        raise HeadError(f"--encoder {encoder}: give --head; `tgems-edge train --encoder {encoder}` makes one")
    folder = NAMED_HEADS.get(head, head) if head else DEMO_HEADS
    if (kind := KINDS[head_kind]).name != DEFAULT_KIND and folder in NAMED_HEADS.values():
        raise HeadError(f"{kind.option.strip()}: give --head; `tgems-edge train{kind.option}` makes one")
    if encoder is None:
        path = _any_head(folder, head_kind) if folder.is_dir() else folder
        named = load_head_card(path).encoder
        check_named_encoder(path, named, pretrained)
        encoder, pretrained = named.name, pretrained or named.pretrained
    clip = load_encoder(encoder, pretrained)
    for layer in layers:
        clip.point(layer)
    if len(layers) > 1 and not folder.is_dir():
        raise HeadError(f"{folder}: a file, and {len(layers)} exits need a folder of heads; give --head DIR")
    files = [head_file(folder, layer, head_kind) if folder.is_dir() else folder for layer in layers]
    loaded = [load_head(path, clip, head_kind) for path in files]
    for path, (_, card), layer in zip(files, loaded, layers, strict=True):
        if card.layer != layer:
            raise HeadError(f"{path}: a head for layer {card.layer}, not {layer}; give --layer {card.layer}")
        if (card.classes, card.templates) != (loaded[0][1].classes, loaded[0][1].templates):
            raise HeadError(f"{path}: trained on other classes or templates than {files[0]}; train it again")
        if not ignore_profiles and card.preprocessing.colour != loaded[0][1].preprocessing.colour:
            raise HeadError(
                f"{path}: colour profiles were not treated as for {files[0]}; train it again or give "
                "--ignore-icc"
            )
    # The demo heads were trained on pictures without profiles: they are right for either.
    trained_colour = "srgb" if folder in NAMED_HEADS.values() else loaded[0][1].preprocessing.colour
    clip = dataclasses.replace(clip, colour=None if ignore_profiles else trained_colour)
    names = tuple(classes or loaded[0][1].classes)
    text = class_embeddings(encode_prompts(clip, names, loaded[0][1].templates))
    return [
        Exit(clip, trained, card, names, text, load_trained_pictures(path, card))
        for path, (trained, card) in zip(files, loaded, strict=True)
    ]


@one_thread()
def freeze(
    exits: Sequence[Exit],
    output: Path,
    reporter: Reporter,
    *,
    data: Path | None = None,
    calibration: Path | None = None,
    folders: Mapping[str, str] | None = None,
    form: Form | None = None,
    overwrite: bool = False,
) -> Frozen:
    """Writes the model file, if the graph computes what PyTorch computes and INT8 costs no more than it may.

    Args:
        exits: one, or several for a dynamic file, in the order of their blocks.
        output: the file.
        reporter: where progress goes.
        data: labelled pictures to compare and to measure on; without `calibration`, half of them calibrate.
        calibration: pictures to calibrate on; without labels they only show INT8 what activations take.
        folders: the class of a folder of pictures by the folder's name, where it is not the name itself.
        form: see `Form`; by default one in fp32.
        overwrite: replace an existing file.

    Raises:
        ParityError: the graph differs from PyTorch, or its resizing from Pillow; nothing was written.
        AccuracyError: INT8 costs more accuracy than it may; nothing was written.
        InputError: the file exists, or the graph cannot be written as asked.
        DataError: pictures that cannot be used.
    """
    check_output_file(output, overwrite=overwrite)
    form = form or Form()
    first = exits[0]
    given = read_given(data, calibration, first.classes, folders, reporter)
    if given.unlabelled and not form.precision.startswith("int8"):
        raise DataError(
            f"{calibration}: pictures without folders of classes, which only --precision int8 can use; "
            "expected pictures as in cat/1.jpg"
        )
    for exit_ in {exit_.card.data_sha256: exit_ for exit_ in exits}.values():
        _refuse_training_pictures(exit_, given, reporter)
    given.check_enough(first.classes)
    drafted = draft(exits, form, given, reporter)
    encoder, resizing = first.encoder, None
    model = _with_input(drafted.model, encoder, form)
    if form.input == IMAGE:
        reporter.say("comparing its resizing with Pillow's")
        session = open_on_one_thread(drafted.model.SerializeToString())
        resizing = compare_resizing(model, encoder.preprocessing, session, draw_many(DRAWN_PICTURES))
    final = _final(model, encoder, form)
    quantisation = drafted.quantisation
    card = Card(
        classes=first.classes,
        classes_not_trained=tuple(name for name in first.classes if name not in first.card.classes),
        templates=first.card.templates,
        encoder=encoder.id,
        input=form.input,
        preprocessing=encoder.preprocessing,
        exits=drafted.exits,
        dynamic=drafted.dynamic,
        calibration=None,
        precision="int8" if quantisation else "fp16" if form.precision == "fp16" else "fp32",
        quantisation=quantisation,
        opset=form.opset,
        parity=drafted.parity,
        resizing=resizing,
        accuracy=None,
        samples=(),
        versions=versions("torch", "open_clip_torch", "onnx", "onnxsim", "onnxruntime"),
        licence={"code": "Apache-2.0", "weights": encoder.licence},
    )
    if given.calibrates:
        card = _calibrated(card, *answer(final, given.calibrates, card, "calibrating", reporter))
        if drafted.dynamic is None:
            set_temperature(model, card.last_exit.layer, card.last_exit.k, card.last_exit.temperature)
        if given.measures:
            measured, labelled = answer(final, given.measures, card, "measuring", reporter)
            card = dataclasses.replace(card, accuracy=measure(measured, labelled))
            if quantisation and drafted.exact and given.is_gated:
                exact = _final(_with_input(drafted.exact, encoder, form), encoder, form)
                gate = pass_gate(measured, labelled, exact, form.limits, reporter)
                card = dataclasses.replace(card, quantisation=dataclasses.replace(quantisation, gate=gate))
    card = dataclasses.replace(card, samples=make_samples(final))
    sealed = seal(_serialise(model, card))
    sealed_card = _check_sealed(sealed)
    try:
        write_atomically(output, sealed, overwrite=overwrite)
    except FileExistsError:
        raise InputError(
            f"{output}: made by another process meanwhile; give --overwrite or another --output"
        ) from None
    return Frozen(output, sealed_card, len(sealed))


def _with_input(model: onnx.ModelProto, encoder: Encoder, form: Form) -> onnx.ModelProto:
    """A graph that takes what the file is to take, from one that takes pixels."""
    return with_resizing(model, encoder.preprocessing, form.opset) if form.input == IMAGE else model


def _final(model: onnx.ModelProto, encoder: Encoder, form: Form) -> FinalGraph:
    return FinalGraph(open_on_one_thread(model.SerializeToString()), form.input, encoder.preprocessing)


def _calibrated(card: Card, answers: Answers, labelled: Labelled) -> Card:
    """A card with everything that answers to labelled pictures fit; exits of a dynamic file are fitted."""
    exit_ = card.last_exit
    if card.dynamic is None:
        temperature = fit_temperature(answers.rates, labelled.labels, exit_.k)
        exit_ = dataclasses.replace(exit_, calibration=ExitCalibration(temperature, 0.0, 1.0))
        card = dataclasses.replace(card, exits=(exit_,))
        answers = Answers.from_rates(answers.rates, answers.exit_layers, card)
    fitted = calibrate_posterior(
        answers.probabilities, answers.surprisals, labelled.labels, exit_.temperature
    )
    return dataclasses.replace(
        card,
        calibration=Calibration.of(
            labelled.digests, fitted.conformal, fitted.conformal_adaptive, fitted.rejection
        ),
    )


def _any_head(folder: Path, kind: HeadKindName) -> Path:
    heads = sorted(folder.glob(head_file(folder, 0, kind).name.replace("00", "*")))
    if not heads:
        command = f"tgems-edge train{KINDS[kind].option} --out {folder}"
        raise HeadError(f"{folder}: no head files here; make some with `{command}`")
    return heads[0]


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
    if not is_sealed(sealed):
        raise ParityError("the file does not match its own digest; nothing was written, please report this")
    for check in check_samples(classifier):
        if check.stage:
            raise ParityError(
                f"the file does not answer its own samples ({check.stage} differs); nothing was written, "
                "please report this"
            )
    for sample in card.samples:
        if sample.kind == "noise":
            found = classifier.run(noise_pixels(sample.content, card.preprocessing.size)[None])
            expected = Answers.from_rates(found.rates, found.exit_layers, card).probabilities
            if not np.allclose(found.probabilities, expected, atol=1e-4):
                raise ParityError("its probabilities are not those of its temperature; nothing was written")
    return card
