"""A CLIP is loaded through open_clip's factory, or refused in plain words; its tower can be cut anywhere."""

import shutil
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file, save_file

from tgems_edge.errors import EncoderError
from tgems_edge.model_file.card import EncoderId
from tgems_edge.runtime.images import to_pixels
from tgems_export.encoders import encoder as encoder_module
from tgems_export.encoders.checkpoints.loading import DEMO_FOLDER, outlined_tower, random_preprocessing
from tgems_export.encoders.encoder import load_encoder
from tgems_export.pictures import SHAPES, draw

FAMILIES = ("ViT-B-16-SigLIP", "ViT-L-14-CLIPA", "PE-Core-T-16-384", "MobileCLIP2-B")
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A copy of the demo CLIP, to be spoiled."""
    return shutil.copytree(DEMO_FOLDER, tmp_path / "clip")


@pytest.fixture(scope="module")
def plain(tiny):
    return tiny("tiny-plain")


def test_demo_is_what_open_clips_factory_makes_of_its_folder(encoder):
    expected = open_clip.create_model(f"local-dir:{DEMO_FOLDER}").state_dict()
    weights = encoder.text.clip.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_demo_states_its_terms_and_its_shape(encoder):
    assert encoder.id.name == "vit-demo" and "CIFAR-10" in encoder.licence
    assert (encoder.blocks, encoder.tower.points[-1].width, encoder.embedding_width) == (12, 128, 128)
    assert encoder.preprocessing.size == (64, 64)


def test_a_copy_has_the_same_hash_under_another_name(encoder, folder):
    copy = load_encoder(f"local-dir:{folder}")
    assert copy.id.sha256 == encoder.id.sha256
    assert copy.id.name == f"local-dir:{folder}"


def test_hash_changes_with_a_single_weight(encoder, folder):
    weights = load_file(folder / WEIGHTS)
    weights["visual.proj"][0, 0] += 1e-3
    save_file(weights, folder / WEIGHTS)
    assert load_encoder(f"local-dir:{folder}").id.sha256 != encoder.id.sha256


def test_random_weights_come_from_the_seed(plain):
    one, same, other = (load_encoder(plain, "random", seed=seed).id for seed in (1, 1, 2))
    assert one == same and one.pretrained == "random"
    assert one.sha256 != other.sha256


def test_a_folder_can_have_random_weights_too(encoder):
    assert load_encoder("demo", "random").id.sha256 != encoder.id.sha256
    assert load_encoder("demo", "random").id.pretrained == "random"


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_local_checkpoint_is_loaded(encoder, plain, tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pt" else save_file)(encoder.text.clip.state_dict(), path)
    loaded = load_encoder(plain, str(path))
    assert loaded.id.sha256 == encoder.id.sha256
    assert loaded.id.pretrained == str(path)


def test_weights_that_were_trained_with_quick_gelu_run_with_it(encoder, tiny, tmp_path, monkeypatch):
    """Weights like OpenAI's, which open_clip loads into plain GELU with no more than a warning."""
    name, path = tiny("tiny-tagged"), str(tmp_path / "weights.pt")
    torch.save(encoder.text.clip.state_dict(), path)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"quick": {"url": "x", "quick_gelu": True}})
    for module in (open_clip, open_clip.factory):
        monkeypatch.setattr(module, "download_pretrained", lambda *_, **__: path)
    loaded = load_encoder(name, "quick")
    assert {type(block.mlp.gelu) for block in loaded.tower.module.transformer.resblocks} == {QuickGELU}


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-33", "openai", "nearest: ViT-B-32"),
        ("qqqq", "openai", "no such model"),
        ("ViT-B-32", "opnai", "--pretrained opnai: no such file or tag; one of .*openai, laion400m_e31"),
        ("ViT-B-32", None, "give --pretrained, .*openai"),
        ("local-dir:nowhere", None, "no such folder"),
        ("demo", "openai", "brings its own weights; leave --pretrained out"),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_way_out(name, pretrained, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(name, pretrained)


def test_a_name_unlike_any_other_is_not_answered_with_an_empty_list():
    with pytest.raises(EncoderError) as error:
        load_encoder("qqqq", "random")
    assert "nearest: ViT-B-32, ViT-L-14" in str(error.value)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:5000], "cut short or damaged"),
        (lambda whole: b"", "empty; download it again"),
        (lambda whole: b"no weights", "not a checkpoint of PyTorch"),
    ],
    ids=["cut short", "empty", "text"],
)
def test_a_damaged_checkpoint_is_refused(encoder, plain, tmp_path, suffix, damage, message):
    path = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pt" else save_file)(encoder.text.clip.state_dict(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(EncoderError, match=f"{path}: {message}"):
        load_encoder(plain, str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.zeros(2)}, "holds no CLIP: its 1 tensors are called weight"),
        ([1, 2], "holds no weights by name but list"),
    ],
    ids=["other names", "no names"],
)
def test_a_checkpoint_of_something_else_is_refused(plain, tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(EncoderError, match=f"weights.pt: {message}"):
        load_encoder(plain, str(tmp_path / "weights.pt"))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (
            CONFIG,
            lambda text: text.replace(b'"layers": 12', b'"layers": 13'),
            r"it lacks \S+resblocks.12.ln_1",
        ),
        (CONFIG, lambda text: text.replace(b'"layers": 12', b'"layers": 11'), "it also holds"),
        (
            CONFIG,
            lambda text: text.replace(b'"mlp_ratio": 4.0', b'"mlp_ratio": 2.0'),
            r"shape \(\S+ .* instead of \(",
        ),
        (CONFIG, lambda text: text[:-9], "cannot be loaded"),
        (CONFIG, lambda text: b"[1, 2]", "cannot be loaded"),
        (CONFIG, lambda text: b"{}", "its configuration cannot be used: it lacks 'embed_dim'"),
        (WEIGHTS, lambda whole: whole[:100_000], "cut short or damaged"),
    ],
    ids=[
        "more layers",
        "fewer",
        "other width",
        "half a configuration",
        "a list",
        "nothing",
        "half the weights",
    ],
)
def test_a_folder_that_does_not_fit_together_is_refused(folder, file, damage, message):
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    with pytest.raises(EncoderError, match=message):
        load_encoder(f"local-dir:{folder}")


