"""Pictures drawn from seeds, the built-in model, and a model so small that its answers are obvious."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tgems_edge.model_file.card import (
    METADATA_KEY,
    Calibration,
    Card,
    Dynamic,
    EncoderId,
    Exit,
    ExitCalibration,
    ExitGate,
    Parity,
    Preprocessing,
    Sample,
    noise_pixels,
)
from tgems_edge.model_file.default import built_in_model
from tgems_edge.model_file.seal import seal
from tgems_edge.runtime.classifier import load

MACHINES = Path(__file__).parent / "machines"


@pytest.fixture(scope="session")
def draw():
    """draw(seed, width, height): a smooth RGB picture."""

    def draw(seed, width, height):
        noise = Image.fromarray(noise_pixels(str(seed), (height // 8 + 2, width // 8 + 2)))
        return noise.resize((width, height), Image.Resampling.BILINEAR)

    return draw


@pytest.fixture(scope="session")
def classifier():
    return load(built_in_model(), threads=1)


@pytest.fixture(scope="session")
def colour_card():
    """A model that answers with the strongest of three colours."""
    return Card(
        classes=("red", "green", "blue"),
        classes_not_trained=("blue",),
        templates=("a photo of {}.",),
        encoder=EncoderId("colours", None, "ab" * 32),
        input="pixels",
        preprocessing=Preprocessing((6, 10), "squash", "bilinear", 0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        exits=(Exit(4, 2, "cls", "tgem", None, None, None),),
        dynamic=None,
        calibration=None,
        precision="fp32",
        quantisation=None,
        opset=18,
        parity=Parity(3, "plain colours", 0.0, 1.0),
        resizing=None,
        accuracy=None,
        samples=(Sample("noise", "1", "cd" * 32, "cd" * 32, (-0.5, -0.5, -0.5)),),
        versions={"tgems-edge": "0.1.0"},
        licence={"code": "Apache-2.0"},
    )


@pytest.fixture(scope="session")
def calibrated_card(colour_card):
    """The same model, calibrated: one colour is sure, two of equal strength are a set, black is unknown."""
    return replace(
        colour_card,
        exits=(replace(colour_card.last_exit, calibration=ExitCalibration(1.0, 0.0, 1.0)),),
        calibration=Calibration.of(
            [hashlib.sha256(bytes([i])).digest() for i in range(200)],
            conformal={"0.8": 0.3, "0.9": 0.6, "0.95": 0.8, "0.99": 0.95},
            conformal_adaptive={"0.8": 0.1, "0.9": 0.4, "0.95": 0.5, "0.99": 0.8},
            rejection={"0.01": -0.05, "0.05": -0.25, "0.1": -0.6, "0.2": -0.9},
        ),
    )


@pytest.fixture(scope="session")
def dynamic_card(calibrated_card):
    """Bright colours leave at block 2, whose rates are those of the static model; dark ones at block 5.

    A rate of block 5 is 8 - 8 times the colour, and its temperature makes the probabilities the same. All
    are far above those of block 2, but only that of black is far above its exit's `surprise`.
    """
    gate = ExitGate((4.0, 1.0, 0.5), -2.0, 0.6)
    early = Exit(2, 2, "cls", "tgem", 10_000_000, gate, ExitCalibration(1.0, -0.9, 0.75))
    late = Exit(5, 2, "cls", "tgem", 40_000_000, None, ExitCalibration(8.0, 4.0, 0.25))
    rejection = {"0.01": 2.0, "0.05": 1.0, "0.1": 0.5, "0.2": 0.2}
    return replace(
        calibrated_card,
        exits=(early, late),
        dynamic=Dynamic(0.5, 40_000_000, {"3": "nothing would leave there"}),
        calibration=replace(calibrated_card.calibration, rejection=rejection),
    )


@pytest.fixture(scope="session")
def as_schema_1():
    """as_schema_1(card): the JSON that schema 1 had of a card: several exits and the last of them again."""
    return write_as_schema_1


def write_as_schema_1(card):
    """A card as schema 1 had it: the last exit in fields of its own, and all exits again in `dynamic`."""
    data = json.loads(card.to_json())
    exits, dynamic, fitted = data.pop("exits"), data["dynamic"], data["calibration"] or {}
    last, tables = exits[-1], ("conformal", "conformal_adaptive", "rejection")
    flat = [
        {
            **{key: exit[key] for key in ("layer", "k", "pool", "operations")},
            **(exit["calibration"] or {}),
            **(exit["gate"] or dict.fromkeys(("weights", "bias", "threshold"))),
        }
        for exit in exits
    ]
    if dynamic:
        full = dynamic.pop("full_operations")
        took = sum(exit["share"] * exit["operations"] for exit in flat)
        dynamic |= {"operations": took / full, "exits": flat}
    return {
        **data,
        **{name: fitted.pop(name, None) for name in tables},
        **{name: last[name] for name in ("layer", "k", "pool", "head_kind")},
        "temperature": last["calibration"] and last["calibration"]["temperature"],
        "schema": 1,
    }


@pytest.fixture
def write_model(tmp_path):
    """write_model(nodes, constants, card, name): the path of a sealed model of 6 x 10 pixels."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto

    def write_model(nodes, constants, card, name):
        """`card` is a Card, its text in a file that is not sealed, or None for a file without one."""
        classes = count_classes(card)
        graph = helper.make_graph(
            [helper.make_node(op, inputs, [output], **options) for op, inputs, output, options in nodes],
            "colours",
            [helper.make_tensor_value_info("pixels", kind.UINT8, ["B", 6, 10, 3])],
            [
                helper.make_tensor_value_info("rates", kind.FLOAT, ["B", classes]),
                helper.make_tensor_value_info("probabilities", kind.FLOAT, ["B", classes]),
                helper.make_tensor_value_info("label", kind.INT64, ["B"]),
                helper.make_tensor_value_info("exit_layer", kind.INT64, ["B"]),
            ],
            [helper.make_tensor(key, *constant) for key, constant in constants.items()],
        )
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
        if card is not None:
            text = card if isinstance(card, str) else card.to_json()
            helper.set_model_props(model, {METADATA_KEY: text})
        path, data = tmp_path / name, model.SerializeToString()
        path.write_bytes(seal(data) if isinstance(card, Card) else data)
        return path

    return write_model


