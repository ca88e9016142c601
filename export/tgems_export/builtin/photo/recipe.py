"""The recipe of the encoder `photo`: packages in, an open_clip folder out, in twenty minutes on two cores.

No picture is needed: the image tower is locked, and the text tower learns from names alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save
from timm.data import ImageNetInfo
from torch import Tensor

from tgems_edge.progress import Reporter
from tgems_export.builtin.photo.image_tower import TOWER, ImageTower, read_image_tower
from tgems_export.builtin.photo.names import Names, collect_names
from tgems_export.builtin.photo.prompts import Prompts
from tgems_export.builtin.photo.sentences import (
    class_sentences,
    load_sentence_encoder,
    near_classes,
    second_opinion,
)
from tgems_export.builtin.photo.training import Settings, TextTower, accuracy_of_names, train_text
from tgems_export.builtin.photo.wordnet import WORDNET, read_nouns, read_senses
from tgems_export.encoders.prompts import NAMED
from tgems_export.storage.files import read_checked, write_atomically, write_checked
from tgems_export.threads import one_thread

__all__ = ["make_photo"]

LICENCE = (
    "Apache-2.0; image tower: EfficientNet-Lite2 by ML Illustrated, Apache-2.0, trained on ImageNet-1k; text "
    "tower: learnt from the nouns of WordNet 3.0, copyright 2006 by Princeton University"
)
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {
        "timm_model_name": TOWER,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 260,
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 256,  # of the joint embedding: a narrower tower reaches only some of its directions
        "heads": 4,
        "layers": 2,
        "mlp_ratio": 2.0,
    },
}
LOGIT_SCALE = 15.0  # where probabilities among the 1000 classes are nearest to the classifier's own
PREPROCESSING = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
NAMES_FILE = "names.txt"  # what the text tower was trained on
TEMPLATES = tuple(dict.fromkeys(NAMED["default"] + NAMED["openai"]))


def make_photo(out: Path, settings: Settings, reporter: Reporter, *, wordnet: Path = WORDNET) -> Path:
    """Make the folder of the encoder; interrupted work goes on where it stopped.

    Args:
        out: the open_clip folder to write; it also holds what an interrupted run goes on from.
        settings: see `Settings`.
        reporter: where progress goes.
        wordnet: the folder of WordNet's files.

    Raises:
        MissingDependency: a package that the recipe needs is not installed.
        DataError: WordNet is not installed, or weights are not those that the recipe was made for.
        InputError: a checkpoint of other settings is in the way.
    """
    with one_thread():  # the same bytes on any number of cores
        return _make(out, settings, reporter, wordnet)


def _make(out: Path, settings: Settings, reporter: Reporter, wordnet: Path) -> Path:
    tower = read_image_tower(ARCHITECTURE["embed_dim"])
    names = _place_names(tower, wordnet, out / "sentences.pt", reporter)
    clip = _build(tower, settings)
    prompts = Prompts([name.text for name in names.names], names.known, TEMPLATES, clip.context_length)
    text = TextTower(clip, prompts.used)
    train_text(text, prompts, names, settings, out / "checkpoint.pt", reporter)
    accuracy = accuracy_of_names(text, prompts, names)
    reporter.say(f"{accuracy:.1%} of the names of classes point at their own prototype")
    text.write_back()
    made = {
        "settings": asdict(settings),
        "names": len(names.names),
        "tokens": len(prompts.used),
        "accuracy_of_class_names": round(accuracy, 4),
    }
    _write(clip, names, made, out)
    for name in ("checkpoint.pt", "sentences.pt"):
        (out / name).unlink(missing_ok=True)
    return out


def _place_names(tower: ImageTower, wordnet: Path, cache: Path, reporter: Reporter) -> Names:
    """Return all names with the directions that WordNet and the sentence encoder give them."""
    synsets = read_nouns(wordnet)
    classes = ImageNetInfo("imagenet-1k").label_names()
    names = collect_names(synsets, read_senses(synsets, wordnet), classes, tower.prototypes)
    reporter.say(
        f"{len(names.names)} names, {int((names.labels >= 0).sum())} of them of {len(classes)} classes"
    )
    texts = [name.text for name in names.names]
    texts += class_sentences([synsets[synset] for synset in classes])
    said = _cached_sentences(texts, cache, reporter)
    near = near_classes(said[: len(names.names)], said[len(names.names) :], names.prototypes)
    return replace(names, targets=second_opinion(names.names, names.targets, near))


def _cached_sentences(texts: Sequence[str], cache: Path, reporter: Reporter) -> Tensor:
    """Return sentence embeddings; what an interrupted run has read is not read again."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    content = read_checked(cache)
    if content is not None:
        state = torch.load(io.BytesIO(content), weights_only=True)
        if state["texts"] == digest:
            return state["embeddings"]
    embeddings = load_sentence_encoder().encode(texts, reporter)
    buffer = io.BytesIO()
    torch.save({"texts": digest, "embeddings": embeddings}, buffer)
    write_checked(cache, buffer.getvalue())
    return embeddings


def _build(tower: ImageTower, settings: Settings) -> open_clip.CLIP:
    """Build the CLIP: the image tower as it was trained, the text tower with random weights."""
    torch.manual_seed(settings.seed)
    clip = open_clip.CLIP(**ARCHITECTURE)
    clip.visual.trunk.load_state_dict(tower.weights)
    clip.visual.head.proj.weight.data.copy_(tower.projection)
    clip.logit_scale.data.fill_(math.log(LOGIT_SCALE))
    return clip


def _write(clip: open_clip.CLIP, names: Names, made: dict[str, Any], out: Path) -> None:
    """Write the folder, in half precision."""
    weights = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in clip.state_dict().items()
    }
    config = {"license": LICENCE, "model_cfg": ARCHITECTURE, "preprocess_cfg": PREPROCESSING}
    known = sorted({name.text.lower() for name in names.names})
    for name, content in {
        "open_clip_model.safetensors": save(weights),
        "open_clip_config.json": json.dumps(config, indent=1).encode() + b"\n",
        NAMES_FILE: "\n".join(known).encode() + b"\n",
        "training.json": json.dumps(made, indent=1).encode() + b"\n",
    }.items():
        write_atomically(out / name, content)
