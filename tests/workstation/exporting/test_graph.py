"""The rewired graph says what open_clip and the head say, in torch and in ONNX."""

import numpy as np
import onnx
import pytest
import torch

from tgems_edge.errors import InputError
from tgems_edge.maths.rates import posterior
from tgems_edge.model_file.gate import INPUT, OUTPUTS
from tgems_edge.runtime.session import open_session
from tgems_export.encoders.encoder import load_encoder
from tgems_export.exporting.graph.onnx_graph import set_temperature, to_onnx

K = 16


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_every_exit_of_the_demo_is_open_clip_and_the_head(encoder, make_exit, pool):
    for layer in range(1, encoder.blocks + 1):
        exit_ = make_exit(encoder, layer, pool)
        rates, _ = exit_.graph(torch.from_numpy(exit_.pixels))
        exit_.check(rates)


@pytest.mark.parametrize("pool", ["cls", "mean"])
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
        ({"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}, {}),
        ({"attentional_pool": True, "attn_pooler_queries": 8}, {}),
        ({"qk_norm": True, "ls_init_value": 0.3}, {}),
        ({"scale_heads": True, "scale_attn_inner": True}, {}),
        ({"scale_attn": True, "scale_fc": True, "ls_init_value": 0.3}, {}),
    ],
    ids=[
        "layer scale",
        "no norm",
        "average",
        "not square",
        "sizes",
        "quick gelu",
        "joint width",
        "clipa",
        "coca",
        "qk norm",
        "scaled heads",
        "scaled attention",
    ],
)
def test_towers_of_other_kinds_are_rewired_as_well(tiny, make_exit, vision, model, pool):
    encoder = load_encoder(tiny("tiny-variant", vision, **model), "random")
    make_exit(encoder, 3, pool).check_in_torch()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_probabilities_are_the_posterior_of_the_rates(encoder, make_exit, temperature):
    exit_ = make_exit(encoder, 1, "cls")
    model = exit_.to_onnx()
    set_temperature(model, 1, K, temperature)
    session = open_session(model.SerializeToString())
    rates, probabilities = session.run(["rates", "probabilities"], {INPUT: exit_.pixels})
    np.testing.assert_allclose(probabilities, posterior(rates, K, temperature), rtol=1e-4)


def weights_up_to(layer, pool, width=128, patch=8, tokens=65, classes=3):
    """Count the numbers of an exit, in order: patch embedding, blocks, Jumper, tables."""
    embedding = 3 * patch**2 * width + tokens * width + 2 * width  # its bias is in the positions
    blocks = layer * (12 * width**2 + 13 * width)
    if pool == "cls":
        blocks -= width  # softmax does not see the bias of the last keys
    return embedding + blocks + (width * K + K) + (2 * K * classes + classes)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("layer", [1, 5, 12])
def test_nothing_behind_the_exit_is_in_the_graph(encoder, make_exit, layer, pool):
    graph = make_exit(encoder, layer, pool, pictures=1).graph
    assert sum(parameter.numel() for parameter in graph.parameters()) == weights_up_to(layer, pool)


@pytest.fixture(scope="module", params=[(2, "cls"), (3, "mean")], ids=["2-cls", "3-mean"])
def exported(request, encoder, make_exit):
    """An exit and the ONNX model of it."""
    exit_ = make_exit(encoder, *request.param)
    return exit_, exit_.to_onnx()


@pytest.mark.parametrize("batch", [1, 7])
def test_onnx_says_the_same_for_any_batch(exported, batch):
    exit_, model = exported
    session = open_session(model.SerializeToString())
    rates, probabilities, label, exit_layer = session.run(OUTPUTS, {INPUT: exit_.pixels[:batch]})
    exit_.check(rates)
    np.testing.assert_allclose(probabilities, posterior(rates, K), rtol=1e-4)
    assert label.tolist() == exit_.rates[:batch].argmin(1).tolist()
    assert exit_layer.tolist() == [exit_.layer] * batch
    assert (rates.dtype, label.dtype, exit_layer.dtype) == (np.float32, np.int64, np.int64)


def test_onnx_holds_the_weights_of_the_exit_and_standard_operators(exported):
    exit_, model = exported
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    floats = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    count = sum(int(np.prod(tensor.dims)) for tensor in floats)
    count -= sum(buffer.numel() for buffer in exit_.graph.buffers())
    assert 0 <= count - weights_up_to(exit_.layer, exit_.pool) < 16  # and a few constants


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


def test_onnx_can_be_written_in_the_newest_opset(encoder, make_exit):
    exit_ = make_exit(encoder, 1, "cls")
    assert to_onnx(exit_.graph, exit_.size, 23).opset_import[0].version == 23
    exit_.check_in_onnx(23)


@pytest.mark.parametrize("opset", [17, 24])
def test_other_opsets_are_refused(encoder, make_exit, opset):
    exit_ = make_exit(encoder, 1, "cls", pictures=1)
    with pytest.raises(InputError, match=f"--opset {opset}: choose from 18 to 23"):
        to_onnx(exit_.graph, exit_.size, opset)


@pytest.mark.slow
def test_every_layer_of_vit_b_32_is_rewired_and_exit_5_exported(make_exit):
    encoder = load_encoder("ViT-B-32", "random")
    for layer in range(1, 13):
        for pool in encoder.tower.pools:
            make_exit(encoder, layer, pool, pictures=2).check_in_torch()
    make_exit(encoder, 5, "cls").check_in_onnx()


@pytest.mark.parametrize(("layer", "pool"), [(2, "mean"), (6, "cls")])
def test_half_precision_changes_the_size_and_hardly_the_rates(encoder, make_exit, layer, pool):
    exit_ = make_exit(encoder, layer, pool)
    whole, half = exit_.to_onnx(), make_exit(encoder, layer, pool, precision="fp16").to_onnx()
    assert half.ByteSize() < 0.6 * whole.ByteSize()
    types = {
        tensor.name: tensor.type.tensor_type.elem_type for tensor in (*half.graph.input, *half.graph.output)
    }
    assert types == {t.name: t.type.tensor_type.elem_type for t in (*whole.graph.input, *whole.graph.output)}
    rates = open_session(half.SerializeToString()).run(["rates"], {INPUT: exit_.pixels})[0]
    difference = np.abs(rates - exit_.rates).max()
    assert 0 < difference < 1e-2 * max(1, np.abs(exit_.rates).max())
