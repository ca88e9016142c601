"""Whatever a training loop wraps around the weights of a CLIP, they are the same weights."""

import argparse
import json
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from tgems_edge.errors import EncoderError
from tgems_export.encoders.checkpoints import hub
from tgems_export.encoders.checkpoints.loading import DEMO_FOLDER
from tgems_export.encoders.checkpoints.reading import read_checkpoint
from tgems_export.encoders.encoder import load_encoder


class EasyDict(dict):
    """Settings of training code, from a package that is not installed here."""


EasyDict.__module__ = "easydict"


@pytest.fixture(autouse=True)
def pickled_as_easydict(monkeypatch):
    """Return what pickle asks for when it saves the object."""
    module = types.ModuleType("easydict")
    module.EasyDict = EasyDict
    monkeypatch.setitem(sys.modules, "easydict", module)


@pytest.fixture(scope="module")
def weights():
    return load_file(DEMO_FOLDER / "open_clip_model.safetensors")


@pytest.fixture
def name(tiny):
    """The demo's architecture, without tags."""
    return tiny("tiny-wrapped")


def prefixed(prefix):
    return lambda weights: {f"{prefix}{key}": value for key, value in weights.items()}


def inside(key, inner="", **beside):
    return lambda weights: {key: prefixed(inner)(weights), **beside}


def compiled_parts(weights):
    return {
        key.replace("visual.", "visual._orig_mod.").replace("resblocks.3.", "resblocks.3._orig_mod."): value
        for key, value in weights.items()
    }


def with_text_apart(weights):
    return {k if k.startswith(("visual.", "logit")) else f"text.{k}": v for k, v in weights.items()}


