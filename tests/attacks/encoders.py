"""Checkpoints, folders and cards that are not the CLIP they are given as, and what has to be said of each.

Each attack makes its files and returns the options of `tgems-edge export` that lead to them.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from tgems_edge.model_file.card import EncoderId
from tgems_export.encoders.checkpoints.loading import DEMO_FOLDER
from tgems_export.exporting.exits import DEMO_HEADS
from tgems_export.heads.file import METADATA_KEY, head_file

ARCHITECTURE = "attacked"  # the demo's, registered with open_clip by the test
MARKER = "code-was-run"  # a file in the working directory, which code in an attack would write
CONFIG = "open_clip_config.json"
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Attack:
    """A wrong encoder, and how the command has to end."""

    name: str
    make: Callable[[Path, Weights], list[str]]
    words: str  # of its one line
    code: int = 2


def file_attack(name, content, words, suffix=".pt"):
    """A file with these bytes as the checkpoint."""

    def make(folder, weights):
        path = folder / f"weights{suffix}"
        path.write_bytes(content(weights) if callable(content) else content)
        return ["--encoder", ARCHITECTURE, "--pretrained", str(path)]

    return Attack(name, make, words)


def weights_attack(name, change, words):
    """The demo's weights after a change, as safetensors."""
    return file_attack(name, lambda weights: save(change(dict(weights))), words, ".safetensors")


def pickle_attack(name, change, words):
    """Anything that torch.save writes."""

    def content(weights):
        buffer = io.BytesIO()
        torch.save(change(dict(weights)), buffer)
        return buffer.getvalue()

    return file_attack(name, content, words)


def pieces_attack(name, files, words):
    """A folder with these files as the checkpoint."""

    def make(folder, weights):
        root = folder / "pieces"
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(b"{}")
        return ["--encoder", ARCHITECTURE, "--pretrained", str(root)]

    return Attack(name, make, words)


def folder_attack(name, change, words):
    """The demo CLIP as a folder, after a change of its configuration or its files."""

    def make(folder, weights):
        clip = shutil.copytree(DEMO_FOLDER, folder / "clip")
        config = json.loads((clip / CONFIG).read_text())
        change(clip, config["model_cfg"])
        (clip / CONFIG).write_text(json.dumps(config))
        return ["--encoder", f"local-dir:{clip}"]

    return Attack(name, make, words)


def card_attack(name, encoder, words):
    """A head whose card names another encoder, and no --encoder."""

    def make(folder, weights):
        clip = shutil.copytree(DEMO_FOLDER, folder / "clip")
        with safe_open(head_file(DEMO_HEADS, 5), "pt") as file:
            card = json.loads(file.metadata()[METADATA_KEY])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        named = encoder(clip)
        card["encoder"] |= {"name": named.name, "pretrained": named.pretrained}
        save_file(tensors, folder / "head.safetensors", {METADATA_KEY: json.dumps(card)})
        return ["--head", str(folder / "head.safetensors")]

    return Attack(name, make, words)


class RunsACommand:
    """A pickle that runs code unless it is read as weights alone."""

    def __reduce__(self):
        return os.system, (f"touch {MARKER}",)


class OfSomebodysOwn:
    """An object that only the training code knows."""


def changed(name, value):
    return lambda weights: weights | {name: value(weights[name])}


