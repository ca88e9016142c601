"""Activations are computed once, kept in chunks that survive interruption and damage, and true."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tgems_edge.errors import DataError
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import decode, to_pixels
from tgems_edge.sources.data import read_labelled, read_unlabelled
from tgems_export.encoders import features
from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.features import compute_features
from tgems_export.storage.cache import cache_root
from tgems_export.storage.tensors import read_tensors, write_tensors


@pytest.fixture
def pictures(tmp_path, make_folder, monkeypatch):
    """Ten pictures, four to a chunk."""
    monkeypatch.setattr(features, "CHUNK", 4)
    return make_folder(tmp_path / "pictures", {"a": 6, "b": 4})


@pytest.fixture
def calls(monkeypatch):
    """The number of pictures of every pass through the encoder."""
    calls = []
    original = Encoder.activations

    def activations(self, pixels):
        calls.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(Encoder, "activations", activations)
    return calls


def rewrite(path, **changes):
    """Writes a chunk whose digest holds, with changed tensors."""
    tensors, _ = read_tensors(path)
    changed = {name: changes.get(name, lambda tensor: tensor)(tensor) for name, tensor in tensors.items()}
    write_tensors(path, {name: tensor.contiguous() for name, tensor in changed.items()}, {})


def chunks(cache):
    return {path.name: path.read_bytes() for path in sorted(cache.rglob("*.safetensors"))}


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_features_are_what_the_encoder_says(encoder, pictures, reporter, pool):
    folder = read_labelled(pictures)
    found = compute_features(encoder, folder, reporter)
    paths = [folder.path(i) for i in range(10)]
    said = encoder.activations(np.stack([to_pixels(decode(path), encoder.preprocessing) for path in paths]))
    assert found.indices.tolist() == list(range(10))
    for layer in (1, 5, 12):
        expected = said.pools[pool][layer - 1]
        torch.testing.assert_close(found.activations(layer, pool), expected, rtol=1e-3, atol=1e-3)  # halves
    torch.testing.assert_close(found.embeddings(), said.embedding, rtol=1e-4, atol=1e-5)


def test_the_second_time_the_encoder_rests(encoder, pictures, reporter, calls):
    first = compute_features(encoder, read_labelled(pictures), reporter)
    assert calls == [4, 4, 2]
    second = compute_features(encoder, read_labelled(pictures), reporter)
    assert calls == [4, 4, 2]
    assert torch.equal(first.activations(3, "cls"), second.activations(3, "cls"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not tensors"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-500] + bytes(500)),
        lambda path: path.write_bytes(path.read_bytes()[:-500] + b"\1" + path.read_bytes()[-499:]),
        lambda path: save_file(load_file(path), path),
        lambda path: rewrite(path, embedding=lambda tensor: tensor.half()),
        lambda path: rewrite(path, embedding=lambda tensor: tensor[:, 1:]),
        lambda path: rewrite(path, **{"cls 3": lambda tensor: tensor[:, 1:]}),
        lambda path: rewrite(path, **{"mean 2": lambda tensor: tensor[1:]}),
        lambda path: rewrite(path, indices=lambda tensor: tensor + 4),
        lambda path: rewrite(path, indices=lambda tensor: tensor[:, None]),
        lambda path: write_tensors(path, {}, {}),
    ],
    ids=[
        "missing",
        "empty",
        "text",
        "cut short",
        "zeroed tail",
        "flipped byte",
        "without a digest",
        "another type",
        "another width",
        "another width of a block",
        "fewer pictures",
        "other pictures",
        "another shape",
        "nothing in it",
    ],
)
def test_only_a_spoiled_chunk_is_made_again_and_with_the_same_bytes(
    encoder, pictures, reporter, cache, calls, spoil
):
    compute_features(encoder, read_labelled(pictures), reporter)
    before = chunks(cache)
    spoil(next(cache.rglob("000000004.safetensors")))
    calls.clear()
    compute_features(encoder, read_labelled(pictures), reporter)
    assert calls == [4]
    assert chunks(cache) == before


def test_an_interruption_costs_no_more_than_its_chunk(encoder, pictures, reporter, cache, calls, monkeypatch):
    compute_features(encoder, read_labelled(pictures), reporter)
    uninterrupted = chunks(cache)
    monkeypatch.setenv("TGEMS_CACHE_DIR", str(cache / "other"))
    counting = Encoder.activations

    def interrupted(self, pixels):
        if len(calls) == 4:
            raise KeyboardInterrupt
        return counting(self, pixels)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Encoder, "activations", interrupted)
        compute_features(encoder, read_labelled(pictures), reporter)
    assert len(chunks(cache / "other")) == 1
    calls.clear()
    compute_features(encoder, read_labelled(pictures), reporter)
    assert calls == [4, 2]
    assert chunks(cache / "other") == uninterrupted


@pytest.mark.parametrize(
    ("bad", "left"),
    [
        (["a/02.png"], [0, 1, 3, 4, 5, 6, 7, 8, 9]),
        (["a/00.png", "b/03.png"], [1, 2, 3, 4, 5, 6, 7, 8]),
        (["a/00.png", "a/01.png", "a/02.png", "a/03.png"], [4, 5, 6, 7, 8, 9]),
    ],
    ids=["one", "the ends", "a whole chunk"],
)
def test_unreadable_pictures_are_named_once_and_counted_every_time(encoder, pictures, capsys, bad, left):
    for name in bad:
        (pictures / name).write_text("no picture")
    folder = read_labelled(pictures)
    found = compute_features(encoder, folder, Reporter(quiet=True))
    assert found.indices.tolist() == left
    assert len(found.activations(1, "cls")) == len(found.embeddings()) == len(left)
    last = to_pixels(decode(folder.path(left[-1])), encoder.preprocessing)[None]
    torch.testing.assert_close(found.embeddings()[-1:], encoder.activations(last).embedding)
    *each, total = capsys.readouterr().err.splitlines()
    assert len(each) == len(bad)
    for name, warning in zip(bad, each, strict=True):
        assert warning.startswith("warning: left out") and name in warning
    assert f"{len(bad)} of 10 pictures" in total

    compute_features(encoder, folder, Reporter(quiet=True))
    assert capsys.readouterr().err.splitlines() == [total]


def test_a_picture_too_thin_to_resize_is_left_out_by_name(encoder, pictures, capsys):
    Image.new("RGB", (200_000, 1)).save(pictures / "a" / "thin.png")
    found = compute_features(encoder, read_labelled(pictures), Reporter(quiet=True))
    assert len(found.indices) == 10
    assert str(pictures / "a" / "thin.png") in capsys.readouterr().err


def test_a_folder_without_a_readable_picture_is_refused(encoder, pictures, reporter):
    for path in pictures.rglob("*.png"):
        path.write_text("no picture")
    with pytest.raises(DataError, match="none of its 10 pictures can be read"):
        compute_features(encoder, read_labelled(pictures), reporter)


@pytest.mark.parametrize(
    "change",
    [
        lambda encoder: replace(encoder, tower_sha256="0" * 64),
        lambda encoder: replace(encoder, transform=replace(encoder.transform, resize_mode="squash")),
    ],
    ids=["weights", "preprocessing"],
)
def test_another_encoder_has_features_of_its_own(encoder, pictures, reporter, calls, change):
    compute_features(encoder, read_labelled(pictures), reporter)
    compute_features(change(encoder), read_labelled(pictures), reporter)
    assert calls == [4, 4, 2] * 2


def test_other_pictures_have_features_of_their_own(encoder, pictures, reporter, calls):
    compute_features(encoder, read_labelled(pictures), reporter)
    (pictures / "a" / "00.png").write_bytes((pictures / "b" / "00.png").read_bytes())
    compute_features(encoder, read_labelled(pictures), reporter)
    assert calls == [4, 4, 2] * 2


def test_labels_do_not_change_features(encoder, pictures, reporter, calls):
    labelled = compute_features(encoder, read_labelled(pictures), reporter)
    unlabelled = compute_features(encoder, read_unlabelled(pictures), reporter)
    assert calls == [4, 4, 2]
    assert torch.equal(labelled.embeddings(), unlabelled.embeddings())


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TGEMS_CACHE_DIR": "here", "XDG_CACHE_HOME": "there", "HOME": "home"}, "here"),
        ({"XDG_CACHE_HOME": "there", "HOME": "home"}, "there/tgems-edge"),
        ({"TGEMS_CACHE_DIR": "", "XDG_CACHE_HOME": "", "HOME": "home"}, "home/.cache/tgems-edge"),
    ],
)
def test_the_cache_is_where_the_environment_says(monkeypatch, variables, expected):
    for name in ("TGEMS_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_root().as_posix() == expected
