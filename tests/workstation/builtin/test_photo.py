"""The encoder `photo` as it ships, on the example pictures."""

import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from tgems_edge.runtime.images import decode, to_pixels
from tgems_export.encoders.checkpoints.loading import PHOTO_FOLDER
from tgems_export.encoders.encoder import load_encoder
from tgems_export.encoders.prompts import class_embeddings, encode_prompts, load_templates

EXAMPLES = Path(__file__).parents[3] / "examples"
PICTURES = {"chelsea.jpg": "cat", "coffee.jpg": "cup of coffee", "rocket.jpg": "rocket"}
NAMES = ("airplane", "bird", "car", "cat", "cup of coffee", "dog", "flower", "rocket", "ship", "truck")


@pytest.fixture(scope="module")
def photo():
    return load_encoder("photo")


def text_of(encoder, names):
    return class_embeddings(encode_prompts(encoder, names, load_templates().train))


def test_photo_states_its_terms_and_its_shape(photo):
    assert photo.id.name == "photo" and "Apache-2.0" in photo.licence and "WordNet" in photo.licence
    assert photo.preprocessing.size == (260, 260) and photo.preprocessing.mean == (0.5, 0.5, 0.5)
    assert photo.preprocessing.resize_mode == "shortest" and photo.embedding_width == 256
    assert 10 < photo.text.logit_scale < 20


def test_open_clip_loads_its_folder_alone(photo):
    clip = open_clip.create_model(f"local-dir:{PHOTO_FOLDER}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{PHOTO_FOLDER}")(["a photo of a cat."])
    with torch.no_grad():
        expected = clip.encode_text(tokens, normalize=True)
    torch.testing.assert_close(photo.text.encode(["a photo of a cat."]), expected)


def test_photographs_are_told_apart_by_names_alone(photo):
    pictures = [decode((EXAMPLES / name).read_bytes()) for name in PICTURES]
    pixels = np.stack([to_pixels(picture, photo.preprocessing) for picture in pictures])
    found = (photo.activations(pixels).embedding @ text_of(photo, NAMES).T).argmax(1)
    assert [NAMES[label] for label in found] == list(PICTURES.values())


def test_names_of_a_kind_lie_closer_than_others(photo):
    text = text_of(photo, ["dog", "spaniel", "teapot", "coffee pot"])
    cosines = text @ text.T
    assert min(cosines[0, 1], cosines[2, 3]) > 0.3 + cosines[:2, 2:].max()


def test_singular_and_plural_are_almost_the_same(photo):
    names = ["airplane", "strawberry", "dog", "chair"]
    one, many = text_of(photo, names), text_of(photo, ["airplanes", "strawberries", "dogs", "chairs"])
    assert (one * many).sum(1).min() > 0.9


def test_the_names_that_it_was_trained_on_are_listed():
    known = (PHOTO_FOLDER / "names.txt").read_text().splitlines()
    assert known == sorted(set(known)) and {"tabby cat", "dog", "vehicle", "peach"} <= set(known)


def test_its_attributions_lie_beside_the_weights():
    notice = (PHOTO_FOLDER / "NOTICE").read_text()
    assert "ML Illustrated" in notice and "WordNet 3.0 Copyright 2006 by Princeton University" in notice
    assert "Apache License" in (PHOTO_FOLDER / "LICENSE").read_text()


def test_it_takes_little_room_in_a_wheel(tmp_path):
    path = tmp_path / "clip.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in PHOTO_FOLDER.iterdir():
            archive.write(file, file.name)
    assert path.stat().st_size < 22_000_000


def test_the_64_pixel_clip_goes_by_both_its_names():
    assert load_encoder("vit-demo").id.sha256 == load_encoder("demo").id.sha256