BESIDE = {
    "epoch": 3,
    "best": np.float64(0.5),
    "args": argparse.Namespace(lr=0.1, out=Path("runs")),
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
}
TRAINED = {"hyper_parameters": EasyDict(lr=0.1), "pytorch-lightning_version": "2.5.0", "callbacks": {}}
DROPPED = {
    "input_resolution": torch.tensor(64),
    "context_length": torch.tensor(16),
    "vocab_size": torch.tensor(49408),
    "attn_mask": torch.zeros(16, 16),
    "text.transformer.embeddings.position_ids": torch.arange(16)[None],
}


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        OrderedDict,
        prefixed("module."),
        prefixed("model."),
        prefixed("_orig_mod."),
        prefixed("module.model._orig_mod.clip."),
        compiled_parts,
        inside("model"),
        inside("state_dict", "module.", **BESIDE),
        inside("model_state_dict", **BESIDE),
        inside("module", module_names=[], global_steps=1),
        inside("state_dict", "model.", **TRAINED),
        lambda weights: {"model": {"state_dict": weights}, "epoch": 1},
        lambda weights: weights | DROPPED,
        lambda weights: prefixed("clip.")(weights) | {"loss.weight": torch.zeros(3)},
        with_text_apart,
        lambda weights: weights | {"logit_scale": weights["logit_scale"].reshape(1)},
        lambda weights: {key: value.double() for key, value in weights.items()},
        lambda weights: {key: torch.nn.Parameter(value) for key, value in weights.items()},
    ],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_is_around_weights_comes_off(name, encoder, weights, tmp_path, wrap, legacy):
    torch.save(wrap(weights), tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    assert load_encoder(name, str(tmp_path / "w.pt")).id.sha256 == encoder.id.sha256


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_half_precision_is_taken_as_it_is(name, weights, tmp_path, dtype, suffix):
    half = {key: value.to(dtype) for key, value in weights.items()}
    path = tmp_path / f"w.{suffix}"
    (torch.save if suffix == "pt" else save_file)(half, path)
    loaded = load_encoder(name, str(path)).text.clip.state_dict()
    assert all(torch.equal(loaded[key], half[key].float()) for key in half)


def test_the_suffix_is_not_asked(name, encoder, weights, tmp_path):
    save_file(weights, tmp_path / "w.pt")
    torch.save(weights, tmp_path / "w.safetensors")
    for path in tmp_path.iterdir():
        assert load_encoder(name, str(path)).id.sha256 == encoder.id.sha256


@pytest.fixture
def of_transformers(tmp_path):
    """A CLIPModel of the demo's size, with random weights, as transformers saves it."""
    part = {"intermediate_size": 512, "num_attention_heads": 4, "hidden_act": "gelu"}
    text = part | {"hidden_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 16}
    text |= {"vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406}
    vision = part | {"hidden_size": 128, "num_hidden_layers": 12, "image_size": 64, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    return model, tmp_path / "w.safetensors"


def test_a_clip_of_transformers_gives_the_same_embeddings(name, of_transformers):
    model, path = of_transformers
    encoder = load_encoder(name, str(path))
    images = torch.randn(2, 3, 64, 64)
    tokens = encoder.text.tokenize(["a cat", "two dogs in the snow"])
    with torch.no_grad():
        theirs = model(input_ids=tokens, pixel_values=images)
        ours = encoder.text.clip
        torch.testing.assert_close(
            ours.encode_image(images, normalize=True), theirs.image_embeds, atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            ours.encode_text(tokens, normalize=True), theirs.text_embeds, atol=1e-5, rtol=1e-4
        )


def test_half_a_clip_of_transformers_is_named(name, of_transformers, tmp_path):
    weights = load_file(of_transformers[1])
    del weights["text_projection.weight"]
    save_file(weights, tmp_path / "half.safetensors")
    with pytest.raises(EncoderError, match=r"no CLIPModel: it lacks text_projection.weight"):
        load_encoder(name, str(tmp_path / "half.safetensors"))


def test_another_architecture_is_told_by_its_size(name, tiny, encoder, weights, tmp_path):
    other = tiny("tiny-shallow", {"layers": 7})
    torch.save({k: v for k, v in weights.items() if ".resblocks.1" not in k}, tmp_path / "w.pt")
    with pytest.raises(EncoderError, match=r"it lacks \S+ and \d+ more; it looks .*width 128, 9 blocks"):
        load_encoder(name, str(tmp_path / "w.pt"))
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(EncoderError, match=r"also holds .* more; it looks like .*\(width 128, 12 bl"):
        load_encoder(other, str(tmp_path / "w.pt"))


def test_objects_beside_the_weights_are_not_made(weights, tmp_path):
    torch.save({"state_dict": weights, **BESIDE}, tmp_path / "w.pt")
    assert set(read_checkpoint(tmp_path / "w.pt")) == set(weights)


def test_nothing_is_logged_of_random_weights(name, weights, tmp_path, caplog):
    """Make a CLIP as open_clip does before weights are put into it."""
    torch.save(weights, tmp_path / "w.pt")
    load_encoder(name, str(tmp_path / "w.pt"))
    assert not caplog.records


def test_a_folder_with_wrapped_weights_is_read_like_a_file(encoder, weights, tmp_path):
    config = json.loads((DEMO_FOLDER / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    torch.save({"state_dict": prefixed("module.")(weights), **BESIDE}, tmp_path / "epoch_3.pt")
    assert load_encoder(f"local-dir:{tmp_path}").id.sha256 == encoder.id.sha256


@pytest.mark.parametrize("offline", [True, False])
def test_without_network_the_cache_alone_is_asked(monkeypatch, offline):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9" if offline else "data:,")
    with hub.without_retries():
        assert offline == hub.constants.HF_HUB_OFFLINE
    assert not hub.constants.HF_HUB_OFFLINE


def test_what_is_missing_of_the_hub_is_named_with_its_place(monkeypatch, tmp_path):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match=rf"timm/ViT-B-16-SigLIP.*not in the cache {tmp_path}") as weights:
        load_encoder("ViT-B-16-SigLIP", "webli")
    assert "\n" not in str(weights.value)
