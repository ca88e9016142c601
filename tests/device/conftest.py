"""Pictures drawn from seeds, the built-in model, and a model so small that its answers are obvious."""

import hashlib
from dataclasses import replace

import pytest
from PIL import Image

from tgems_edge.card import METADATA_KEY, CalibrationData, Card, EncoderId, Parity, Sample, noise_pixels
from tgems_edge.images import Preprocessing
from tgems_edge.model import built_in_model, load


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
    """Of a model that answers with the strongest of three colours."""
    return Card(
        classes=("red", "green", "blue"),
        classes_not_trained=("blue",),
        templates=("a photo of {}.",),
        layer=4,
        k=2,
        pool="cls",
        encoder=EncoderId("colours", None, "ab" * 32),
        input="pixels",
        preprocessing=Preprocessing((6, 10), "squash", "bilinear", 0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        temperature=None,
        conformal=None,
        conformal_adaptive=None,
        rejection=None,
        calibration=None,
        precision="fp32",
        quantisation=None,
        dynamic=None,
        head_kind=None,
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
        temperature=1.0,
        conformal={"0.8": 0.3, "0.9": 0.6, "0.95": 0.8, "0.99": 0.95},
        conformal_adaptive={"0.8": 0.1, "0.9": 0.4, "0.95": 0.5, "0.99": 0.8},
        rejection={"0.01": -0.05, "0.05": -0.25, "0.1": -0.6, "0.2": -0.9},
        calibration=CalibrationData.of([hashlib.sha256(bytes([i])).digest() for i in range(200)]),
    )


@pytest.fixture
def colour_model(tmp_path, colour_card):
    """colour_model(card): the path of a model whose rates are minus the mean red, green and blue.

    Classes after the third have the rate of black, which is 0.
    """
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto

    def colour_model(card=colour_card, *, name="colours.onnx"):
        """`card` is a Card, its text, or None for a file without one."""
        classes = len(card.classes) if isinstance(card, Card) else 3
        colours = [-1 / 255 if column == row else 0 for row in range(3) for column in range(classes)]
        constants = {
            "axes": (kind.INT64, [2], [1, 2]),
            "colours": (kind.FLOAT, [3, classes], colours),
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
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return colour_model
