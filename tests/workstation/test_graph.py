"""The rewired graph says what open_clip and the head say, in torch and in ONNX."""

import numpy as np
import onnx
import pytest
import torch

from tgems_edge.errors import InputError
from tgems_edge.images import to_pixels
from tgems_edge.rates import posterior
from tgems_edge.session import INPUT, OUTPUTS, open_session
from tgems_export.encoder import POOLS, load_encoder
from tgems_export.graph import ExitGraph, to_onnx
from tgems_export.pictures import draw
from tgems_export.prompts import class_embeddings, encode_prompts

K = 16
CLASSES = ["cat", "dog", "truck"]


class Exit:
    """An exit of an encoder with a random head: the graph, and what it ought to say about drawn pictures."""

    def __init__(self, encoder, layer, pool, head, pictures=7, temperature=1.0):
        self.text = class_embeddings(encode_prompts(encoder, CLASSES, ["a {}.", "the {}."]))
        self.graph = ExitGraph(encoder, layer, pool, head, self.text, temperature)
        drawn = [draw(seed, 60, 45) for seed in range(pictures)]
        self.size = encoder.preprocessing.size
        self.pixels = np.stack([to_pixels(picture, encoder.preprocessing) for picture in drawn])
        images = torch.stack([encoder.reference_transform(picture) for picture in drawn])
        self.rates = head.rates(encoder.exit_activation(images, layer, pool), self.text).numpy()

    def check(self, rates):
        """The rates of the first pictures, to rounding."""
        torch.testing.assert_close(np.asarray(rates), self.rates[: len(rates)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_every_exit_of_the_demo_is_open_clip_and_the_head(encoder, random_head, pool):
    for layer in range(1, encoder.blocks + 1):
        exit_ = Exit(encoder, layer, pool, random_head(encoder))
        rates, _, label, exit_layer = exit_.graph(torch.from_numpy(exit_.pixels))
        exit_.check(rates)
        assert label.tolist() == exit_.rates.argmin(1).tolist()
        assert exit_layer.tolist() == [layer] * 7


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("vision", "model"),
    [
        ({"ls_init_value": 0.3}, {}),
        ({"no_ln_pre": True}, {}),
        ({"pool_type": "avg"}, {}),
        ({"image_size": [32, 48]}, {}),
        ({"patch_size": 8, "width": 96, "head_width": 48, "layers": 3, "mlp_ratio": 2.5}, {}),
        ({}, {"quick_gelu": True}),
        ({}, {"embed_dim": 64}),
    ],
    ids=["layer scale", "no norm", "average", "not square", "sizes", "quick gelu", "joint width"],
)
def test_towers_of_other_kinds_are_rewired_as_well(tiny, random_head, vision, model, pool):
    encoder = load_encoder(tiny("tiny-variant", vision, **model), "random")
    exit_ = Exit(encoder, 3, pool, random_head(encoder))
    exit_.check(exit_.graph(torch.from_numpy(exit_.pixels))[0])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_probabilities_are_the_posterior_of_the_rates(encoder, random_head, temperature):
    exit_ = Exit(encoder, 1, "cls", random_head(encoder), temperature=temperature)
    rates, probabilities, _, _ = (out.numpy() for out in exit_.graph(torch.from_numpy(exit_.pixels)))
    np.testing.assert_allclose(probabilities, posterior(rates, K, temperature), rtol=1e-4)


def weights_up_to(layer, width=128, patch=8, tokens=65, classes=3):
    """How many numbers an exit needs; the order: patch embedding, blocks, Jumper, tables."""
    embedding = 3 * patch**2 * width + width + tokens * width + 2 * width
    block = 12 * width**2 + 13 * width
    return embedding + layer * block + (width * K + K) + (2 * K * classes + classes)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("layer", [1, 5, 12])
def test_nothing_behind_the_exit_is_in_the_graph(encoder, random_head, layer, pool):
    graph = Exit(encoder, layer, pool, random_head(encoder), pictures=1).graph
    assert sum(parameter.numel() for parameter in graph.parameters()) == weights_up_to(layer)


@pytest.fixture(scope="module", params=[(2, "cls"), (3, "mean")], ids=["2-cls", "3-mean"])
def exported(request, encoder, random_head):
    """An exit and the ONNX model of it."""
    exit_ = Exit(encoder, *request.param, random_head(encoder))
    return exit_, to_onnx(exit_.graph, exit_.size, 18)


@pytest.mark.parametrize("batch", [1, 7])
def test_onnx_says_the_same_for_any_batch(exported, batch):
    exit_, model = exported
    session = open_session(model.SerializeToString())
    rates, probabilities, label, exit_layer = session.run(OUTPUTS, {INPUT: exit_.pixels[:batch]})
    exit_.check(rates)
    np.testing.assert_allclose(probabilities, posterior(rates, K), rtol=1e-4)
    assert label.tolist() == exit_.rates[:batch].argmin(1).tolist()
    assert exit_layer.tolist() == [exit_.graph.layer] * batch
    assert (rates.dtype, label.dtype, exit_layer.dtype) == (np.float32, np.int64, np.int64)


def test_onnx_holds_the_weights_of_the_exit_and_standard_operators(exported):
    exit_, model = exported
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    floats = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    count = sum(int(np.prod(tensor.dims)) for tensor in floats)
    assert 0 <= count - weights_up_to(exit_.graph.layer) < 16  # and a few constants


def test_onnx_has_the_inputs_and_outputs_of_the_interface(exported):
    _, model = exported
    shapes = {
        value.name: [dim.dim_value or "B" for dim in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {
        "pixels": ["B", 64, 64, 3],
        "rates": ["B", 3],
        "probabilities": ["B", 3],
        "label": ["B"],
        "exit_layer": ["B"],
    }


def test_onnx_can_be_written_in_the_newest_opset(encoder, random_head):
    exit_ = Exit(encoder, 1, "cls", random_head(encoder))
    model = to_onnx(exit_.graph, exit_.size, 23)
    assert model.opset_import[0].version == 23
    exit_.check(open_session(model.SerializeToString()).run(["rates"], {INPUT: exit_.pixels})[0])


@pytest.mark.parametrize("opset", [17, 24])
def test_other_opsets_are_refused(encoder, random_head, opset):
    exit_ = Exit(encoder, 1, "cls", random_head(encoder), pictures=1)
    with pytest.raises(InputError, match=f"--opset {opset}: choose from 18 to 23"):
        to_onnx(exit_.graph, exit_.size, opset)


@pytest.mark.slow
def test_vit_b_32_is_rewired_as_well(random_head):
    encoder = load_encoder("ViT-B-32", "random")
    for layer, pool in [(1, "cls"), (6, "mean"), (12, "cls")]:
        exit_ = Exit(encoder, layer, pool, random_head(encoder), pictures=2)
        exit_.check(exit_.graph(torch.from_numpy(exit_.pixels))[0])
    exit_ = Exit(encoder, 5, "cls", random_head(encoder))
    session = open_session(to_onnx(exit_.graph, exit_.size, 18).SerializeToString())
    for batch in (1, 7):
        exit_.check(session.run(["rates"], {INPUT: exit_.pixels[:batch]})[0])


@pytest.mark.parametrize(("layer", "pool"), [(2, "mean"), (12, "cls")])
def test_half_precision_changes_the_size_and_hardly_the_rates(encoder, random_head, layer, pool):
    head = random_head(encoder)
    exit_ = Exit(encoder, layer, pool, head)
    whole = to_onnx(exit_.graph, exit_.size, 18)
    graph = ExitGraph(encoder, layer, pool, head, exit_.text, precision="fp16")
    half = to_onnx(graph, exit_.size, 18)
    assert half.ByteSize() < 0.6 * whole.ByteSize()
    types = {
        tensor.name: tensor.type.tensor_type.elem_type for tensor in (*half.graph.input, *half.graph.output)
    }
    assert types == {t.name: t.type.tensor_type.elem_type for t in (*whole.graph.input, *whole.graph.output)}
    rates = open_session(half.SerializeToString()).run(["rates"], {INPUT: exit_.pixels})[0]
    difference = np.abs(rates - exit_.rates).max()
    assert 0 < difference < 1e-2 * max(1, np.abs(exit_.rates).max())
