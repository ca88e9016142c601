"""Pictures drawn from seeds, the built-in model, and a model so small that its answers are obvious."""

import pytest
from PIL import Image

from tgems_edge.card import METADATA_KEY, Card, EncoderId, Parity, Sample, noise_pixels
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
        opset=18,
        parity=Parity(3, "plain colours", 0.0, 1.0),
        resizing=None,
        accuracy=None,
        samples=(Sample("noise", "1", "cd" * 32, "cd" * 32, (-0.5, -0.5, -0.5)),),
        versions={"tgems-edge": "0.1.0"},
        licence={"code": "Apache-2.0"},
    )


@pytest.fixture
def colour_model(tmp_path, colour_card):
    """colour_model(card): the path of a model whose rates are minus the mean red, green and blue."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto

    def colour_model(card=colour_card, *, name="colours.onnx"):
        """`card` is a Card, its text, or None for a file without one."""
        constants = {
            "axes": (kind.INT64, [1, 2]),
            "scale": (kind.FLOAT, [-1 / 255]),
            "inverse": (kind.FLOAT, [-2.0]),
            "zero": (kind.INT64, [0]),
            "layer": (kind.INT64, [4]),
        }
        nodes = [
            ("Cast", ["pixels"], "floats", {"to": kind.FLOAT}),
            ("ReduceMean", ["floats", "axes"], "means", {"keepdims": 0}),
            ("Mul", ["means", "scale"], "rates", {}),
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
                helper.make_tensor_value_info("rates", kind.FLOAT, ["B", 3]),
                helper.make_tensor_value_info("probabilities", kind.FLOAT, ["B", 3]),
                helper.make_tensor_value_info("label", kind.INT64, ["B"]),
                helper.make_tensor_value_info("exit_layer", kind.INT64, ["B"]),
            ],
            [helper.make_tensor(key, type_, [len(v)], v) for key, (type_, v) in constants.items()],
        )
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
        if card is not None:
            text = card if isinstance(card, str) else card.to_json()
            helper.set_model_props(model, {METADATA_KEY: text})
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return colour_model
