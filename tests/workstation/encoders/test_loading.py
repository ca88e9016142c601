"""Weights run with the activation and the preprocessing they were trained with, or the command stops."""

import json
import shutil
import sys

import huggingface_hub.constants
import open_clip
import pytest
import tokenizers
import torch
from open_clip.transform import PreprocessCfg
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from tgems_edge.errors import EncoderError, MissingDependency
from tgems_export.encoders.checkpoints.loading import DEMO_FOLDER, outlined_tower, random_preprocessing
from tgems_export.encoders.checkpoints.recipes import CONFIG_FILE, agreed_recipe
from tgems_export.encoders.encoder import load_encoder

WEIGHTS = "open_clip_model.safetensors"
QUICK = {"quick_gelu": True, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize_mode": "squash"}
PLAIN = {"mean": (0.4, 0.4, 0.4), "std": (0.2, 0.2, 0.2), "interpolation": "bilinear"}


@pytest.fixture
def weights(tmp_path):
    """The demo's weights as a checkpoint file of its own."""
    return shutil.copy(DEMO_FOLDER / WEIGHTS, tmp_path / "weights.safetensors")


@pytest.fixture
def tagged(tiny, monkeypatch, request):
    """tagged(quick=..., plain=...): an architecture with these tags."""

    def tagged(**tags):
        name = tiny(f"tagged-{request.node.name.replace('[', '-').replace(']', '')}")
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
        return name

    return tagged


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """hub("org/name"): a folder of the hub's cache to put files into; nothing is fetched."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def hub(repository):
        folder = cache / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
        return folder / "snapshots" / ("0" * 40)

    return hub


def runs_with_quick_gelu(encoder):
    kinds = {type(block.mlp.gelu) for block in encoder.tower.module.transformer.resblocks}
    assert len(kinds) == 1
    return kinds == {QuickGELU}


def pictures(encoder):
    made = encoder.preprocessing
    return made.mean, made.std, made.interpolation, made.resize_mode


def test_a_file_that_was_trained_like_a_tag_runs_like_it(tagged, weights):
    name = tagged(quick=QUICK, plain=PLAIN)
    quick, plain = (load_encoder(name, f"{tag}:{weights}") for tag in ("quick", "plain"))
    assert runs_with_quick_gelu(quick) and not runs_with_quick_gelu(plain)
    assert pictures(quick) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "squash")
    assert pictures(plain) == ((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), "bilinear", "shortest")
    assert quick.id.pretrained == f"quick:{weights}"
    assert quick.preprocessing.size == (64, 64)


def test_equal_weights_with_another_activation_are_another_encoder(tagged, weights, encoder):
    name = tagged(quick=QUICK, plain=PLAIN)
    assert load_encoder(name, f"quick:{weights}").id.sha256 != encoder.id.sha256
    assert load_encoder(name, f"plain:{weights}").id.sha256 == encoder.id.sha256


def test_a_file_that_could_have_been_trained_either_way_is_refused_with_the_ways(tagged, weights):
    with pytest.raises(EncoderError) as error:
        load_encoder(tagged(quick=QUICK, plain=PLAIN, also=QUICK), str(weights))
    assert str(error.value).endswith(
        f"give --pretrained TAG:{weights} with a tag that was trained alike: "
        "quick (QuickGELU, mean 0.50, bicubic squash); plain (GELU, mean 0.40, bilinear shortest)"
    )


def test_an_architecture_and_tags_that_agree_speak_for_a_file(tagged, weights):
    loaded = load_encoder(tagged(one=PLAIN, other=PLAIN), str(weights))
    assert not runs_with_quick_gelu(loaded)
    assert pictures(loaded)[2] == "bilinear"


def test_tags_that_agree_against_their_architecture_do_not_speak_for_a_file(tagged, weights):
    with pytest.raises(EncoderError, match="does not say how it was trained"):
        load_encoder(tagged(one=QUICK, other=QUICK), str(weights))


def test_without_tags_the_architecture_speaks_for_a_file(tagged, weights):
    assert pictures(load_encoder(tagged(), str(weights)))[3] == "shortest"


def test_a_configuration_of_another_architecture_is_refused(tagged, weights):
    config = {"model_cfg": {"vision_cfg": {"layers": 5}}}
    (weights.parent / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(
        EncoderError, match=f"of another architecture; give --encoder local-dir:{weights.parent}"
    ):
        load_encoder(tagged(), str(weights))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_for_larger_pictures_are_not_stretched(tagged, weights, suffix):
    """Load as open_clip does, with no more than a line in its log."""
    state = load_file(weights)
    state["visual.positional_embedding"] = torch.zeros(10 * 10 + 1, 128)
    path = weights.with_suffix(f".{suffix}")
    (torch.save if suffix == "pt" else save_file)(state, path)
    with pytest.raises(EncoderError, match="another architecture: 100 patches a picture instead of 64"):
        load_encoder(tagged(), str(path))


def test_one_number_stands_for_all_colours(weights, tagged):
    config = {"preprocess_cfg": {"mean": 0.5, "std": 0.25}}
    (weights.parent / CONFIG_FILE).write_text(json.dumps(config))
    assert pictures(load_encoder(tagged(), str(weights)))[:2] == ((0.5,) * 3, (0.25,) * 3)


def test_the_configuration_beside_a_file_speaks_for_it(tagged, weights):
    config = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (weights.parent / CONFIG_FILE).write_text(json.dumps(config))
    loaded = load_encoder(tagged(quick=QUICK, plain=PLAIN), str(weights))
    assert runs_with_quick_gelu(loaded)
    assert loaded.preprocessing.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"model_cfg": null}', '{"preprocess_cfg": [1]}'])
def test_a_broken_configuration_beside_a_file_is_named(tagged, weights, content):
    (weights.parent / CONFIG_FILE).write_text(content)
    with pytest.raises(EncoderError, match=f"{CONFIG_FILE}: not a configuration"):
        load_encoder(tagged(quick=QUICK, plain=PLAIN), str(weights))


def test_weights_of_gelu_do_not_run_in_an_architecture_of_quick_gelu(tiny, weights):
    (weights.parent / CONFIG_FILE).write_text('{"model_cfg": {"quick_gelu": false}}')
    with pytest.raises(EncoderError, match=r"was trained with GELU; give the --encoder without -quickgelu"):
        load_encoder(tiny("tiny-quickgelu", quick_gelu=True), str(weights))


def test_real_architectures_whose_weights_differ_ask_for_the_tag(weights):
    with pytest.raises(EncoderError, match=r"alike: openai \(QuickGELU, .*; \S+ \(GELU"):
        load_encoder("ViT-B-32", str(weights))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B-16-SigLIP", ("squash", "bicubic", 0.5)),
        ("ViT-L-14-CLIPA", ("squash", "bilinear", 0.485)),
        ("PE-Core-T-16-384", ("squash", "bilinear", 0.5)),
        ("ViT-B-32-quickgelu", ("shortest", "bicubic", 0.48145466)),
    ],
)
def test_untrained_weights_take_the_preprocessing_of_the_trained_ones(name, expected):
    made = random_preprocessing(name, outlined_tower(name))
    assert (made.resize_mode, made.interpolation, made.mean[0]) == expected


def test_an_architecture_without_an_agreed_recipe_has_none():
    assert agreed_recipe("ViT-L-14") is None
    assert random_preprocessing("ViT-L-14", outlined_tower("ViT-L-14")) == PreprocessCfg(size=(224, 224))


def test_random_weights_leave_nothing_at_a_constant():
    tower = load_encoder("ViT-S-32-alt", "random").tower.module
    assert all(parameter.std(correction=0) > 1e-3 for parameter in tower.parameters())


def test_random_weights_need_no_text_tower():
    encoder = load_encoder("ViT-B-32-SigLIP2-256", "random")  # its tokenizer's files are on the hub
    embeddings = encoder.text.encode(["a cat", "a dog", "a cat"])
    assert embeddings.shape == (3, encoder.embedding_width)
    assert torch.equal(embeddings[0], embeddings[2]) and not torch.equal(embeddings[0], embeddings[1])
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


def test_a_tags_weights_come_from_the_cache_without_network(tagged, hub, encoder):
    shutil.copy(DEMO_FOLDER / WEIGHTS, hub("somebody/clip") / WEIGHTS)
    loaded = load_encoder(tagged(kept={"hf_hub": "somebody/clip/"}), "kept")
    assert loaded.id.sha256 == encoder.id.sha256


def test_a_whole_clip_comes_from_the_cache_without_network(hub, encoder):
    shutil.copytree(DEMO_FOLDER, hub("somebody/clip"), dirs_exist_ok=True)
    loaded = load_encoder("hf-hub:somebody/clip")
    assert loaded.id.sha256 == encoder.id.sha256
    assert loaded.preprocessing == encoder.preprocessing


@pytest.mark.parametrize("name", ["hf-hub:somebody/clip", "tag"])
def test_what_is_not_in_the_cache_is_missed_with_its_path(tagged, hub, tmp_path, name):
    arguments = (tagged(gone={"hf_hub": "some/where/"}), "gone") if name == "tag" else (name,)
    with pytest.raises(
        EncoderError, match=f"not in the cache {tmp_path / 'hub'}; connect to the network once"
    ):
        load_encoder(*arguments)


def test_a_clip_of_the_hub_without_its_weights_is_missed_as_well(hub, tmp_path):
    shutil.copy(DEMO_FOLDER / CONFIG_FILE, hub("somebody/clip") / CONFIG_FILE)
    with pytest.raises(EncoderError, match=f"its weights .* not in the cache {tmp_path / 'hub'}"):
        load_encoder("hf-hub:somebody/clip")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_torchscript_archive_is_not_run(tagged, tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "clip.pt"))
    with pytest.raises(EncoderError, match=r"not weights alone but a program.* save its state_dict\(\)"):
        load_encoder(tagged(), str(tmp_path / "clip.pt"))


@pytest.fixture
def with_huggingface_tokenizer(tmp_path):
    """The demo CLIP as a folder whose tokenizer is one of transformers', as SigLIP's is."""
    folder = shutil.copytree(DEMO_FOLDER, tmp_path / "clip")
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "somebody/tokenizer"
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    words = ["<pad>", "<unk>", "a", "cat", "dog", "truck"]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(
        folder
    )
    return folder


def test_a_tokenizer_of_transformers_is_used(with_huggingface_tokenizer):
    encoder = load_encoder(f"local-dir:{with_huggingface_tokenizer}")
    tokens = encoder.text.tokenize(["a cat", "a truck"])
    assert tokens.tolist() == [[2, 3] + [0] * 14, [2, 5] + [0] * 14]
    assert encoder.text.encode(["a cat"]).shape == (1, 128)
    assert encoder.text.too_long(["a cat", "a " * 17]) == [1]


def test_without_transformers_its_tokenizers_name_the_extra(with_huggingface_tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match=r"its tokenizer needs .*pip install 'tgems-edge\[siglip\]'"):
        load_encoder(f"local-dir:{with_huggingface_tokenizer}")
