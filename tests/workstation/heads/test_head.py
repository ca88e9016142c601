"""Jumper and T-GEM keep their promises, and a head file is whole, ours and fitting, or refused."""

import hashlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from tgems_edge.errors import HeadError
from tgems_edge.maths.rates import class_rates
from tgems_edge.model_file.card import EncoderId, Preprocessing
from tgems_edge.model_file.digests import beginnings
from tgems_edge.sources.data import read_labelled
from tgems_export.heads.file import (
    HeadCard,
    head_file,
    list_pictures,
    load_head,
    load_head_card,
    load_trained_pictures,
    save_head,
    save_trained_pictures,
)
from tgems_export.heads.tgem import Jumper, TGem, TGemHead

OTHERWISE = Preprocessing((64, 64), "squash", "bicubic", 0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def card(encoder):
    return HeadCard(
        encoder=encoder.id,
        preprocessing=encoder.preprocessing,
        layer=3,
        pool="mean",
        k=16,
        classes=("cat", "dög"),
        templates=("a {}.",),
        templates_held_out=(),
        settings={"epochs": "2"},
        data_sha256="ab" * 32,
        pictures=10,
        accuracy=0.5,
        accuracy_held_out_templates=None,
        warnings=("beware",),
        versions={"tgems-edge": "0"},
    )


@pytest.fixture
def saved(tmp_path, encoder, random_head, card):
    """A head file as it ought to be."""
    save_head(tmp_path / "head.safetensors", random_head(encoder), card)
    return tmp_path / "head.safetensors"


def test_a_head_is_four_per_cent_of_a_block_of_vit_b_32():
    count = sum(parameter.numel() for parameter in TGemHead(768, 512, 128).parameters())
    assert count == 295_552
    assert f"{count / 7_087_872:.2%}" == "4.17%"


@pytest.mark.parametrize("scale", [0.1, 1, 1e3])
def test_the_jumper_has_unit_variance_whatever_it_reads(scale):
    z = Jumper(8, 4)(3 + scale * torch.randn(500, 8, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(z.mean(0), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(z.var(0), torch.ones(4), rtol=0, atol=0.1)


def test_the_folded_jumper_is_the_jumper(encoder, random_head):
    jumper = random_head(encoder).jumper
    activations = torch.randn(9, encoder.tower.points[-1].width)
    weight, bias = jumper.folded()
    torch.testing.assert_close(activations @ weight.T + bias, jumper(activations), rtol=1e-5, atol=1e-5)


@given(st.integers(0, 1000), st.floats(-1e6, 1e6), st.floats(0, 1e4))
def test_sigma_stays_between_floor_and_cap_for_any_text_and_any_weights(seed, size, weight_size):
    torch.manual_seed(seed)
    tgem = TGem(8, 4)
    for parameter in tgem.parameters():
        parameter.data *= weight_size
    sigma = tgem(size * torch.randn(3, 8))[1].sqrt()
    assert bool(((sigma >= 0.11 * (1 - 1e-6)) & (sigma <= 10 * (1 + 1e-6))).all())


def test_rates_of_a_head_are_eq_1(encoder, random_head):
    head = random_head(encoder)
    activations, text = (
        torch.randn(5, encoder.tower.points[-1].width),
        torch.randn(3, encoder.embedding_width),
    )
    mu, variance = head.tgem(text)
    expected = class_rates(head.jumper(activations).numpy(), mu.numpy(), variance.numpy())
    torch.testing.assert_close(head.rates(activations, text).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_head_comes_back_as_it_was_saved(encoder, random_head, card, saved):
    head, found = load_head(saved, encoder)
    assert found == card == load_head_card(saved)
    expected = random_head(encoder).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in head.state_dict().items())
    assert not head.training and not any(parameter.requires_grad for parameter in head.parameters())


def test_equal_heads_are_equal_bytes(tmp_path, encoder, random_head, card, saved):
    save_head(tmp_path / "again.safetensors", random_head(encoder), card)
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_a_folder_has_a_place_for_every_layer(tmp_path):
    assert head_file(tmp_path, 5).name == "layer-05.safetensors"
    assert head_file(tmp_path, 24).name == "layer-24.safetensors"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no such head file; make one with `tgems-edge train`"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:-500] + bytes(500)), "damaged: its tensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x55"), "damaged: its tensors"),
        (lambda path: path.write_bytes(b""), "not a head file"),
        (lambda path: path.write_text("hello"), "not a head file"),
        (lambda path: (path.unlink(), path.mkdir()), "not a head file"),
        (lambda path: save_file({"weight": torch.zeros(2)}, path), "not a head file of tgems-edge"),
        (lambda path: save_file({}, path, {"tgems_head": "{"}), "its card is broken: it is not valid JSON"),
        (lambda path: save_file({}, path, {"tgems_head": '{"schema": 1}'}), "its card is broken: it lacks"),
        (lambda path: save_file({}, path, {"tgems_head": '{"schema": 2}'}), "written by a newer tgems-edge"),
    ],
    ids=[
        "missing",
        "a byte short",
        "cut",
        "zeroed tail",
        "flipped byte",
        "empty",
        "text",
        "folder",
        "other",
        "no JSON",
        "lacking",
        "newer",
    ],
)
def test_what_is_no_head_file_is_refused(encoder, saved, spoil, message):
    spoil(saved)
    with pytest.raises(HeadError, match=f"head.safetensors: .*{message}"):
        load_head(saved, encoder)


def test_a_head_of_an_earlier_version_has_no_digest_and_is_read(encoder, random_head, card, saved):
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    del metadata["sha256"]
    save_file(random_head(encoder).state_dict(), saved, metadata)
    assert load_head(saved, encoder)[1] == card


@pytest.fixture
def listed(tmp_path, make_folder, card):
    """A list of ten pictures, and the card of a head that was trained on some of them."""
    folder = read_labelled(make_folder(tmp_path / "pictures", {"a": 6, "b": 4}))
    save_trained_pictures(tmp_path, folder)
    (path,) = tmp_path.glob("pictures-*.sha256")
    return path, replace(card, data_sha256=folder.sha256), list_pictures(folder)


@pytest.mark.parametrize("with_digest", [True, False], ids=["digest", "earlier version"])
def test_the_list_of_training_pictures_is_read_or_refused(tmp_path, listed, with_digest):
    path, card, content = listed
    if with_digest:
        card = replace(card, trained_pictures_sha256=hashlib.sha256(content).hexdigest())
    head = tmp_path / "layer-03.safetensors"
    assert load_trained_pictures(head, card) == beginnings(content)
    spoiled = [b"", content[:6], content[:-6], content[:-1], content[:-12] + bytes(12)]
    if with_digest:
        spoiled += [content[:-6] + b"\xff" * 6, bytes(6) + content]
    for damaged in spoiled:
        path.write_bytes(damaged)
        with pytest.raises(HeadError, match="cut short or damaged; copy it again"):
            load_trained_pictures(head, card)
    path.unlink()
    assert load_trained_pictures(head, card) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "written by a newer tgems-edge .*; pip install --upgrade"),
        (
            {"encoder": EncoderId("ViT-B-32", "openai", "f" * 64)},
            "trained on ViT-B-32 with weights f{12}, not on vit-demo",
        ),
        ({"preprocessing": OTHERWISE}, "pictures that were resized or normalised otherwise than vit-demo"),
        ({"k": 17}, "its weights do not fit its card"),
    ],
)
def test_a_head_that_does_not_belong_is_refused(encoder, random_head, card, saved, changes, message):
    save_head(saved, random_head(encoder), replace(card, **changes))
    with pytest.raises(HeadError, match=message):
        load_head(saved, encoder)
