"""Targets of the fuzzers: everything that reads what others wrote.

Each target takes any bytes and raises nothing but what users may see, a TgemsError. Files that carry a digest
are sealed again, or nothing would get past it. Each begins with files that are as they should be.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tgems_edge.errors import TgemsError

__all__ = ["TARGETS", "Target"]

TESTS = Path(__file__).parents[1]
SECONDS = 10  # that one model may take


@dataclass(frozen=True)
class Target:
    """A function to feed, and what the search begins with."""

    run: Callable[[bytes], object]
    seeds: list[bytes]


def model() -> Target:
    """A model file: through the gate, and if that lets it pass, loaded and run once."""
    from tgems_edge.model_file.default import built_in_model
    from tgems_edge.model_file.gate import check_model_file
    from tgems_edge.model_file.seal import is_sealed
    from tgems_edge.runtime.classifier import Classifier

    shown = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)

    def run(data: bytes) -> None:
        is_sealed(data)
        _, card = check_model_file(data, verify=False)
        picture = shown if card.input == "image" else np.zeros((*card.preprocessing.size, 3), np.uint8)
        Classifier(data, verify=False, threads=1, timeout=SECONDS).classify(picture)

    static = replace(_card(), dynamic=None, samples=())
    return Target(run, [_small_model(static.to_json()), built_in_model().read_bytes()[:4096]])


def card() -> Target:
    """The card of a model file, with parts of it replaced, and all that is asked of one that was taken."""
    from tgems_edge.model_file.card import Card

    whole = json.loads(_card().to_json())
    seed = json.dumps(whole).encode()

    def run(data: bytes) -> None:
        text = data[1:].decode(errors="surrogateescape")
        if data[:1] < b"\x80":  # choices instead of text: most texts are no JSON
            text = json.dumps(_changed(whole, random.Random(data)))
        card = Card.from_json(text)
        assert Card.from_json(card.to_json()) == card
        card.metadata("2026-01-01")
        for level in (0.9, 0.05):
            for ask in (card.rejection_bound, lambda level: card.set_bound(level, "adaptive")):
                with contextlib.suppress(TgemsError):
                    ask(level)
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(_small_model(text))
            file.flush()
            _command("inspect", file.name)

    return Target(run, [b"\x80" + seed, b"\0", b"\x01another"])


def picture() -> Target:
    """A picture file, decoded and resized; of a million pixels at most, so that more memory is noticed."""
    from tgems_edge.runtime.images import Preprocessing, read_pixels

    wanted = Preprocessing((32, 32), "shortest", "bicubic", 0, (0.0,) * 3, (1.0,) * 3, "srgb")

    def run(data: bytes) -> None:
        read_pixels(data, wanted, max_pixels=1_000_000)
        read_pixels(data, wanted, max_pixels=1_000_000, fast_decode=True)

    sys.path.insert(0, str(TESTS))
    from attacks.pictures import PICTURES, encoded

    kinds = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "JPEG2000", "AVIF", "DDS")
    seeds = [attack.make() for attack in PICTURES]
    for kind in kinds:
        with contextlib.suppress(KeyError, OSError):  # not in this Pillow
            seeds += [encoded(kind), encoded(kind, mode="L")]
    return Target(run, [seed for seed in seeds if len(seed) < 1 << 16])


def cache() -> Target:
    """Files between runs of the workstation: heads, chunks of features, lists of pictures, checkpoints."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save

    from tgems_export.encoders import features
    from tgems_export.encoders.checkpoints.reading import read_checkpoint
    from tgems_export.encoders.encoder import load_encoder
    from tgems_export.exporting.exits import DEMO_HEADS
    from tgems_export.heads.file import (
        head_file,
        load_head,
        load_head_card,
        load_trained_pictures,
        trained_pictures_file,
    )
    from tgems_export.storage.files import read_checked, write_checked
    from tgems_export.storage.tensors import read_tensors, write_tensors

    encoder = load_encoder()
    folder = Path(tempfile.mkdtemp())
    head = head_file(DEMO_HEADS, 5)
    head_card = load_head_card(head)
    listed = trained_pictures_file(folder, head_card.data_sha256)

    def read_head(data: bytes) -> None:
        load_head(_put(folder / "head.safetensors", _tensors(data)), encoder)

    def read_chunk(data: bytes) -> None:
        path = _put(folder / "chunk.safetensors", _tensors(data))
        with contextlib.suppress(SafetensorError, ValueError, OSError):
            features._is_complete(path, encoder, range(4))
            tensors, _ = read_tensors(path)
            write_tensors(path, tensors, {})  # with its digest
            if features._is_complete(path, encoder, range(4)):
                features._slice(path, "cls", 2)

    def read_list(data: bytes) -> None:
        _put(listed, data)
        load_trained_pictures(folder / "head.safetensors", replace(head_card, trained_pictures_sha256=None))

    def read_kept(data: bytes) -> None:
        path = _put(folder / "kept", data)
        assert read_checked(path) is None or len(data) >= 32
        write_checked(path, data)
        assert read_checked(path) == data

    def read_weights(data: bytes) -> None:
        read_checkpoint(_put(folder / "weights.pt", data))

    readers = [read_head, read_chunk, read_list, read_kept, read_weights]

    def run(data: bytes) -> None:
        readers[data[0] % len(readers) if data else 0](data[1:])

    blocks, width = encoder.blocks, encoder.tower.points[-1].width
    chunk = {
        f"{pool} {layer}": torch.zeros(4, width).half()
        for pool in encoder.tower.pools
        for layer in range(1, blocks + 1)
    }
    chunk |= {"embedding": torch.zeros(4, encoder.embedding_width), "indices": torch.arange(4)}
    tiny = {"visual.conv1.weight": torch.zeros(2, 3), "text.x": torch.zeros(2).bfloat16()}
    pickled, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": tiny, "epoch": 3}, pickled)
    torch.save(tiny, legacy, _use_new_zipfile_serialization=False)
    one = {"weight": torch.zeros(1)}
    with head.open("rb") as file:
        text = load_metadata(file.read())
    return Target(
        run,
        [
            *(b"\0" + _unpacked(save({"x": torch.zeros(1, dtype=kind)}, text)) for kind in _kinds(torch)),
            b"\x01" + _unpacked(save(chunk)),
            b"\x01" + _unpacked(save({"indices": torch.tensor(1)} | one)),
            b"\x02" + bytes(12),
            b"\x03" + b"kept",
            *(b"\x04" + content for content in (save(tiny), pickled.getvalue(), legacy.getvalue())),
            *(b"\x04" + save({"visual.x": torch.zeros(1, dtype=kind)}) for kind in _kinds(torch)),
        ],
    )


