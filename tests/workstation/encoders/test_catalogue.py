"""Architectures and their exit points are read from configurations, quickly and without memory."""

import json

import open_clip
import pytest

from tgems_export.encoders.catalogue import list_architectures, read_architecture


@pytest.mark.parametrize(
    ("name", "blocks", "width", "size", "pools"),
    [
        ("ViT-B-32", 12, 768, (224, 224), ("cls", "mean")),
        ("ViT-bigG-14-CLIPA-336", 48, 1664, (336, 336), ("cls", "mean")),
        ("coca_ViT-L-14", 24, 1024, (224, 224), ("cls", "mean")),
        ("ViT-SO400M-16-SigLIP2-512", 27, 1152, (512, 512), ("mean",)),
        ("EVA02-E-14-plus", 64, 1792, (224, 224), ("cls", "mean")),
        ("EVA01-g-14", 40, 1408, (224, 224), ("cls", "mean")),
        ("PE-Core-bigG-14-448", 50, 1536, (448, 448), ("mean",)),
        ("PE-Core-T-16-384", 12, 192, (384, 384), ("cls", "mean")),
        ("MobileCLIP2-B", 12, 768, (224, 224), ("cls", "mean")),
        ("ViT-M-16-alt", 12, 512, (224, 224), ("cls", "mean")),
    ],
)
def test_chains_of_blocks_can_be_cut(name, blocks, width, size, pools):
    found = read_architecture(name)
    assert found.reason is None
    assert (found.blocks, found.width, found.image_size, found.pools) == (blocks, width, size, pools)
    assert found.tags == tuple(open_clip.list_pretrained_tags_by_model(name))


@pytest.mark.parametrize(
    ("name", "blocks", "width"),
    [
        ("RN50", 16, 2048),
        ("convnext_base", 36, 1024),
        ("MobileCLIP2-S0", 20, 512),
        ("swin_base_patch4_window7_224", 24, 1024),
        ("ViTamin-S", 20, 384),
    ],
)
def test_towers_of_stages_can_be_cut(name, blocks, width):
    found = read_architecture(name)
    assert (found.reason, found.blocks, found.width, found.pools) == (None, blocks, width, ("mean",))


def test_others_say_why_not(tiny):
    vision = {"timm_model_name": "resnet18", "timm_pool": "avg", "timm_proj": "linear"}
    found = read_architecture(tiny("other", vision))
    assert "ResNet (timm)" in found.reason
    assert (found.blocks, found.width, found.pools, found.points) == (None, None, (), ())


def test_the_largest_tower_is_read_without_its_weights():
    assert read_architecture("EVA02-E-14").parameters > 4e9


@pytest.mark.slow
def test_every_architecture_of_open_clip_is_listed(reporter):
    listed = list_architectures(reporter)
    assert [architecture.name for architecture in listed] == open_clip.list_models()
    assert sum(architecture.reason is None for architecture in listed) >= 140


def test_the_list_is_for_people_or_for_programs(command, monkeypatch, tiny):
    vision = {"timm_model_name": "resnet18", "timm_pool": "avg", "timm_proj": "linear"}
    names = ["ViT-B-32", tiny("refused", vision), "ViT-B-16-SigLIP"]
    monkeypatch.setattr(open_clip, "list_models", lambda: names)
    text = command("models").stdout.splitlines()
    assert [line.split()[:2] for line in text] == [["✅", names[0]], ["❌", names[1]], ["✅", names[2]]]
    assert "12 exit points, 224x224" in text[0] and text[0].endswith("87.8 M parameters")
    assert "ResNet (timm)" in text[1]
    lines = [json.loads(line) for line in command("models", "--json").stdout.splitlines()]
    assert [(line["name"], line["blocks"]) for line in lines] == list(zip(names, [12, None, 12], strict=True))
