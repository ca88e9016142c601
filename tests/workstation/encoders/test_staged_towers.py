"""Towers of stages, cut between any two blocks, say what their own library says."""

import json

import numpy as np
import open_clip
import pytest
import torch

from tgems_edge.errors import EncoderError
from tgems_export.encoders.encoder import load_encoder
from tgems_export.encoders.towers.families import read_tower
from tgems_export.encoders.towers.operations import count_operations
from tgems_export.encoders.towers.stages.folding import fold

TIMM = {
    "efficientnet": ("tf_efficientnet_lite0", 64),  # pads unevenly, as TensorFlow does
    "mobilenet-v2": ("mobilenetv2_035", 64),
    "mobilenet-v3": ("mobilenetv3_small_050", 64),
    "fastvit": ("fastvit_t8", 64),
    "mobileclip": ("fastvit_mci0", 64),
    "convnext": ("convnext_atto", 64),
    "swin": ("swin_tiny_patch4_window7_224", 224),
    "vitamin": ("vitamin_small_224", 224),
    "relative": ("vit_relpos_small_patch16_224", 224),
}
RESNET = {"layers": [1, 2, 1, 1], "width": 8, "image_size": 64, "head_width": 64}


@pytest.fixture(scope="module")
def small(tiny):
    """small(family): an untrained CLIP with a small image tower of the family."""

    def small(family):
        if family == "resnet":
            return load_encoder(tiny("tiny-resnet", RESNET, embed_dim=16), "random")
        name, size = TIMM[family]
        pool = "" if family in ("convnext", "swin", "vitamin", "relative") else "avg"
        # A MobileNetV3 has its own layer behind the pool, of which open_clip's projection knows nothing.
        projection = None if family == "mobilenet-v3" else "linear"
        vision = {"timm_model_name": name, "timm_pool": pool, "timm_proj": projection, "image_size": size}
        return load_encoder(tiny(f"tiny-{family}", vision, embed_dim=16), "random")

    return small


@pytest.mark.parametrize("family", [*TIMM, "resnet"])
def test_its_points_and_its_embedding_are_the_librarys(small, make_exit, family):
    encoder = small(family)
    points = encoder.tower.points
    for point in (points[0], points[len(points) // 2], points[-1]):
        for pool in point.pools:
            make_exit(encoder, point.number, pool, pictures=2).check_in_torch()
    pixels = np.random.default_rng(0).integers(0, 256, (2, *encoder.preprocessing.size, 3), np.uint8)
    tower = encoder.tower
    state = tower.stem(encoder.preprocessing).module(torch.from_numpy(pixels))
    for part in tower.segment(0, len(points)):
        state = part.module(state)
    embedding = tower.readout(tower.full, "embedding", goes_on=False).part.module(state)
    torch.testing.assert_close(embedding, encoder.activations(pixels).embedding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["efficientnet", "mobileclip", "resnet"])
def test_in_onnx_for_any_batch(small, make_exit, family):
    encoder = small(family)
    make_exit(encoder, 2, "mean").check_in_onnx()


@pytest.mark.parametrize("family", ["efficientnet", "mobilenet-v3", "mobileclip", "resnet", "swin"])
def test_all_points_come_from_one_pass_and_each_from_a_pass_that_ends_there(small, family):
    encoder = small(family)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *encoder.preprocessing.size, 3), np.uint8)
    images = encoder.normalise(pixels)
    everything = encoder.activations(pixels).pools["mean"]
    for point, activation in zip(encoder.tower.points, everything, strict=True):
        assert activation.shape == (2, point.width)
        torch.testing.assert_close(encoder.exit_activation(images, point.number, "mean"), activation)


def test_stages_and_their_blocks_have_names(small):
    tower = small("efficientnet").tower
    names = [point.name for point in tower.points]
    assert names == [
        "1",
        "2.1",
        "2",
        "3.1",
        "3",
        "4.1",
        "4.2",
        "4",
        "5.1",
        "5.2",
        "5",
        "6.1",
        "6.2",
        "6.3",
        "6",
        "7",
    ]
    assert [point.number for point in tower.points] == list(range(1, 17))
    assert tower.point("5.3") is tower.point("5") is tower.at(11)
    assert tower.point("full").number == 17 and tower.point("full").pools == ("embedding",)
    assert [point.operations for point in tower.points] == sorted(
        {point.operations for point in tower.points}
    )
    assert tower.full.operations == tower.operations > tower.points[-1].operations
    assert tower.full.parameters == tower.parameters > tower.points[-1].parameters


def test_what_is_known_of_efficientnet_lite2():
    """Multiply-adds and parameters as its authors and others count them."""
    vision = open_clip.timm_model.TimmModel("tf_efficientnet_lite2", 256, 260, pool="avg", proj="linear")
    tower = read_tower(vision)
    backbone = tower.operations - 2 * 1280 * 256
    shares = [tower.at(block).operations / backbone for block in (8, 11, 15, 16, 18, 21)]
    assert len(tower.points) == 21 and tower.point("5").number == 15 and tower.point("6.1").number == 16
    assert 850e6 < backbone / 2 < 860e6
    np.testing.assert_allclose(shares, [0.31, 0.40, 0.64, 0.68, 0.79, 0.96], atol=0.006)
    parameters = [tower.at(block).parameters / 1e6 for block in (8, 11, 15, 16, 18, 21)]
    np.testing.assert_allclose(parameters, [0.15, 0.45, 1.16, 1.42, 2.53, 4.36], atol=0.006)


def test_a_point_that_is_not_there_is_answered_by_the_nearest_and_their_cost(small):
    with pytest.raises(
        EncoderError, match=r"5\.9: .* nearest: 5\.1 \(\d+% of the operations\), 5\.2 \(.*, 5 \("
    ):
        small("efficientnet").point("5.9")
    with pytest.raises(EncoderError, match="nearest: 1 "):
        small("efficientnet").point("conv")


def test_batch_norm_is_inside_its_convolution_and_the_library_keeps_its_own(small):
    module = small("efficientnet").tower.module.trunk.blocks[1]
    folded = fold(module)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules())
    state = torch.randn(2, 16, 32, 32)
    torch.testing.assert_close(folded(state), module(state), rtol=1e-4, atol=1e-4)


def test_operations_are_counted_from_shapes():
    convolution = torch.nn.Conv2d(8, 16, 3, padding=1, groups=4)
    assert count_operations(convolution, torch.empty(1, 8, 5, 7, device="meta"))[0] == 2 * 5 * 7 * 16 * 2 * 9
    attention = torch.nn.MultiheadAttention(12, 3, batch_first=True)

    class Itself(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    expected = 2 * 4 * 5 * 12 * 12 + 2 * 2 * 5 * 5 * 12
    assert count_operations(Itself(), torch.empty(1, 5, 12, device="meta"))[0] == expected


def test_the_points_of_an_encoder_are_listed(command):
    text = command("models", "MobileCLIP2-S0").stdout
    assert "MobileCLIP2-S0: FastVit (timm), pictures of 256x256" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines()[3:]}
    assert rows["2.1"][1:4] == ["3", "128", "1024"] and rows["full"][5] == "100%"
    points = json.loads(command("models", "RN50", "--json").stdout)["points"]
    assert [point["width"] for point in points][-2:] == [2048, 1024]
    failed = command("models", "RN51")
    assert failed.exit_code == 2 and "nearest: RN50" in failed.stderr
