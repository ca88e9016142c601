"""The plain full tower that `bench --against` holds files against."""

import json
import shutil

import numpy as np
import pytest

from tgems_edge.bench import measure
from tgems_edge.bench.candidates import open_candidate
from tgems_edge.bench.make_tower import make_tower
from tgems_edge.errors import EncoderError
from tgems_edge.model_file.default import built_in_model
from tgems_edge.runtime.images import to_pixels
from tgems_export.full_tower import write_full_tower
from tgems_export.pictures import draw


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """Make it as `bench --against full` does: in a process of its own, through the entry point."""
    path = tmp_path_factory.mktemp("towers") / "full.onnx"
    make_tower("demo", path)
    return path


def test_its_embeddings_are_the_encoders(tower, encoder):
    candidate = open_candidate(tower, tower_classes=10, threads=1, provider=None)
    pictures = [draw(seed, 80, 60) for seed in range(3)]
    embeddings = candidate.infer([candidate.resize(picture) for picture in pictures])
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    pixels = np.stack([to_pixels(picture, encoder.preprocessing) for picture in pictures])
    np.testing.assert_allclose(embeddings, encoder.activations(pixels).embedding, atol=1e-5)


def test_another_encoder_has_random_weights_and_the_size_that_it_expects(tmp_path, tiny):
    name = tiny("tiny-full", {"layers": 1, "image_size": 32})
    write_full_tower(name, tmp_path / "tiny.onnx")
    candidate = open_candidate(tmp_path / "tiny.onnx", tower_classes=2, threads=1, provider=None)
    assert candidate.resize(draw(0, 50, 40)).shape == (3, 32, 32)


def test_an_unknown_encoder_is_refused(tmp_path):
    with pytest.raises(EncoderError, match="no such model"):
        write_full_tower("ViT-X-99", tmp_path / "full.onnx")


@pytest.mark.parametrize("against", ["full", "file"])
def test_bench_holds_a_file_against_it(command, tower, monkeypatch, against):
    monkeypatch.setattr(measure, "make_tower", lambda encoder, path: shutil.copy(tower, path))
    options = ("--seconds", 0.2, "--threads", 1, "--batch", 16, "--json", "--quiet")
    done = command("bench", built_in_model(), "--against", tower if against == "file" else against, *options)
    assert done.exit_code == 0
    full, ours = json.loads(done.stdout)["results"]
    assert full["name"] == (str(tower) if against == "file" else "full demo")
    assert (full["kind"], full["file"]["card"]) == ("full tower", None)
    assert full["file"]["bytes"] > ours["file"]["bytes"]
    assert full["cases"][0]["times_faster"] is None
    faster = ours["cases"][0]["times_faster"]
    assert faster["than"] == full["name"] and faster["inference"] > 1.5
