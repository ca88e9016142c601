"""Files from class names alone: the full tower, and the texts of the classes."""

import json

import numpy as np
import torch

from tgems_edge import load
from tgems_edge.runtime.images import read_pixels
from tgems_export.encoders.prompts import class_embeddings, encode_prompts, load_templates
from tgems_export.exporting.exits import load_exits
from tgems_export.exporting.settings import ExitSettings
from tgems_export.heads.zero_shot import ZeroShotHead


def test_its_posterior_is_that_of_clip_itself():
    head = ZeroShotHead(8, logit_scale=20.0)
    embeddings, text = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=-1)
    rates = head.rates(embeddings, text)
    torch.testing.assert_close((-head.k * rates).softmax(1), (20 * embeddings @ text.T).softmax(1))
    torch.testing.assert_close(head.readout(text)(embeddings), rates)


def test_a_file_of_names_alone_answers_as_the_full_clip(encoder, command, figures, tmp_path):
    names, path = tmp_path / "names.txt", tmp_path / "model.onnx"
    names.write_text("red circle\ngreen square\nblue cross\n")
    options = ("--encoder", "vit-demo", "--layer", "full", "--classes", names, "--output", path)
    made = json.loads(command("export", *options, "--json", "--quiet").stdout)
    assert (made["layer"], made["layer_name"], made["classes_not_trained"]) == (13, "full", [])
    model = load(path)
    assert (model.card.last_exit.head_kind, model.card.last_exit.pool) == ("zero-shot", "embedding")
    pictures = sorted(figures.rglob("*.png"))[:5]
    answers = [model.classify(picture) for picture in pictures]
    pixels = np.stack([read_pixels(picture, encoder.preprocessing) for picture in pictures])
    text = class_embeddings(encode_prompts(encoder, model.card.classes, load_templates().train))
    logits = encoder.text.logit_scale * encoder.activations(pixels).embedding @ text.T
    assert [answer.label for answer in answers] == [model.card.classes[i] for i in logits.argmax(1)]


def test_names_that_the_text_tower_never_saw_are_named():
    (exit_,) = load_exits(ExitSettings(("full",), encoder="photo", classes=("coffee mug", "flux capacitor")))
    assert exit_.card.classes == ("coffee mug",)


def test_names_are_needed(command, tmp_path):
    refused = command("export", "--layer", "full", "--output", tmp_path / "model.onnx")
    assert refused.exit_code == 2 and "knows names alone; give --classes FILE" in refused.stderr
