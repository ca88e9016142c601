"""`tgems-edge verify`: the digest, every stage that may differ, and the exit codes."""

import base64
import hashlib
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tgems_edge.cli import app
from tgems_edge.errors import ImageError, ModelFileError, ParityError
from tgems_edge.model_file.card import Resizing, Sample, noise_pixels
from tgems_edge.model_file.seal import seal
from tgems_edge.runtime.classifier import Classifier
from tgems_edge.runtime.images import decode, to_pixels
from tgems_edge.runtime.verification import TOLERANCE, check_samples, check_unchanged

SAMPLE_KEYS = {
    *("kind", "same_decoded", "same_pixels", "rate_difference", "within_tolerance"),
    *("label", "expected_label", "exit_layer", "reproduced", "stage"),
}


def sha256(pixels):
    return hashlib.sha256(np.asarray(pixels).tobytes()).hexdigest()


def verify(*arguments):
    """Return the finished command; an exception other than the command's exit fails the test."""
    return CliRunner().invoke(app, ["verify", *map(str, arguments)], catch_exceptions=False)


def rows(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def samples(colour_card):
    """Return correct samples of the colour model: noise and a JPEG."""
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 40, 90)).save(file, "JPEG")
    noise = noise_pixels("seed", colour_card.preprocessing.size)
    decoded = decode(file.getvalue())
    pixels = to_pixels(decoded, colour_card.preprocessing)
    content = base64.b64encode(file.getvalue()).decode()
    return (
        Sample("noise", "seed", sha256(noise), sha256(noise), rates_of(noise)),
        Sample("jpeg", content, sha256(decoded), sha256(pixels), rates_of(pixels)),
    )


def rates_of(pixels):
    return tuple((-pixels.mean((0, 1)) / 255).tolist())


@pytest.fixture
def exported(colour_model, colour_card, samples):
    """exported(**changes): write a colour model whose card has these samples, or others."""

    def exported(*, name="model.onnx", **changes):
        return colour_model(replace(colour_card, **{"samples": samples, **changes}), name=name)

    return exported


class TestReproduced:
    def test_the_built_in_file_is(self):
        done = verify()
        assert done.exit_code == 0
        *table, verdict = done.stdout.splitlines()
        assert len(table) == 5
        assert [line.split()[2:4] for line in table[1:]] == [["same", "same"]] * 4
        assert verdict == "reproduced: the same pixels and labels, rates within 0.01"
        assert done.stderr.startswith("model: built-in demo file (")

    def test_a_line_of_json_has_every_stage_of_every_sample(self, exported, samples):
        path = exported()
        done = verify(path, "--json", "--quiet")
        assert (done.exit_code, done.stderr) == (0, "")
        (row,) = rows(done)
        assert row.keys() == {"file", "model", "tolerance", "reproduced", "samples"}
        assert (row["file"], row["tolerance"], row["reproduced"]) == (str(path), TOLERANCE, True)
        assert row["model"] == f"sha256:{Classifier(path).card.file_sha256}"
        for sample, expected in zip(row["samples"], samples, strict=True):
            assert sample.keys() == SAMPLE_KEYS
            assert sample["kind"] == expected.kind
            assert sample["same_decoded"] and sample["same_pixels"] and sample["reproduced"]
            assert sample["rate_difference"] < 1e-6
            assert (sample["stage"], sample["exit_layer"]) == (None, 4)
            assert sample["label"] == sample["expected_label"]

    def test_what_resizes_itself_is_given_whole_pictures(self, draw, write_model, rewrite, colour_card):
        picture = draw(1, 30, 20)
        file = io.BytesIO()
        picture.save(file, "JPEG")
        decoded = np.asarray(decode(file.getvalue()))
        content = base64.b64encode(file.getvalue()).decode()
        sample = Sample("jpeg", content, sha256(decoded), sha256(decoded), rates_of(decoded))
        card = replace(colour_card, input="image", resizing=Resizing(1, 1.0, 0, 1.0), samples=(sample,))
        path = whole_picture_model(write_model, rewrite, card)
        (check,) = check_samples(Classifier(path))
        assert check.stage is None
        assert check.rate_difference < 1e-6

    def test_several_files_are_checked_one_after_the_other(self, exported):
        paths = [exported(name=name) for name in ("a.onnx", "b.onnx")]
        done = verify(*paths, "--json", "--threads", 1, "--provider", "CPU")
        assert [row["file"] for row in rows(done)] == [str(path) for path in paths]
        assert done.exit_code == 0

    def test_several_exits(self, dynamic_model, dynamic_card):
        bright, dark = np.full((6, 10, 3), (0, 255, 0), np.uint8), np.full((6, 10, 3), (0, 0, 128), np.uint8)
        samples = tuple(sample_of(pixels, dynamic_model()) for pixels in (bright, dark))
        checks = check_samples(Classifier(dynamic_model(replace(dynamic_card, samples=samples))))
        assert [(check.label, check.exit_layer, check.stage) for check in checks] == [
            ("green", 2, None),
            ("blue", 5, None),
        ]


