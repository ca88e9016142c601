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
from tgems_export.exporting.graph import resizing
from tgems_export.exporting.graph.onnx_graph import OPSETS
from tgems_export.exporting.graph.resizing import resizing_graph
from tgems_export.exporting.pipeline import export_model
from tgems_export.exporting.settings import ExitSettings, ExportSettings, GraphSettings
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


def weights(inputs, outputs, interpolation):
    """Pillow's, [outputs, inputs], from the definition of its filters."""
    centre = (np.arange(outputs) + 0.5) * inputs / outputs
    t = np.abs(np.arange(inputs) + 0.5 - centre[:, None]) / max(inputs / outputs, 1)
    kernel = np.maximum(1 - t, 0)
    if interpolation == "bicubic":
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        kernel = np.where(t < 1, near, np.where(t < 2, far, 0))
    return kernel / kernel.sum(1, keepdims=True)


def two_passes(pixels, size, interpolation):
    """Columns, rounded, then rows; some versions of Pillow take rows first if that is less work."""
    rows, columns = (weights(a, b, interpolation) for a, b in zip(pixels.shape, size, strict=False))
    narrow = np.clip(np.floor(np.einsum("wW,HWc->Hwc", columns, pixels) + 0.5), 0, 255)
    return np.clip(np.floor(np.einsum("hH,Hwc->hwc", rows, narrow) + 0.5), 0, 255)


# One block and several, blocks of equal size and a last one that is cut.
SIZES = [(32, 16), (33, 17), (7, 50)]
SQUASHING = {
    (size, interpolation): session_of(
        dataclasses.replace(BASE, size=size, interpolation=interpolation, resize_mode="squash")
    )
    for size in SIZES
    for interpolation in ("bicubic", "bilinear")
}


@settings(deadline=None, max_examples=60)
@given(
    size=st.sampled_from(SIZES),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    seed=st.integers(0, 9),
)
def test_is_the_two_passes_that_pillow_documents(size, interpolation, width, height, seed):
    """Noise of black and white overshoots everywhere; only halves may be rounded otherwise."""
    noise = 255 * np.random.default_rng(seed).integers(0, 2, (height, width, 3), dtype=np.uint8)
    difference = np.abs(
        resized(SQUASHING[size, interpolation], noise) - two_passes(noise, size, interpolation)
    )
    assert difference.max() <= 2
    assert np.mean(difference <= 1) >= 0.999


def test_what_is_cropped_takes_no_memory():
    session = session_of(dataclasses.replace(BASE, size=(32, 32)))
    thin = np.full((1, 200_000, 3), 77, np.uint8)  # 32x6 400 000 before it is cropped
    np.testing.assert_array_equal(resized(session, thin), np.full((32, 32, 3), 77))


def test_distances_are_integers_up_to_the_kernel():
    """Half precision, which some runtimes choose unasked, would round places in a picture."""
    graph = onnx.shape_inference.infer_shapes(resizing_graph(BASE, 18)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    makers = {output: node for node in graph.node for output in node.output}
    waiting = [node for node in graph.node if node.op_type == "Cast" and types[node.output[0]] == 1]
    seen = set()
    while waiting:
        for name in waiting.pop().input:
            if name in makers and name not in seen and "narrow" not in name:
                seen.add(name)
                waiting.append(makers[name])
    assert {"rows_start", "columns_near"} <= seen
    assert {types[name] for name in seen} <= {onnx.TensorProto.INT64, onnx.TensorProto.UINT8}


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

    folder = tmp_path_factory.mktemp("models")
    for kind in ("pixels", "image"):
        settings = ExportSettings(
            folder / f"{kind}.onnx", exits=ExitSettings((1,)), graph=GraphSettings(input=kind)
        )
        export_model(settings, Reporter(quiet=True))
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
    output, graph = tmp_path / "m.onnx", GraphSettings(input="image")
    with pytest.raises(ParityError, match=r"resizing inside the graph differs from Pillow's by more than 1"):
        export_model(ExportSettings(output, exits=ExitSettings((1,)), graph=graph), reporter)
    assert not output.exists()


@pytest.mark.parametrize("opset", OPSETS)
def test_the_graph_holds_only_operators_that_all_runtimes_compute_alike(opset):
    graph = resizing_graph(BASE, opset)
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    assert "Resize" not in {node.op_type for node in graph.graph.node}