def with_nan(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[7] = float("nan")
    return tensor


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def arrays(write, *given, **named):
    buffer = io.BytesIO()
    write(buffer, *given, **named)
    return buffer.getvalue()


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.bin"))
    return buffer.getvalue()


def set_text(**keys):
    return lambda clip, config: config["text_cfg"].update(keys)


def set_vision(**keys):
    return lambda clip, config: config["vision_cfg"].update(keys)


def preprocessing_attack(name, changed, words):
    """The demo CLIP as a folder, with other words about pictures."""

    def make(folder, weights):
        clip = shutil.copytree(DEMO_FOLDER, folder / "clip")
        config = json.loads((clip / CONFIG).read_text())
        config["preprocess_cfg"] |= changed
        (clip / CONFIG).write_text(json.dumps(config))
        return ["--encoder", f"local-dir:{clip}"]

    return Attack(name, make, words)


def bring_tokenizer_code(key):
    """A folder whose tokenizer is Python: both ways in which transformers is told to run it."""

    def change(clip, config):
        config["text_cfg"]["hf_tokenizer_name"] = "somebody/tokenizer"
        if key == "tokenizer_kwargs":
            config["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
        code = f"open({MARKER!r}, 'w').close()\nfrom transformers import PreTrainedTokenizer as Mine\n"
        (clip / "mine.py").write_text(code)
        content = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
        name = "config.json" if key == "config" else "tokenizer_config.json"
        (clip / name).write_text(json.dumps(content))

    return change


def point_outside(clip, config):
    config["text_cfg"]["hf_tokenizer_name"] = "somebody/tokenizer"
    (clip.parent / "secret.txt").write_text("secret")
    (clip / "tokenizer_config.json").write_text(json.dumps({"vocab_file": "../secret.txt"}))


def fill_weights(content):
    return lambda clip, config: (clip / "open_clip_model.safetensors").write_bytes(content)


HTML = b"<!DOCTYPE html><html><body>Sign in</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 605143316\n"
SIGLIP = {"vision_model.head.probe": torch.zeros(1), "text_model.head.bias": torch.zeros(1)}
MOBILECLIP = {"image_encoder.model.x": torch.zeros(1), "text_encoder.x": torch.zeros(1)}
INDEX = json.dumps({"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode()

ATTACKS = (
    file_attack("empty", b"", "empty"),
    file_attack("zeros", bytes(5000), "full of zeros"),
    file_attack("noise", np.random.RandomState(0).bytes(5000), "not a checkpoint"),
    file_attack("web page", HTML, "web page"),
    file_attack("LFS pointer", LFS, "Git LFS pointer"),
    file_attack("JSON", b'{"a": 1}', "JSON, not weights"),
    file_attack("shard index", INDEX, "list of shards", ".safetensors.index.json"),
    file_attack("adapter settings", b'{"peft_type": "LORA"}', "adapter", ".json"),
    file_attack("GGUF", b"GGUF\x03\0\0\0" + bytes(50), "GGUF"),
    file_attack("ONNX", b"\x08\x08\x12\x07pytorch" + bytes(50), "ONNX", ".onnx"),
    file_attack("HDF5", b"\x89HDF\r\n\x1a\n" + bytes(50), "Keras", ".h5"),
    file_attack("Keras 3", zipped({"config.json": "{}", "model.weights.h5": ""}), "Keras", ".keras"),
    file_attack("another zip", zipped({"read.me": "hello"}), "zip archive without weights", ".pth"),
    file_attack("half a zip", zipped({"archive/data.pkl": "x" * 5000})[:3000], "cut short"),
    file_attack("NumPy", arrays(np.save, np.zeros(3)), "NumPy array", ".npy"),
    file_attack("NumPy archive", arrays(np.savez, a=np.zeros(3)), "big_vision", ".npz"),
    file_attack("gzip", gzip.compress(b"weights"), "gzip"),
    file_attack("tar", tar(), "tar archive"),
    file_attack("picture", b"\x89PNG\r\n\x1a\n" + bytes(50), "picture"),
    file_attack("plain pickle", pickle.dumps({"a": 1}, protocol=2), "not written by torch.save"),
    file_attack("cut safetensors", lambda weights: save(weights)[:-1000], "cut short", ".safetensors"),
    pickle_attack(
        "program in a pickle", lambda w: {"state_dict": w, "x": RunsACommand()}, "not weights alone"
    ),
    pickle_attack("object in a pickle", lambda w: {"state_dict": w, "x": OfSomebodysOwn()}, "OfSomebodysOwn"),
    pickle_attack("optimizer alone", lambda w: {"optimizer": {"state": {}}}, "no weights by name"),
    pickle_attack("list", lambda w: list(w.values()), "no weights by name but list"),
    pickle_attack("ZeRO piece", lambda w: {"module": {k: torch.zeros(0) for k in w}}, "zero_to_fp32"),
    pieces_attack("ZeRO folder", ["latest", "global_step1/x_optim_states.pt"], "zero_to_fp32"),
    pieces_attack("distributed folder", [".metadata", "__0_0.distcp"], "dcp_to_torch"),
    pieces_attack("adapter folder", ["adapter_config.json", "adapter_model.safetensors"], "PEFT adapter"),
    pieces_attack("sharded folder", ["model.safetensors.index.json"], "shards"),
    pieces_attack("empty folder", ["sub/x"], "without weights"),
    weights_attack(
        "adapter", lambda w: {"base_model.model.x.lora_A.weight": torch.zeros(2)}, "merge_and_unload"
    ),
    weights_attack("SigLIP of transformers", lambda w: SIGLIP, "ViT-B-16-SigLIP"),
    weights_attack("MobileCLIP", lambda w: MOBILECLIP, "MobileCLIP"),
    weights_attack(
        "two CLIPs", lambda w: w | {f"teacher.{k}": v.clone() for k, v in w.items()}, "several CLIPs"
    ),
    weights_attack(
        "image side", lambda w: {k: v for k, v in w.items() if k.startswith("visual.")}, "only an image tower"
    ),
    weights_attack(
        "image tower",
        lambda w: {k.removeprefix("visual."): v for k, v in w.items() if k.startswith("visual.")},
        "only an image tower",
    ),
    weights_attack(
        "text tower",
        lambda w: {k: v for k, v in w.items() if not k.startswith("visual.")},
        "only the text tower",
    ),
    weights_attack("something else", lambda w: {"layer1.0.conv.weight": torch.zeros(3)}, "no CLIP"),
    weights_attack(
        "longer texts",
        changed("positional_embedding", lambda t: torch.ones(77, 128)),
        "77 text tokens instead of 16",
    ),
    weights_attack(
        "larger pictures",
        changed("visual.positional_embedding", lambda t: torch.ones(10 * 10 + 1, 128)),
        "100 patches a picture instead of 64",
    ),
    weights_attack(
        "other patches", changed("visual.conv1.weight", lambda t: torch.ones(128, 3, 16, 16)), "looks like"
    ),
    weights_attack("NaN", changed("visual.transformer.resblocks.3.mlp.c_fc.weight", with_nan), "(NaN)"),
    weights_attack(
        "infinite", changed("ln_final.bias", lambda t: t + torch.inf), "ln_final.bias are infinite"
    ),
    weights_attack(
        "zeros in a block",
        changed("visual.transformer.resblocks.3.attn.in_proj_weight", torch.zeros_like),
        "are zero",
    ),
    weights_attack(
        "integers",
        changed("visual.transformer.resblocks.3.mlp.c_fc.weight", lambda t: t.to(torch.int8)),
        "quantized",
    ),
    folder_attack("pointer in a folder", fill_weights(LFS), "Git LFS pointer"),
    folder_attack(
        "no weights", lambda clip, c: (clip / "open_clip_model.safetensors").unlink(), "no weights"
    ),
    folder_attack("trusted tokenizer", bring_tokenizer_code("tokenizer_kwargs"), "trust_remote_code"),
    folder_attack("tokenizer code", bring_tokenizer_code("tokenizer"), "auto_map asks for Python code"),
    folder_attack(
        "tokenizer code in config.json", bring_tokenizer_code("config"), "auto_map asks for Python"
    ),
    folder_attack("vocabulary elsewhere", point_outside, "vocab_file points outside"),
    folder_attack("merges elsewhere", set_text(tokenizer_kwargs={"bpe_path": "/etc/passwd"}), "bpe_path"),
    folder_attack("text tower in a folder", set_text(hf_model_name="./evil"), "hf_model_name"),
    folder_attack("text tower of anybody", set_text(hf_model_name="some/body"), "hf_model_name"),
    folder_attack("timm from a folder", set_vision(timm_model_name="local-dir:/tmp/x"), "timm_model_name"),
    folder_attack("timm from the hub", set_vision(timm_model_name="hf-hub:some/body"), "timm_model_name"),
    folder_attack("unknown key", set_vision(hook="x"), "vision_cfg.hook is not known"),
    folder_attack("a billion layers", set_vision(layers=10**9), "too large"),
    folder_attack("infinite width", set_text(width=float("inf")), "too large"),
    preprocessing_attack("mean of words", {"mean": "abc"}, "mean is"),
    preprocessing_attack("two means", {"mean": [0.5, 0.5]}, "mean is"),
    preprocessing_attack("std of zero", {"std": [0.2, 0, 0.2]}, "above 0"),
    preprocessing_attack("infinite std", {"std": float("inf")}, "std is"),
    preprocessing_attack("unknown resizing", {"resize_mode": "stretch"}, "resize_mode is 'stretch'"),
    preprocessing_attack("random resampling", {"interpolation": "random"}, "interpolation is 'random'"),
    Attack(
        "endless name", lambda *_: ["--encoder", ARCHITECTURE, "--pretrained", "x" * 5000], "--pretrained"
    ),
    Attack("endless folder", lambda *_: ["--encoder", "local-dir:" + "x" * 5000], "its folder cannot"),
    card_attack(
        "card with a folder", lambda clip: EncoderId(f"local-dir:{clip}", None, ""), "--encoder local-dir:"
    ),
    card_attack(
        "card with the hub",
        lambda clip: EncoderId("hf-hub:some/body", None, ""),
        "--encoder hf-hub:some/body",
    ),
    card_attack(
        "card with a checkpoint",
        lambda clip: EncoderId("ViT-B-32", f"openai:{clip}/open_clip_model.safetensors", ""),
        "--encoder ViT-B-32 --pretrained openai:",
    ),
    card_attack("card with a shell", lambda clip: EncoderId("x; rm -rf ~", None, ""), "'x; rm -rf ~'"),
)