def whole_picture_model(write_model, rewrite, card):
    """Write a model for pictures of any size, whose rates are the negative mean colours."""
    onnx = pytest.importorskip("onnx")
    kind = onnx.TensorProto
    constants = {
        "axes": (kind.INT64, [2], [0, 1]),
        "one": (kind.INT64, [1], [0]),
        "scale": (kind.FLOAT, [1], [-1 / 255]),
        "layer": (kind.INT64, [1], [4]),
    }
    nodes = [
        ("Cast", ["image"], "floats", {"to": kind.FLOAT}),
        ("ReduceMean", ["floats", "axes"], "means", {"keepdims": 0}),
        ("Mul", ["means", "scale"], "flat", {}),
        ("Unsqueeze", ["flat", "one"], "rates", {}),
        ("Softmax", ["rates"], "probabilities", {}),
        ("ArgMin", ["rates"], "label", {"axis": 1, "keepdims": 0}),
        ("Identity", ["layer"], "exit_layer", {}),
    ]
    taken = onnx.helper.make_tensor_value_info("image", kind.UINT8, ["H", "W", 3])
    path = write_model(nodes, constants, card, "whole.onnx")
    return rewrite(path, lambda model: model.graph.input[0].CopyFrom(taken))


def sample_of(pixels, model):
    """Return a sample with a lossless picture instead of a JPEG, and the rates that the model gives it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    (rates,) = Classifier(model).run([pixels]).rates
    content = base64.b64encode(file.getvalue()).decode()
    return Sample("jpeg", content, sha256(pixels), sha256(pixels), tuple(rates.tolist()))


class TestNotReproduced:
    """Cards with changed results, which stand for a machine that does not reproduce correct ones."""

    def test_other_rates_are_inference(self, exported, samples):
        noise, jpeg = samples
        shifted = replace(jpeg, rates=tuple(rate + 0.02 for rate in jpeg.rates))
        path = exported(samples=(noise, shifted))
        done = verify(path)
        assert done.exit_code == 3
        assert "reproduced" not in done.stdout
        assert done.stdout.splitlines()[2].split() == ["2", "jpeg", "same", "same", "0.02", "red"]
        assert done.stderr.splitlines()[-1].startswith(
            f"error: {path}: labels differ, or rates differ by more than 0.01; first difference: inference "
            "in 1 of 2 samples; try another onnxruntime"
        )

    def test_rates_within_the_tolerance_are_the_same(self, exported, samples):
        shifted = tuple(replace(s, rates=tuple(rate + 0.009 for rate in s.rates)) for s in samples)
        assert verify(exported(samples=shifted)).exit_code == 0

    def test_the_tolerance_grows_with_the_rate(self, exported, samples):
        large = tuple(replace(s, rates=tuple(rate - 10 for rate in s.rates)) for s in samples)
        (row,) = rows(verify(exported(samples=large), "--json"))
        assert not row["reproduced"]
        assert row["samples"][0]["rate_difference"] == pytest.approx(10)

    def test_another_label_is_inference_however_close_the_rates(self, colour_model, colour_card):
        pixels = np.full((6, 10, 3), (100, 101, 0), np.uint8)
        true = sample_of(pixels, colour_model())
        swapped = replace(true, rates=(true.rates[1], true.rates[0], true.rates[2]))
        path = colour_model(replace(colour_card, samples=(swapped,)))
        done = verify(path)
        assert done.exit_code == 3
        assert "green, not red" in done.stdout
        (row,) = rows(verify(path, "--json"))
        assert row["samples"][0]["within_tolerance"] and not row["samples"][0]["reproduced"]

    def test_rates_that_are_no_numbers(self, exported, monkeypatch):
        run = Classifier.run

        def broken(self, inputs):
            rates, probabilities, layers = run(self, inputs)
            return rates * np.nan, probabilities, layers

        monkeypatch.setattr(Classifier, "run", broken)
        done = verify(exported(), "--json")
        assert done.exit_code == 3
        (row,) = rows(done)
        assert [sample["rate_difference"] for sample in row["samples"]] == [None, None]
        assert verify(exported()).exit_code == 3

    @pytest.mark.parametrize(
        ("field", "stage", "words"),
        [
            ("decoded_sha256", "decoding", ["differs", "-"]),
            ("pixels_sha256", "resizing", ["same", "differs"]),
        ],
    )
    def test_other_pixels_with_the_same_answers_are_a_finding(self, exported, samples, field, stage, words):
        noise, jpeg = samples
        path = exported(samples=(noise, replace(jpeg, **{field: "0" * 64})))
        done = verify(path)
        assert done.exit_code == 1
        assert done.stdout.splitlines()[2].split()[2:4] == words
        assert (
            f"error: {path}: pixels differ, but all answers are the same; first difference: {stage} in 1 of 2"
            in (done.stderr)
        )
        (row,) = rows(verify(path, "--json"))
        assert row["reproduced"]
        assert [sample["stage"] for sample in row["samples"]] == [None, stage]

    def test_another_decoder_is_blamed_where_its_pixels_change_the_answer(self, exported, monkeypatch):
        path = exported()
        monkeypatch.setattr(
            "tgems_edge.runtime.verification.decode", lambda data: Image.new("RGB", (30, 20), "blue")
        )
        done = verify(path)
        assert done.exit_code == 3
        assert "first difference: decoding in 1 of 2 samples" in done.stderr
        assert "blue, not red" in done.stdout

    def test_a_pillow_without_jpeg_is_one_line(self, exported, monkeypatch):
        def refuse(data):
            raise ImageError("the picture: not a picture that Pillow can read")

        monkeypatch.setattr("tgems_edge.runtime.verification.decode", refuse)
        done = verify(exported(), "--quiet")
        assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (3, "", 1)
        assert "cannot be decoded here" in done.stderr

    def test_the_worst_of_several_files_is_the_exit_code(self, exported, samples, tmp_path):
        noise, jpeg = samples
        pixels = exported(name="pixels.onnx", samples=(replace(noise, pixels_sha256="0" * 64), jpeg))
        rates = exported(name="rates.onnx", samples=(replace(noise, rates=(1.0, 2.0, 3.0)), jpeg))
        missing = tmp_path / "missing.onnx"
        assert verify(exported(), pixels).exit_code == 1
        assert verify(exported(), pixels, missing).exit_code == 2
        assert verify(rates, missing, pixels, exported()).exit_code == 3


class TestChanged:
    def test_a_changed_weight_is_noticed_before_anything_runs(self, exported, monkeypatch):
        path = exported()
        data = path.read_bytes()
        path.write_bytes(data.replace(b"exit_layer", b"exit_later", 1))
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ParityError, match="digest does not hold"):
            check_unchanged(path)
        done = verify(path)
        assert (done.exit_code, done.stdout) == (3, "")
        assert done.stderr == (
            f"error: {path}: changed since it was exported (its digest does not hold); copy it again\n"
        )

    def test_a_line_of_json_says_what_is_wrong(self, exported, tmp_path):
        path, missing = exported(), tmp_path / "missing.onnx"
        path.write_bytes(path.read_bytes().replace(b"noise", b"Noise"))
        changed, nowhere = rows(verify(path, missing, "--json"))
        assert changed.keys() == nowhere.keys() == {"file", "error"}
        assert "its digest does not hold" in changed["error"]
        assert nowhere["error"].startswith(f"{missing}: no such model file")

    def test_a_file_that_was_never_sealed_is_not_as_exported(self, colour_model, colour_card):
        assert verify(colour_model(colour_card.to_json())).exit_code == 3


class TestBadInput:
    def test_an_onnx_file_of_another_origin(self, colour_model):
        done = verify(colour_model(None))
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
        assert "no card" in done.stderr

    @pytest.mark.parametrize(
        ("samples", "reason"),
        [
            ((), "no samples"),
            ((Sample("jpeg", "no base64!", "", "", (0, 0, 0)),), "cannot be made again"),
            ((Sample("noise", "\ud800", "", "", (0, 0, 0)),), "cannot be made again"),
        ],
        ids=["none", "base64", "seed"],
    )
    def test_samples_that_cannot_be_used(self, colour_model, colour_card, samples, reason):
        card = json.loads(replace(colour_card, samples=samples).to_json())
        path = colour_model(json.dumps(card))
        path.write_bytes(seal(path.read_bytes()))
        with pytest.raises(ModelFileError, match=reason):
            check_samples(Classifier(path))
        done = verify(path, "--quiet")
        assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert done.stderr.startswith(f"error: {path}: ")

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--provider", "TPU"], "no provider 'TPU'"),
            (["--threads", "0"], "--threads"),
            (["--nonsense"], ""),
        ],
        ids=str,
    )
    def test_bad_usage_says_what_is_wrong(self, arguments, reason):
        done = verify(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert reason in done.stderr

    def test_a_missing_onnxruntime_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        done = verify()
        assert done.exit_code == 2
        assert "pip install 'tgems-edge[cpu]'" in done.stderr


def test_help_has_an_example():
    assert "tgems-edge verify model.onnx" in verify("--help").stdout
