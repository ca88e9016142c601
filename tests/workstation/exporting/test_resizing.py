"""Resizing inside the graph against the device's own, which is open_clip's bit by bit."""

import dataclasses

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgems_edge.errors import ImageError, ParityError
from tgems_edge.model_file.card import Preprocessing
from tgems_edge.runtime.classifier import Classifier
from tgems_edge.runtime.images import to_pixels
from tgems_edge.runtime.session import open_session
from tgems_export.exporting.freeze import Form, freeze, load_exits
from tgems_export.exporting.graph import resizing
from tgems_export.exporting.graph.onnx_graph import OPSETS
from tgems_export.exporting.graph.resizing import resizing_graph
from tgems_export.pictures import draw, draw_many

BASE = Preprocessing((64, 64), "shortest", "bicubic", 9, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def session_of(preprocessing, opset=18):
    return open_session(resizing_graph(preprocessing, opset).SerializeToString())


def resized(session, picture):
    return session.run(None, {"image": np.asarray(picture)})[0][0]


@pytest.mark.parametrize("size", [(64, 64), (224, 224), (64, 48), (40, 64)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_is_pillow_within_one_grey_level(size, interpolation, resize_mode):
    preprocessing = dataclasses.replace(BASE, size=size, interpolation=interpolation, resize_mode=resize_mode)
    session = session_of(preprocessing)
    differences = [
        np.abs(resized(session, picture).astype(int) - to_pixels(picture, preprocessing)).ravel()
        for picture in draw_many(16)
    ]
    assert np.mean(np.concatenate(differences) <= 1) >= 0.9995


MODES = [("shortest", (32, 32)), ("shortest", (32, 20)), ("longest", (32, 32)), ("longest", (20, 32))]
SESSIONS = {
    (mode, size): session_of(dataclasses.replace(BASE, size=size, resize_mode=mode)) for mode, size in MODES
}


@settings(deadline=None, max_examples=60)
@given(
    mode=st.sampled_from(MODES), width=st.integers(1, 300), height=st.integers(1, 300), seed=st.integers(0, 9)
)
def test_sizes_and_crops_are_rounded_alike_for_every_shape(mode, width, height, seed):
    """A row too many or a crop beside it would shift the picture, far beyond a grey level."""
    preprocessing = dataclasses.replace(BASE, size=mode[1], resize_mode=mode[0])
    picture = draw(seed, width, height)
    expected = to_pixels(picture, preprocessing)
    found = resized(SESSIONS[mode], picture)
    assert found.shape == expected.shape
    assert np.mean(np.abs(found.astype(int) - expected) <= 1) > 0.97


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_resizes_alike(opset):
    picture = draw(3, 301, 199)
    np.testing.assert_array_equal(
        resized(session_of(BASE, opset), picture), resized(session_of(BASE), picture)
    )


def test_a_picture_of_the_models_own_size_goes_through_untouched():
    picture = draw(1, 64, 64)
    np.testing.assert_array_equal(resized(session_of(BASE), picture), np.asarray(picture))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One exit of the demo, taking resized pixels and whole pictures."""
    from tgems_edge.progress import Reporter

    folder, exit_ = tmp_path_factory.mktemp("models"), load_exits([1], None, None, None, None)[0]
    for kind in ("pixels", "image"):
        freeze([exit_], folder / f"{kind}.onnx", Reporter(quiet=True), form=Form(input=kind))
    return {kind: Classifier(folder / f"{kind}.onnx") for kind in ("pixels", "image")}


def test_the_file_takes_any_picture_and_says_so(files):
    model = files["image"]
    tensors = {tensor.name: tensor.shape for tensor in model._session.get_inputs()}
    assert tensors == {"image": ["H", "W", 3]}
    assert model.card.input == "image" and model.card.resizing.pixels_within_1 >= 0.999
    assert model.card.resizing.pictures == 64 and model.card.resizing.label_agreement > 0.95
    assert files["pixels"].card.input == "pixels" and files["pixels"].card.resizing is None


def test_both_files_label_alike_one_picture_or_many(files):
    pictures = [draw(seed, *size) for seed, size in enumerate([(640, 480), (64, 64), (31, 200), (9, 9)])]
    found, expected = (files[kind].classify_batch(pictures) for kind in ("image", "pixels"))
    assert [result.label for result in found] == [result.label for result in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.rates, other.rates, atol=0.02)
        assert one.exit_layer == 1
    assert files["image"].classify(pictures[0]).label == found[0].label


def test_what_would_fill_the_memory_is_refused_before_the_graph_sees_it(files):
    with pytest.raises(ImageError, match="too long and thin to be resized"):
        files["image"].classify(np.zeros((1, 1_000_000, 3), np.uint8))


def test_resizing_that_is_not_pillows_writes_nothing(tmp_path, reporter, monkeypatch):
    monkeypatch.setattr(resizing, "resampling", lambda preprocessing: "bilinear")
    exit_ = load_exits([1], None, None, None, None)[0]
    with pytest.raises(ParityError, match=r"resizing inside the graph differs from Pillow's by more than 1"):
        freeze([exit_], tmp_path / "m.onnx", reporter, form=Form(input="image"))
    assert not (tmp_path / "m.onnx").exists()


def test_the_graph_holds_no_operator_of_another_domain(files, tmp_path):
    for opset in OPSETS:
        domains = {node.domain for node in resizing_graph(BASE, opset).graph.node}
        assert domains <= {"", "ai.onnx"} and onnx.checker.check_model(resizing_graph(BASE, opset)) is None
