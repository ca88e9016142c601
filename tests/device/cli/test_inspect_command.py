"""`tgems-edge inspect`: the contents of model files and of other ONNX files, without onnxruntime."""

import json
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tgems_edge.cli import app
from tgems_edge.model_file.card import Accuracy, Gate, Quantisation, Resizing
from tgems_edge.model_file.default import built_in_model
from tgems_edge.model_file.onnx_file import read_header
from tgems_edge.runtime.classifier import load


def inspect(*arguments):
    """Return the finished command; an exception other than the command's exit fails the test."""
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def rows(colour_model):
    """rows(card): return the shown texts by name, with wrapped lines joined."""

    def rows(card):
        done = inspect(colour_model(card))
        assert (done.exit_code, done.stderr) == (0, "")
        shown = {}
        for line in done.stdout.splitlines()[1:]:
            if line[:1].strip():
                name, _, text = line.partition("  ")
                shown[name] = text.strip()
            elif line:
                shown[name] += f" {line.strip()}"
        return shown

    return rows


class TestJson:
    def test_it_is_the_header_the_card_and_the_digest(self):
        done = inspect("--json")
        assert (done.exit_code, done.stderr) == (0, "")
        (line,) = done.stdout.splitlines()
        found = json.loads(line)
        header, card = read_header(built_in_model()), load(built_in_model()).card
        assert found.keys() == {"file", "bytes", "header", "schema", "card", "digest_holds"}
        assert found["schema"] == card.schema
        assert (found["file"], found["bytes"]) == (str(built_in_model()), built_in_model().stat().st_size)
        assert found["digest_holds"] is True
        assert found["card"] == json.loads(card.to_json())
        assert found["header"]["operators"] == dict(header.operators)
        assert found["header"]["weights"]["int8"]["parameters"] == header.weights["int8"].parameters
        assert (found["header"]["ir_version"], found["header"]["opsets"]) == (8, {"": 18})
        assert found["header"]["metadata"].keys() == header.metadata.keys() - {"tgems"}

    def test_a_file_of_another_origin_has_no_card(self, colour_model):
        done = inspect(colour_model(None), "--json")
        found = json.loads(done.stdout)
        assert done.exit_code == 1
        assert found["card"] is found["digest_holds"] is None
        assert found["header"]["operators"]["ReduceMean"] == 1