@pytest.fixture(scope="session")
def rewrite():
    """rewrite(path, edit): changes the model in a file with onnx, and seals it again."""
    onnx = pytest.importorskip("onnx")

    def rewrite(path, edit):
        model = onnx.load(path)
        edit(model)
        for entry in model.metadata_props:
            entry.value = re.sub('"file_sha256": "[0-9a-f]{64}"', f'"file_sha256": "{"0" * 64}"', entry.value)
        path.write_bytes(seal(model.SerializeToString()))
        return path

    return rewrite


def count_classes(card):
    return len(card.classes) if isinstance(card, Card) else 3


def colour_matrix(classes):
    """(3, classes), flat: minus each of three colours, from 0 to 1; nothing for classes after the third."""
    return [-1 / 255 if column == row else 0 for row in range(3) for column in range(classes)]


@pytest.fixture
def colour_model(write_model, colour_card):
    """colour_model(card): the path of a model whose rates are minus the mean red, green and blue.

    Classes after the third have the rate of black, which is 0.
    """
    kind = pytest.importorskip("onnx").TensorProto

    def colour_model(card=colour_card, *, name="colours.onnx"):
        """`card` as `write_model` takes it."""
        classes = count_classes(card)
        constants = {
            "axes": (kind.INT64, [2], [1, 2]),
            "colours": (kind.FLOAT, [3, classes], colour_matrix(classes)),
            "inverse": (kind.FLOAT, [1], [-2.0]),
            "zero": (kind.INT64, [1], [0]),
            "layer": (kind.INT64, [1], [4]),
        }
        nodes = [
            ("Cast", ["pixels"], "floats", {"to": kind.FLOAT}),
            ("ReduceMean", ["floats", "axes"], "means", {"keepdims": 0}),
            ("MatMul", ["means", "colours"], "rates", {}),
            ("Mul", ["rates", "inverse"], "logits", {}),
            ("Softmax", ["logits"], "probabilities", {}),
            ("ArgMin", ["rates"], "label", {"axis": 1, "keepdims": 0}),
            ("Mul", ["label", "zero"], "nothing", {}),
            ("Add", ["nothing", "layer"], "exit_layer", {}),
        ]
        return write_model(nodes, constants, card, name)

    return colour_model


@pytest.fixture
def dynamic_model(write_model, dynamic_card):
    """dynamic_model(card): the path of a model that answers from block 2 or 5, as `dynamic_card` says."""
    kind = pytest.importorskip("onnx").TensorProto

    def dynamic_model(card=dynamic_card, *, name="dynamic.onnx"):
        constants = {
            "axes": (kind.INT64, [2], [1, 2]),
            "classes": (kind.INT64, [1], [1]),
            "dark": (kind.FLOAT, [1], [150.0]),
            "colours": (kind.FLOAT, [3, 3], colour_matrix(3)),
            "eight": (kind.FLOAT, [1], [8.0]),
            "inverse_2": (kind.FLOAT, [1], [-2.0]),
            "inverse_5": (kind.FLOAT, [1], [-0.25]),
            "layer_2": (kind.INT64, [1], [2]),
            "layer_5": (kind.INT64, [1], [5]),
        }
        nodes = [
            ("Cast", ["pixels"], "floats", {"to": kind.FLOAT}),
            ("ReduceMean", ["floats", "axes"], "means", {"keepdims": 0}),
            ("ReduceMax", ["means", "classes"], "brightness", {"keepdims": 1}),
            ("Greater", ["brightness", "dark"], "leaves", {}),
            ("MatMul", ["means", "colours"], "rates_2", {}),
            ("Mul", ["rates_2", "eight"], "products", {}),
            ("Add", ["products", "eight"], "rates_5", {}),
            ("Where", ["leaves", "rates_2", "rates_5"], "rates", {}),
            ("Where", ["leaves", "inverse_2", "inverse_5"], "inverse", {}),
            ("Mul", ["rates", "inverse"], "logits", {}),
            ("Softmax", ["logits"], "probabilities", {}),
            ("ArgMin", ["rates"], "label", {"axis": 1, "keepdims": 0}),
            ("Where", ["leaves", "layer_2", "layer_5"], "layers", {}),
            ("Squeeze", ["layers", "classes"], "exit_layer", {}),
        ]
        return write_model(nodes, constants, card, name)

    return dynamic_model


@pytest.fixture
def machine(tmp_path):
    """machine(name, {path: text}): the root of a recorded tree, with some files replaced; None removes one.

    What lies in a `bin` folder becomes a tool that prints its text.
    """

    def machine(name, changes=None):
        recorded = (MACHINES / f"{name}.txt").read_text("utf-8")
        _, *parts = re.split(r"^==> (.*) <==\n", recorded, flags=re.MULTILINE)
        files = dict(zip(parts[::2], parts[1::2], strict=True)) | (changes or {})
        root = tmp_path / "root"
        for name, text in files.items():
            if text is not None:
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                is_tool = path.parent.name in ("bin", "sbin")
                path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n" if is_tool else text, "utf-8")
                path.chmod(0o755 if is_tool else 0o644)
        return root

    return machine