def names() -> Target:
    """Lists of class names, and files of templates."""
    from tgems_edge.sources.class_names import match_folders, say_folders
    from tgems_export.encoders.prompts import load_templates, read_class_file

    folder = Path(tempfile.mkdtemp())
    folders = ["cat", "Sea_slug", "sea-slug", "café", "猫", "n01440764"]

    def run(data: bytes) -> None:
        if data[:1] < b"\x80":
            listed = read_class_file(_put(folder / "classes.txt", data[1:]))
            match_folders(say_folders(folders, listed.folders, "DATA"), listed.names, "DATA")
        else:
            load_templates(str(_put(folder / "templates.txt", data[1:])))

    texts = ["cat\ndog\n", "n01440764\ttench\nslug\tsea slug\n", "\ufeffcafé\r\n猫\n# no\n", "a {} b\n{}\n"]
    return Target(run, [head + text.encode() for text in texts for head in (b"\0", b"\x80")])


TARGETS: dict[str, Callable[[], Target]] = {
    target.__name__: target for target in (model, card, picture, cache, names)
}


# What JSON can hold in the place of anything else.
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, 5e-324),
    *("", "0.9", "\0", "\ud800", "a\nb", "\x1b[2J", "猫" * 50, "x" * 5000, "../..", [], {}, [[]], {"": None}),
    *([0, 0], [2**40, 2**40], {"0.9": 1e308}, {"1e-9": 0}, {"nan": 1}, ["a", "a"], ["a", "b"]),
]


