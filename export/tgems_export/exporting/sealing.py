"""The last steps of an export: the card, the samples, the seal, and the file."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from tgems_edge.errors import InputError, ParityError
from tgems_edge.model_file.card import (
    Card,
    Dynamic,
    Parity,
    Quantisation,
    Resizing,
    Sample,
    noise_pixels,
)
from tgems_edge.model_file.card import Exit as CardExit
from tgems_edge.model_file.seal import is_sealed, seal
from tgems_edge.runtime.answers import Answers
from tgems_edge.runtime.classifier import Classifier
from tgems_edge.runtime.images import decode
from tgems_edge.runtime.verification import check_samples
from tgems_export.exporting.answers import FileGraph
from tgems_export.exporting.exits import Exit
from tgems_export.exporting.graph.onnx_graph import IR_VERSION
from tgems_export.exporting.settings import ExportSettings, GraphSettings
from tgems_export.pictures import draw, to_jpeg
from tgems_export.provenance import versions
from tgems_export.storage.files import write_atomically

__all__ = ["ModelFile", "make_card", "make_samples", "write_model"]

NOISE_SAMPLES = ("tgems-edge 1", "tgems-edge 2")
JPEG_SAMPLES = ((1, 57, 38), (2, 40, 71))  # seed, width, height


@dataclass(frozen=True)
class ModelFile:
    """A file that was written."""

    path: Path
    card: Card
    size: int  # bytes


def make_card(
    first: Exit,
    graph: GraphSettings,
    parity: Parity,
    written: tuple[CardExit, ...],
    dynamic: Dynamic | None,
    quantisation: Quantisation | None,
    resizing: Resizing | None,
) -> Card:
    """Puts together what a file says about itself before it is calibrated and has samples."""
    encoder = first.encoder
    return Card(
        classes=first.classes,
        classes_not_trained=tuple(name for name in first.classes if name not in first.card.classes),
        templates=first.card.templates,
        encoder=encoder.id,
        input=graph.input,
        preprocessing=encoder.preprocessing,
        exits=written,
        dynamic=dynamic,
        calibration=None,
        precision="int8" if quantisation else graph.floats,
        quantisation=quantisation,
        opset=graph.opset,
        parity=parity,
        resizing=resizing,
        accuracy=None,
        samples=(),
        versions=versions("torch", "open_clip_torch", "onnx", "onnxsim", "onnxruntime"),
        licence={"code": "Apache-2.0", "weights": encoder.licence},
    )


def write_model(model: onnx.ModelProto, card: Card, settings: ExportSettings) -> ModelFile:
    """Seals a graph with its card, loads it as a device does, and writes it.

    Raises:
        ParityError: the sealed file does not answer as its card says; nothing was written.
        InputError: another process made the file meanwhile.
    """
    sealed = seal(_serialise(model, card))
    sealed_card = _check_sealed(sealed)
    try:
        write_atomically(settings.output, sealed, overwrite=settings.overwrite)
    except FileExistsError:
        raise InputError(
            f"{settings.output}: made by another process meanwhile; give --overwrite or another --output"
        ) from None
    return ModelFile(settings.output, sealed_card, len(sealed))


def make_samples(graph: FileGraph) -> tuple[Sample, ...]:
    """Inputs that any machine can make again, with the rates of this one."""
    samples = []
    for text in NOISE_SAMPLES:
        pixels = noise_pixels(text, graph.preprocessing.size)
        samples.append(_sample(graph, "noise", text, pixels, pixels))
    for seed, width, height in JPEG_SAMPLES:
        data = to_jpeg(draw(seed, width, height))
        content = base64.b64encode(data).decode()
        samples.append(_sample(graph, "jpeg", content, np.asarray(decode(data)), graph.read(data)))
    return tuple(samples)


def _sample(
    graph: FileGraph,
    kind: Literal["noise", "jpeg"],
    content: str,
    decoded: NDArray[np.uint8],
    taken: NDArray[np.uint8],
) -> Sample:
    return Sample(
        kind=kind,
        content=content,
        decoded_sha256=hashlib.sha256(decoded.tobytes()).hexdigest(),
        pixels_sha256=hashlib.sha256(taken.tobytes()).hexdigest(),
        rates=tuple(float(rate) for rate in graph.rates(taken)),
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