@pytest.mark.parametrize(("file", "message"), [(CONFIG, f"no {CONFIG} in it"), (WEIGHTS, "no weights in it")])
def test_a_folder_that_lacks_a_file_is_refused(folder, file, message):
    (folder / file).unlink()
    with pytest.raises(EncoderError, match=message):
        load_encoder(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        (
            {"timm_model_name": "resnet18", "timm_pool": "avg", "timm_proj": "linear"},
            "a ResNet .*, which is not among those that can be cut; use one such as",
        ),
        ({"scaled_cosine_attn": True}, "has logit_scale, which the graph has not"),
    ],
    ids=["resnet", "cosine"],
)
def test_a_tower_that_cannot_be_cut_is_refused_with_the_reason(tiny, vision, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(tiny("tiny-uncuttable", vision), "random")


@pytest.mark.parametrize("layer", [0, -1, 13])
def test_a_layer_out_of_range_is_refused_with_the_range(encoder, layer):
    with pytest.raises(EncoderError, match=f"layer {layer}: vit-demo has the layers 1 to 12"):
        encoder.point(layer)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_what_training_reads_is_what_parity_compares_with(encoder, pool):
    pictures = [draw(seed, 50, 40) for seed in range(3)]
    pixels = np.stack([to_pixels(picture, encoder.preprocessing) for picture in pictures])
    all_layers = encoder.activations(pixels).pools[pool]
    images = torch.stack([encoder.reference_transform(picture) for picture in pictures])
    for layer in range(1, encoder.blocks + 1):
        cut = encoder.exit_activation(images, layer, pool)
        torch.testing.assert_close(all_layers[layer - 1], cut, rtol=1e-4, atol=1e-5)


def test_the_full_towers_answer_is_open_clips(encoder):
    pictures = [draw(seed, 50, 40) for seed in range(3)]
    ours = encoder.activations(np.stack([to_pixels(p, encoder.preprocessing) for p in pictures])).embedding
    images = torch.stack([encoder.reference_transform(picture) for picture in pictures])
    with torch.no_grad():
        torch.testing.assert_close(ours, encoder.text.clip.encode_image(images, normalize=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_our_preprocessing_is_open_clips(encoder, shape):
    picture = draw(1, *shape)
    ours = encoder.normalise(to_pixels(picture, encoder.preprocessing)[None])[0]
    torch.testing.assert_close(ours, encoder.reference_transform(picture), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def preprocessings():
    """Architectures whose pictures are squashed, resampled or normalised in different ways."""
    return {name: random_preprocessing(name, outlined_tower(name)) for name in FAMILIES}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_our_preprocessing_is_that_of_every_family(encoder, preprocessings, name, shape):
    other, picture = replace(encoder, transform=preprocessings[name]), draw(1, *shape)
    ours = other.normalise(to_pixels(picture, other.preprocessing)[None])[0]
    torch.testing.assert_close(ours, other.reference_transform(picture), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "pretrained", "terms"),
    [
        ("MobileCLIP2-S0", "dfndr2b", "research only, derivatives included"),
        ("MobileCLIP2-S0", "random", "those of MobileCLIP2-S0 (random)"),
        ("ViT-B-32", "openai", "those of ViT-B-32 (openai)"),
    ],
)
def test_the_terms_of_the_weights_are_known(name, pretrained, terms):
    assert terms in encoder_module._licence(EncoderId(name, pretrained, "0" * 64))