def _changed(tree: Any, chance: random.Random) -> Any:
    """A copy of JSON with one to three of its parts gone, doubled, swapped or replaced."""
    tree = json.loads(json.dumps(tree))
    for _ in range(chance.randint(1, 3)):
        places = list(_places(tree))
        holder, key = chance.choice(places)
        other_holder, other_key = chance.choice(places)
        action = chance.randrange(8)
        if action == 0:
            del holder[key]
        elif action == 1:
            holder[key] = json.loads(json.dumps(other_holder[other_key]))
        elif action == 2 and isinstance(holder, list):
            holder += holder[: chance.randint(1, 3)]
        elif action == 3 and isinstance(holder[key], str):
            letters = list(holder[key])
            letters.insert(chance.randint(0, len(letters)), chr(chance.choice([0, 10, 27, 0x202E, 0xD800])))
            holder[key] = "".join(letters)
        else:
            holder[key] = json.loads(json.dumps(chance.choice(ODD)))
    return tree


def _places(tree: Any) -> Any:
    """Every part of JSON, as what holds it and its key."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        yield from _places(tree[key])


def _card() -> Any:
    """A card with every part: three classes, two exits, calibrated, in INT8."""
    from tgems_edge.model_file.card import (
        Accuracy,
        Calibration,
        Card,
        Dynamic,
        Exit,
        ExitCalibration,
        ExitGate,
        Sample,
    )
    from tgems_edge.model_file.default import built_in_model
    from tgems_edge.model_file.onnx_file import read_header

    card = Card.from_metadata(read_header(built_in_model()).metadata, "the built-in file")
    assert card.calibration is not None
    fitted, last = card.calibration, card.last_exit
    gate = ExitGate((4.0, 1.0, 0.5), -2.0, 0.6)
    early = Exit(3, 2, "cls", "tgem", 10_000_000, gate, ExitCalibration(1.0, -0.9, 0.75))
    late = replace(last, operations=40_000_000, calibration=ExitCalibration(last.temperature, 4.0, 0.25))
    digests = [hashlib.sha256(bytes([i])).digest() for i in range(200)]
    return replace(
        card,
        classes=("rouge vif", "猫", '"file_sha256"'),
        templates=card.templates[:2],
        preprocessing=replace(card.preprocessing, size=(8, 8), colour="srgb"),
        exits=(early, late),
        calibration=Calibration.of(digests, fitted.conformal, fitted.conformal_adaptive, fitted.rejection),
        dynamic=Dynamic(0.5, 80_000_000, {"4": "nothing would leave there"}),
        accuracy=Accuracy(0.5, 4, "ef" * 32, 0.1, {"0.9": 0.91}, {"0.9": 1.2}),
        samples=(Sample("noise", "1", "cd" * 32, "cd" * 32, (-0.5, -0.5, -0.5)),),
    )


def _small_model(card: str) -> bytes:
    """A model of a few bytes that answers, with this card."""
    from onnx import TensorProto, helper

    from tgems_edge.model_file.card import METADATA_KEY

    count, value = 3, helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["rates"], keepdims=0),
        helper.make_node("Softmax", ["rates"], ["probabilities"]),
        helper.make_node("ArgMin", ["rates"], ["label"], axis=1, keepdims=0),
        helper.make_node("Mul", ["label", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "five"], ["exit_layer"]),
    ]
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        for name, values in {"axes": [1, 2], "zero": [0], "five": [5]}.items()
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [value("pixels", TensorProto.UINT8, ["B", 8, 8, 3])],
        [
            *(value(name, TensorProto.FLOAT, ["B", count]) for name in ("rates", "probabilities")),
            *(value(name, TensorProto.INT64, ["B"]) for name in ("label", "exit_layer")),
        ],
        constants,
    )
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    entry = made.metadata_props.add(key=METADATA_KEY)
    entry.value = card.encode(errors="replace").decode()
    return bytes(made.SerializeToString())


def _command(*arguments: str) -> None:
    """Runs a command, which may refuse but not fail."""
    from tgems_edge.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(arguments)
        except SystemExit as ended:
            assert ended.code in (None, 0, 1, 2), said.getvalue()[-500:]


def _put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _tensors(data: bytes) -> bytes:
    """A header, a zero byte and what follows, as a safetensors file: no search finds the right length."""
    header, _, rest = data.partition(b"\0")
    return len(header).to_bytes(8, "little") + header + rest


def _unpacked(content: bytes) -> bytes:
    """A safetensors file as `_tensors` takes it, without its digest."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header.get("__metadata__", {}).pop("sha256", None)
    return json.dumps(header).encode() + b"\0" + content[end:]


def load_metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8:end])["__metadata__"])


def _kinds(torch: Any) -> list[Any]:
    """Element types of tensors, those included that NumPy does not know."""
    return [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.uint8, torch.int64]
