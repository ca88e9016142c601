"""Every kind of image tower, cut at its blocks, says what its own library says."""

import inspect

import pytest
import timm
import torch
from timm.models import eva, register_model
from timm.models import vision_transformer as vit

from tgems_edge.errors import EncoderError
from tgems_export.encoders.encoder import load_encoder
from tgems_export.encoders.towers.families import read_tower


def exits(encoder):
    """First, middle and last block with every pool."""
    return [
        (layer, pool) for layer in (1, encoder.blocks // 2, encoder.blocks) for pool in encoder.tower.pools
    ]


@pytest.fixture(scope="module")
def tiny_timm(tiny):
    """tiny_timm(name, kind, **options): a small encoder around a timm model of our own making."""

    def tiny_timm(name, kind, pool="token", **options):
        small = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3} | options

        def create(pretrained=False, **others):
            return kind(**small, num_classes=others["num_classes"], global_pool=others["global_pool"])

        create.__name__ = create.__qualname__ = f"{name}_trunk"
        create.__module__ = kind.__module__
        if not timm.is_model(create.__name__):
            register_model(create)
        vision = {"timm_model_name": create.__name__, "timm_pool": pool, "timm_proj": None, "image_size": 32}
        return tiny(name, vision, embed_dim=48)

    return tiny_timm


ROPE = {
    "use_rot_pos_emb": True,
    "rope_grid_offset": 1.0,
    "rope_grid_indexing": "xy",
    "ref_feat_shape": (4, 4),
}
OURS = {
    "eva01": (eva.Eva, {"init_values": 0.1}),
    "eva02": (eva.Eva, ROPE | {"swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True}),
    "eva02-split": (eva.Eva, ROPE | {"qkv_fused": False, "qkv_bias": False}),
    "eva-post": (eva.Eva, {"use_post_norm": True, "use_rot_pos_emb": False}),
    "eva-half": (eva.Eva, ROPE | {"rope_rotate_half": True, "qk_norm": True}),
    "pe": (eva.Eva, ROPE | {"attn_type": "rope", "use_pre_transformer_norm": True, "init_values": 0.1}),
    "pe-registers": (eva.Eva, ROPE | {"attn_type": "rope", "num_reg_tokens": 2, "no_embed_class": True}),
    "pe-only-registers": (eva.Eva, ROPE | {"class_token": False, "num_reg_tokens": 2, "pool": "map"}),
    "pe-no-class": (eva.Eva, ROPE | {"attn_type": "rope", "class_token": False, "pool": "map"}),
    "siglip": (vit.VisionTransformer, {"class_token": False, "pool": "map", "act_layer": "gelu_tanh"}),
    "vit-registers": (vit.VisionTransformer, {"reg_tokens": 2, "init_values": 0.3, "qk_norm": True}),
    "vit-scaled": (
        vit.VisionTransformer,
        {"scale_attn_norm": True, "scale_mlp_norm": True, "pre_norm": True},
    ),
    "vit-no-bias": (vit.VisionTransformer, {"qkv_bias": False, "proj_bias": False, "no_embed_class": True}),
}


@pytest.mark.parametrize("name", OURS)
def test_every_option_of_timms_towers_is_in_the_graph(tiny_timm, make_exit, name):
    kind, options = OURS[name]
    encoder = load_encoder(tiny_timm(f"tiny-{name}", kind, **options), "random")
    for layer, pool in exits(encoder):
        make_exit(encoder, layer, pool).check_in_torch()


@pytest.mark.parametrize("name", ["eva02", "eva-half", "siglip"])
def test_onnx_says_the_same_of_rotary_positions_and_attention_without_class_token(tiny_timm, make_exit, name):
    kind, options = OURS[name]
    encoder = load_encoder(tiny_timm(f"tiny-{name}", kind, **options), "random")
    make_exit(encoder, 2, encoder.tower.pools[0]).check_in_onnx()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (eva.Eva, ROPE | {"rope_type": "mixed"}, "its positions are a RotaryEmbeddingMixed"),
        (eva.Eva, {"swiglu_mlp": True}, "it has a GluMlp"),
        (eva.Eva, ROPE | {"qk_norm": True}, "neighbouring entries of normalised queries"),
        (eva.Eva, {"attn_type": "rope", "qkv_fused": False, "num_kv_heads": 1}, "share keys and values"),
        (vit.VisionTransformer, {"block_fn": vit.ResPostBlock}, "it has a ResPostBlock"),
        (vit.VisionTransformer, {"norm_layer": "rmsnorm"}, "it normalises with a RmsNorm"),
        (vit.VisionTransformer, {"attn_layer": "diff"}, "it has a DiffAttention"),
    ],
    ids=["mixed rope", "packed glu", "interleaved norm", "grouped", "post norm", "rms", "other"],
)
def test_what_the_graph_cannot_say_is_refused_with_the_reason(tiny_timm, kind, options, message, request):
    if unknown := options.keys() - inspect.signature(kind.__init__).parameters.keys():
        pytest.skip(f"this timm has no {', '.join(sorted(unknown))}")
    name = tiny_timm(f"refused-{request.node.callspec.id.replace(' ', '-')}", kind, **options)
    with pytest.raises(EncoderError, match=message):
        load_encoder(name, "random")


@pytest.mark.parametrize("part", ["blocks.1", "blocks.2.attn", "blocks.0.mlp", ""])
def test_what_a_later_version_adds_is_not_forgotten_in_silence(tiny_timm, part):
    kind, options = OURS["pe"]
    tower = load_encoder(tiny_timm("tiny-later", kind, **options), "random").tower.module
    read_tower(tower)
    tower.trunk.get_submodule(part).register_parameter("novelty", torch.nn.Parameter(torch.ones(1)))
    with pytest.raises(EncoderError, match="has novelty, which the graph has not"):
        read_tower(tower)


@pytest.mark.parametrize(
    "name", ["ViT-B-32-SigLIP2-256", "PE-Core-T-16-384", "MobileCLIP2-B", "EVA02-B-16", "coca_ViT-B-32"]
)
def test_towers_of_every_family_say_what_their_library_says(make_exit, name):
    encoder = load_encoder(name, "random")
    for layer, pool in exits(encoder):
        make_exit(encoder, layer, pool, pictures=2).check_in_torch()
    make_exit(encoder, 2, encoder.tower.pools[0]).check_in_onnx()


@pytest.mark.large
@pytest.mark.parametrize("layer", range(1, 13))
def test_onnx_of_every_layer_of_vit_b_32(make_exit, layer):
    encoder = load_encoder("ViT-B-32", "random")
    for pool in encoder.tower.pools:
        make_exit(encoder, layer, pool).check_in_onnx()


@pytest.mark.large
@pytest.mark.parametrize(
    "name",
    [
        "ViT-L-14",
        "ViT-L-14-CLIPA",
        "ViT-L-16-SigLIP2-256",
        "EVA02-L-14",
        "PE-Core-L-14-336",
        "ViT-SO400M-14-SigLIP",
        "ViT-H-14-quickgelu",
        "EVA01-g-14",
    ],
)
def test_onnx_of_large_towers_at_first_middle_and_last_block(make_exit, name):
    encoder = load_encoder(name, "random")
    for layer in (1, encoder.blocks // 2, encoder.blocks):
        exit_ = make_exit(encoder, layer, encoder.tower.pools[0], pictures=2)
        if sum(p.numel() for p in exit_.graph.parameters()) < 2**31 / 4:
            exit_.check_in_onnx()
        else:
            exit_.check_in_torch()