class TestText:
    def test_no_line_is_wider_than_a_terminal(self):
        lines = inspect().stdout.splitlines()
        assert lines[0] == str(built_in_model())
        assert max(map(len, lines[1:])) <= 80

    def test_a_plain_file(self, rows, colour_card):
        shown = rows(colour_card)
        assert shown == {
            "size": shown["size"],
            "digest": "holds",
            "card": "schema 2",
            "ONNX": "IR version 8, opset 18",
            "classes": "3: red, green, blue",
            "not trained": "blue",
            "prompts": "1: a photo of {}.",
            "encoder": "colours",
            "exits": "layer 4, class token, T-GEM, K 2",
            "precision": "fp32",
            "input": "pixels, uint8 (B, 6, 10, 3)",
            "preprocessing": "resized to 6x10 without keeping the aspect ratio, bilinear; mean 0 0 0, "
            "std 1 1 1; colour profiles ignored",
            "calibration": "none",
            "accuracy": "not measured",
            "parity": "rates within 0.0e+00 of PyTorch's, 100.0% equal labels on 3 pictures (plain colours)",
            "licence": "code: Apache-2.0",
            "made with": "tgems-edge 0.1.0",
            "operators": shown["operators"],
            "weights": "float32 10 in 40 bytes; int64 4 in 4 bytes",
        }
        assert "ReduceMean 1" in shown["operators"]

    def test_a_calibrated_and_measured_file(self, rows, calibrated_card):
        shown = rows(replace(calibrated_card, accuracy=Accuracy(0.712, 2500, "ef" * 32, 0.034, {}, {})))
        assert shown["calibration"] == (
            "200 pictures; temperature 1, coverage 0.8, 0.9, 0.95, 0.99, reject 0.01, 0.05, 0.1, 0.2"
        )
        assert shown["accuracy"] == "71.2% of 2500 pictures, calibration error 3.4%"

    def test_an_int8_file(self, rows, colour_card):
        gate = Gate(2500, "ef" * 32, 0.28, 1.44)
        made = Quantisation("static", "x86", "entropy", 100, True, ("patches", "block 1"), gate)
        shown = rows(replace(colour_card, precision="int8", quantisation=made))
        assert shown["quantization"] == (
            "static, for x86, entropy ranges of 100 pictures, equalized, not quantized: patches, block 1"
        )
        assert shown["INT8 against fp32"] == "-0.3 points, 1.4% of labels flipped on 2500 pictures"
        at_run_time = Quantisation("dynamic", "generic", None, 0, False, (), None)
        shown = rows(replace(colour_card, precision="int8", quantisation=at_run_time))
        assert shown["quantization"] == "dynamic, for generic"
        assert shown["INT8 against fp32"] == "not measured"

    def test_a_file_that_resizes_itself(self, rows, colour_card):
        shown = rows(replace(colour_card, input="image", resizing=Resizing(64, 0.99987, 2, 1.0)))
        assert shown["input"] == "image, uint8 (H, W, 3), resized inside"
        assert shown["resizing"] == "99.99% of pixels within 1 of 255 of Pillow's, 100.0% equal labels"

    @pytest.mark.parametrize(
        ("mode", "words"),
        [
            ("shortest", "shortest edge resized, centre 6x10 cropped, bicubic; "),
            ("longest", "longest edge resized, padded to 6x10 with 7, bilinear; "),
        ],
    )
    def test_the_other_ways_to_resize(self, rows, colour_card, mode, words):
        made = replace(colour_card.preprocessing, resize_mode=mode, fill_color=7)
        assert rows(replace(colour_card, preprocessing=made))["preprocessing"].startswith(words)

    def test_many_classes_are_counted_and_some_named(self, rows, colour_card):
        names = tuple(f"class {number}" for number in range(1000))
        (sample,) = colour_card.samples
        card = replace(colour_card, classes=names, samples=(replace(sample, rates=(0.0,) * 1000),))
        assert rows(card)["classes"].endswith("class 18, class 19, and 980 more")

    def test_several_exits_are_a_table(self, colour_model, dynamic_card):
        early, late = dynamic_card.exits
        done = inspect(colour_model(replace(dynamic_card, exits=(early, replace(late, pool="mean")))))
        assert done.exit_code == 0
        lines = done.stdout.splitlines()
        table = lines[lines.index(next(line for line in lines if line.startswith("exit  "))) :]
        assert [line.split(maxsplit=5) for line in table[1:3]] == [
            ["2", "75.0%", "25%", "0.600", "2", "class token"],
            ["5", "25.0%", "100%", "-", "2", "mean over the positions"],
        ]
        assert table[3] == "no exit 3: nothing would leave there"
        words = " ".join(done.stdout.split())
        assert "layers 2, 5, T-GEM; on average 44% of the full tower's operations" in words

    def test_another_head(self, rows, colour_card):
        ssa = replace(colour_card.last_exit, head_kind="ssa")
        assert rows(replace(colour_card, exits=(ssa,)))["exits"].startswith("layer 4, class token, SSA head")


class TestFindings:
    def test_an_onnx_file_of_another_origin_shows_its_header(self, colour_model):
        path = colour_model(None)
        done = inspect(path)
        assert done.exit_code == 1
        assert "IR version 8, opset 18" in done.stdout
        assert "classes" not in done.stdout and "digest" not in done.stdout
        assert done.stderr == (
            f"error: {path}: no card, so `tgems-edge export` did not make this file; give a model file\n"
        )

    def test_a_file_that_has_changed_is_shown_all_the_same(self, colour_model, colour_card):
        path = colour_model(colour_card)
        path.write_bytes(path.read_bytes().replace(b"exit_layer", b"exit_later"))
        done = inspect(path)
        assert done.exit_code == 1
        assert ["digest", "does", "not", "hold"] in [line.split() for line in done.stdout.splitlines()]
        assert "changed since it was exported" in done.stderr
        assert json.loads(inspect(path, "--json").stdout)["digest_holds"] is False

    @pytest.mark.parametrize(
        ("card", "reason"),
        [("{", "its card is broken"), (json.dumps({"schema": 3}), "pip install --upgrade tgems-edge")],
    )
    def test_a_card_that_cannot_be_read_is_one_line(self, colour_model, card, reason):
        done = inspect(colour_model(card))
        assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert reason in done.stderr

    def test_a_file_that_is_no_model_is_one_line(self, tmp_path):
        (tmp_path / "list.onnx").write_text("milk, bread")
        done = inspect(tmp_path / "list.onnx")
        assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)

    def test_onnxruntime_is_not_needed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        assert inspect().exit_code == 0

    def test_the_default_is_that_of_classify(self, colour_model, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        colour_model(name="model.onnx")
        assert inspect().stdout.startswith("model.onnx\n")
        monkeypatch.setenv("TGEMS_MODEL", str(built_in_model()))
        assert inspect().stdout.startswith(str(built_in_model()))


def test_help_has_an_example():
    assert "tgems-edge inspect model.onnx" in inspect("--help").stdout
