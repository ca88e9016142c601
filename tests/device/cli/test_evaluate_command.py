"""`tgems-edge evaluate`: its measurements, its errors and its exit codes."""

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tgems_edge.cli import app
from tgems_edge.model_file.card import Calibration, Gate, Quantisation
from tgems_edge.progress import Reporter
from tgems_edge.runtime import evaluation
from tgems_edge.runtime.classifier import load
from tgems_edge.sources.data import read_labelled

KEYS = {
    *("model", "data", "images", "unreadable", "accuracy", "top", "calibration_error", "sets", "rejected"),
    *("classes", "confusion", "confusions", "exit_layers", "exits", "operations", "milliseconds"),
}
# Yellow is as red as green, and equal rates go to the first class.
PICTURES = {
    "red": ["red", "red", "red", "yellow"],
    "green": ["lime", "lime", "yellow", "blue"],
    "blue": ["blue", "black"],
}
CONFUSION = [[4, 0, 0], [1, 2, 1], [1, 0, 1]]

# Maroon, navy and black are dark, and take the late exit of a dynamic file.
SKIES = {
    "red": ["red", "red", "maroon", "yellow"],
    "green": ["lime", "yellow", "navy"],
    "blue": ["blue", "black"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def paint(folder):
    """paint(root, pictures): write a folder of plain pictures for each class."""

    def paint(root, pictures):
        for name, colours in pictures.items():
            (folder / root / name).mkdir(parents=True)
            for number, colour in enumerate(colours):
                Image.new("RGB", (8, 8), colour).save(folder / root / name / f"{number}.png")
        return root

    return paint


@pytest.fixture
def pictures(paint):
    return paint("pictures", PICTURES)


def evaluate(*arguments):
    """Return the finished command, started in a process as a user does."""
    command = [sys.executable, "-m", "tgems_edge", "evaluate", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, "COLUMNS": "80"})
    assert "Traceback" not in done.stderr
    return done


def measured(*arguments):
    done = evaluate(*arguments, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    return json.loads(line)


class TestJson:
    def test_a_calibrated_file_has_every_figure(self, pictures, colour_model, calibrated_card):
        path = colour_model(calibrated_card)
        found = measured(pictures, "--model", path)
        assert found.keys() == KEYS
        assert found["model"] == f"sha256:{load(path).card.file_sha256}"
        assert (found["images"], found["unreadable"]) == (10, 0)
        assert (found["accuracy"], found["top"]) == (0.7, {"1": 0.7, "2": 0.8})
        assert found["confusion"] == CONFUSION
        assert found["confusions"] == [
            {"label": "green", "taken_for": "red", "images": 1},
            {"label": "green", "taken_for": "blue", "images": 1},
            {"label": "blue", "taken_for": "red", "images": 1},
        ]
        assert found["exit_layers"] == {"4": 10}
        assert found["exits"] is found["operations"] is None
        assert found["rejected"] == {"0.01": 0.1, "0.05": 0.1, "0.1": 0.1, "0.2": 0.1}
        assert found["classes"] == [
            {"label": "red", "images": 4, "accuracy": 1.0, "coverage": 1.0},
            {"label": "green", "images": 4, "accuracy": 0.5, "coverage": 0.75},
            {"label": "blue", "images": 2, "accuracy": 0.5, "coverage": 0.5},
        ]

    def test_label_sets_are_measured_at_each_coverage_for_both_methods(
        self, pictures, colour_model, calibrated_card
    ):
        sets = measured(pictures, "--model", colour_model(calibrated_card))["sets"]
        assert [(s["method"], s["promised"]) for s in sets] == [
            (method, level) for method in ("threshold", "adaptive") for level in (0.8, 0.9, 0.95, 0.99)
        ]
        # only the best; yellow is red or green; black is anything; everything is anything
        assert [s["measured"] for s in sets[:4]] == [0.7, 0.8, 0.9, 1]
        assert [s["size"] for s in sets[:4]] == [1, 1.2, 1.4, 3]
        for s in sets:
            low, high = s["interval"]
            assert 0 <= low <= s["promised"] <= high <= 1

    def test_the_calibration_error_is_that_of_the_calibrated_probabilities(
        self, pictures, colour_model, calibrated_card
    ):
        # Right: 6 of 7 pictures of one colour (p = 0.787), 1 of 2 yellow (0.468), 0 of 1 black (1/3).
        expected = (abs(6 - 7 * 0.787) + abs(1 - 2 * 0.468) + 1 / 3) / 10
        found = measured(pictures, "--model", colour_model(calibrated_card))
        assert found["calibration_error"] == pytest.approx(expected, abs=1e-3)

    def test_without_calibration_what_needs_it_is_null(self, pictures, colour_model):
        found = measured(pictures, "--model", colour_model())
        assert found.keys() == KEYS
        assert found["calibration_error"] is found["sets"] is found["rejected"] is None
        assert [entry["coverage"] for entry in found["classes"]] == [None] * 3
        assert found["accuracy"] == 0.7

    def test_times_are_milliseconds_of_each_stage(self, pictures, colour_model):
        found = measured(pictures, "--model", colour_model())["milliseconds"]
        assert found.keys() == {"preprocess", "inference", "postprocess"}
        for timing in found.values():
            assert timing.keys() == {"mean", "median", "p90"}
            assert 0 < timing["median"] <= timing["p90"]

    @pytest.mark.parametrize("batch", [3, 100])
    def test_a_batch_changes_nothing_but_the_times(self, pictures, colour_model, calibrated_card, batch):
        model = colour_model(calibrated_card)
        alone, together = (
            measured(pictures, "--model", model),
            measured(pictures, "--model", model, "--batch", batch),
        )
        assert {**alone, "milliseconds": {}} == {**together, "milliseconds": {}}

    def test_folders_may_have_names_of_their_own(self, pictures, folder, colour_model, calibrated_card):
        model = colour_model(calibrated_card)
        expected = measured(pictures, "--model", model)
        first, second, *_ = PICTURES
        (folder / pictures / first).rename(folder / pictures / first.upper())
        (folder / pictures / second).rename(folder / pictures / "n01440764")
        (folder / "names.txt").write_text(f"n01440764\t{second}\n")
        found = measured(pictures, "--model", model, "--classes", "names.txt")
        assert (found["confusion"], found["images"]) == (expected["confusion"], expected["images"])
        refused = evaluate(pictures, "--model", model)
        assert refused.returncode == 2 and "folder 'n01440764' is not among" in refused.stderr

    def test_a_class_without_a_folder_is_still_an_answer(self, paint, colour_model, calibrated_card):
        paint("part", {"green": ["green", "red"], "blue": ["blue"]})
        done = evaluate("part", "--json", "--model", colour_model(calibrated_card))
        found = json.loads(done.stdout)
        assert found["confusion"] == [[0, 0, 0], [1, 1, 0], [0, 0, 1]]
        assert found["classes"][0] == {"label": "red", "images": 0, "accuracy": None, "coverage": None}
        assert "no folder for 1 of the model's classes: red" in done.stderr
        assert done.returncode == 0

    def test_best_classes_are_counted_as_far_as_the_model_has_some(self, draw, folder):
        for seed, name in enumerate(("cat", "dog")):
            (folder / "pets" / name).mkdir(parents=True)
            draw(seed, 32, 32).save(folder / "pets" / name / "1.png")
        assert measured("pets")["top"].keys() == {"1", "2", "3", "5"}


class TestText:
    def test_a_calibrated_file(self, pictures, colour_model, calibrated_card):
        done = evaluate(pictures, "--model", colour_model(calibrated_card))
        assert done.returncode == 0
        assert "accuracy           70.0% of 10 pictures\ntop 2              80.0%\n" in done.stdout
        assert "calibration error  8.9%" in done.stdout
        assert "unknown with --reject  10.0% at 0.01, 10.0% at 0.05" in done.stdout
        assert " 1 green     50.0%       75.0%  1 2 1" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert done.stderr.startswith("model: ")
        assert "classifying: 10/10" in done.stderr

    def test_a_broken_promise_is_marked(self, paint, colour_model, calibrated_card):
        paint("wrong", {"red": ["lime"] * 20, "green": ["red"] * 20})
        done = evaluate("wrong", "--model", colour_model(calibrated_card))
        lines = [line for line in done.stdout.splitlines() if line.startswith("threshold")]
        assert [line.endswith("too low") for line in lines] == [True, True, True, False]

    def test_without_calibration_it_says_how_to_get_it(self, pictures, colour_model):
        done = evaluate(pictures, "--model", colour_model())
        assert "calibration error" not in done.stdout and "set" not in done.stdout
        assert "export it with --data or --calibration" in done.stderr

    def test_of_many_classes_the_worst_and_the_most_confused_are_named(
        self, paint, colour_model, calibrated_card
    ):
        others = tuple(f"shade {number}" for number in range(20))
        sample = replace(calibrated_card.samples[0], rates=(0.0,) * 23)
        card = replace(calibrated_card, classes=("red", "green", "blue", *others), samples=(sample,))
        paint("many", {**PICTURES, **{name: ["blue", "blue", "red"] for name in others}})
        done = evaluate("many", "--model", colour_model(card))
        assert done.returncode == 0
        assert "worst 10 of 23 classes" in done.stdout
        assert "shade 0 mistaken for blue: 2 of 3" in done.stdout
        assert done.stdout.count("mistaken for") == 10
        assert max(map(len, done.stdout.splitlines())) <= 80

    def test_a_matrix_too_wide_for_a_terminal_becomes_a_list(self, paint, colour_model, calibrated_card):
        long = "a colour with a name that leaves no room for a confusion matrix beside it, none at all"
        paint("long", {long: ["red"], "green": ["blue"]})
        card = replace(calibrated_card, classes=(long, "green", "blue"))
        done = evaluate("long", "--model", colour_model(card))
        assert "green mistaken for blue: 1 of 1" in done.stdout


class TestThousandsOfClasses:
    CLASSES = 8000

    @pytest.fixture
    def found(self, paint, colour_model, calibrated_card):
        """found(*options): return the finished command and the peak of memory that Python allocated."""
        others = tuple(f"shade {number}" for number in range(self.CLASSES - 3))
        sample = replace(calibrated_card.samples[0], rates=(0.0,) * self.CLASSES)
        names = ("red", "green", "blue", *others)
        card = replace(calibrated_card, classes=names, samples=(sample,), classes_not_trained=())
        model = colour_model(card)
        paint("thousands", {**PICTURES, **{name: ["blue"] for name in others[:30]}})

        def found(*options):
            tracemalloc.start()
            try:
                done = CliRunner().invoke(app, ["evaluate", "thousands", "--model", str(model), *options])
                return done, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        return found

    def test_json_lists_the_confused_pairs_without_a_matrix(self, found):
        done, memory = found("--json", "--quiet")
        assert done.exit_code == 0, done.stderr
        line = json.loads(done.stdout)
        assert line["confusion"] is None and len(line["classes"]) == self.CLASSES
        assert len(line["confusions"]) == 33
        assert line["confusions"][0] == {"label": "green", "taken_for": "red", "images": 1}
        assert memory < 100e6  # a matrix of 8000 classes takes 512 MB

    def test_text_names_the_worst_and_counts_the_others(self, found):
        done, memory = found()
        assert done.exit_code == 0, done.stderr
        assert "no folder for 7967 of the model's classes: shade 30, " in done.stderr
        assert "and 7962 more" in done.stderr
        assert len(done.stdout.splitlines()) < 50 and memory < 100e6


def test_chunks_change_nothing(pictures, colour_model, calibrated_card, monkeypatch):
    classifier = load(colour_model(calibrated_card), threads=1)
    folder = read_labelled(Path(pictures))
    whole = evaluation.evaluate(classifier, folder, Reporter(quiet=True))
    monkeypatch.setattr(evaluation, "CHUNK", 3)
    parts = evaluation.evaluate(classifier, folder, Reporter(quiet=True))
    for name in ("top", "sets", "rejected", "calibration_error", "exit_layers"):
        assert getattr(parts, name) == getattr(whole, name)
    for name in ("confusions", "class_accuracy", "class_coverage"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


class TestSeveralExits:
    @pytest.mark.parametrize("batch", [1, 4, 100])
    def test_each_exit_has_its_pictures_and_its_accuracy(self, paint, dynamic_model, batch):
        found = measured(paint("skies", SKIES), "--model", dynamic_model(), "--batch", batch)
        assert found.keys() == KEYS
        assert found["exit_layers"] == {"2": 6, "5": 3}
        assert found["exits"] == [
            {
                "layer": 2,
                "title": "2",
                "images": 6,
                "share": pytest.approx(6 / 9),
                "accuracy": pytest.approx(5 / 6),
            },
            {
                "layer": 5,
                "title": "5",
                "images": 3,
                "share": pytest.approx(3 / 9),
                "accuracy": pytest.approx(1 / 3),
            },
        ]
        assert found["operations"] == pytest.approx((6 * 10e6 + 3 * 40e6) / 9)

    def test_only_what_is_strange_for_its_exit_is_rejected(self, paint, dynamic_model):
        found = measured(paint("skies", SKIES), "--model", dynamic_model())
        assert found["rejected"] == dict.fromkeys(("0.01", "0.05", "0.1", "0.2"), pytest.approx(1 / 9))

    def test_as_text(self, paint, dynamic_model):
        done = evaluate(paint("skies", SKIES), "--model", dynamic_model())
        assert (
            "\n\n"
            "exit  pictures  share  accuracy\n"
            "2            6  66.7%     83.3%\n"
            "5            3  33.3%     33.3%\n"
            "operations per picture  20.00 M (50% of exit 5's)\n"
            "\n"
        ) in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80

    def test_an_exit_that_nothing_took_has_no_accuracy(self, paint, dynamic_model):
        paint("noon", {"red": ["red"], "green": ["lime"]})
        late = measured("noon", "--model", dynamic_model())["exits"][1]
        assert late == {"layer": 5, "title": "5", "images": 0, "share": 0.0, "accuracy": None}
        assert "\n5            0    0.0%         -\n" in evaluate("noon", "--model", dynamic_model()).stdout

    def test_many_operations_are_written_in_billions(self, paint, dynamic_model, dynamic_card):
        paint("noon", {"red": ["red"], "green": ["lime"]})
        early, late = dynamic_card.exits
        costly = replace(early, operations=1_234_000_000), replace(late, operations=2_023_000_000)
        model = dynamic_model(replace(dynamic_card, exits=costly))
        assert (
            "operations per picture  1.23 G (61% of exit 5's)\n" in evaluate("noon", "--model", model).stdout
        )

    def test_a_static_file_has_no_table_of_exits(self, pictures, colour_model, calibrated_card):
        done = evaluate(pictures, "--model", colour_model(calibrated_card))
        assert "operations per picture" not in done.stdout


class TestInt8:
    @pytest.mark.parametrize(
        ("gate", "said"),
        [
            (Gate(1250, "ef" * 32, 0.2, 1.1), "-0.2 points, 1.1% of labels flipped on 1250 pictures"),
            (Gate(99, "ef" * 32, -1.0, 0.0), "+1.0 points, 0.0% of labels flipped on 99 pictures"),
            (Gate(99, "ef" * 32, 0.01, 0.0), "+0.0 points, 0.0% of labels flipped on 99 pictures"),
            (None, "not measured"),
        ],
        ids=str,
    )
    def test_what_int8_cost_is_told_from_the_card(self, pictures, colour_model, calibrated_card, gate, said):
        made = Quantisation("static", "x86", "minmax", 100, False, (), gate)
        card = replace(calibrated_card, precision="int8", quantisation=made)
        assert f"\nINT8 against fp32  {said}\n" in evaluate(pictures, "--model", colour_model(card)).stdout

    def test_a_file_in_floating_point_says_nothing_of_it(self, pictures, colour_model, calibrated_card):
        assert "INT8" not in evaluate(pictures, "--model", colour_model(calibrated_card)).stdout


class TestExitCodes:
    def test_an_accuracy_that_is_reached(self, pictures, colour_model):
        done = evaluate(pictures, "--model", colour_model(), "--min-accuracy", 0.7)
        assert done.returncode == 0

    @pytest.mark.parametrize("style", [[], ["--json"]], ids=str)
    def test_an_accuracy_that_is_missed_is_4_after_the_results(self, pictures, colour_model, style):
        done = evaluate(pictures, "--model", colour_model(), "--min-accuracy", 0.71, "--quiet", *style)
        assert done.returncode == 4
        assert done.stderr.startswith("error: accuracy 0.7000 is below --min-accuracy 0.71; ")
        assert len(done.stderr.splitlines()) == 1
        assert "0.7" in done.stdout or "70.0%" in done.stdout

    def test_unreadable_pictures_are_left_out_and_a_finding(self, pictures, folder, colour_model):
        (folder / pictures / "red" / "broken.png").write_text("not a picture")
        done = evaluate(pictures, "--model", colour_model(), "--json")
        found = json.loads(done.stdout)
        assert (found["images"], found["unreadable"], found["accuracy"]) == (10, 1, 0.7)
        assert "broken.png: not a picture" in done.stderr
        assert "1 of 11 pictures could not be read" in done.stderr
        assert done.returncode == 1

    def test_a_missed_accuracy_outweighs_unreadable_pictures(self, pictures, folder, colour_model):
        (folder / pictures / "red" / "broken.png").write_text("not a picture")
        assert evaluate(pictures, "--model", colour_model(), "--min-accuracy", 1).returncode == 4


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["nowhere"], "nowhere: no such folder"),
            (["pictures/red"], "0 class folder; expected at least two"),
            (["pictures", "--model", "missing.onnx"], "no such model file"),
            (["pictures", "--min-accuracy", "80"], "--min-accuracy 80: give a share from 0 to 1"),
            (["pictures", "--min-accuracy", "-0.1"], "--min-accuracy -0.1: give a share from 0 to 1"),
            (["pictures", "--min-accuracy", "nan"], "--min-accuracy nan: give a share from 0 to 1"),
            (["pictures"], "folder 'blue' is not among the model's classes; rename or remove it"),
            (["pictures", "--provider", "TPU"], "no provider 'TPU'"),
            (["pictures", "--min-accuracy", "much"], "--min-accuracy"),
            (["pictures", "--threads", "0"], "--threads"),
            ([], "DATA"),
        ],
        ids=str,
    )
    def test_bad_usage_says_what_is_wrong(self, pictures, arguments, reason):
        done = evaluate(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr

    def test_a_class_without_pictures(self, pictures, folder, colour_model):
        (folder / pictures / "red" / "deep").mkdir()
        for picture in (folder / pictures / "red").glob("*.png"):
            picture.unlink()
        done = evaluate(pictures, "--model", colour_model())
        assert (done.returncode, done.stdout) == (2, "")
        assert "no pictures in this class" in done.stderr

    def test_no_readable_picture(self, folder, colour_model):
        for name in ("red", "green"):
            (folder / "broken" / name).mkdir(parents=True)
            (folder / "broken" / name / "1.png").write_text("not a picture")
        done = evaluate("broken", "--model", colour_model())
        assert (done.returncode, done.stdout) == (2, "")
        assert "error: broken: none of its pictures can be read" in done.stderr

    def test_pictures_that_calibrated_the_file(self, pictures, folder, colour_model, calibrated_card):
        noise = [hashlib.sha256(bytes([i])).digest() for i in range(199)]
        own = hashlib.sha256((folder / pictures / "blue" / "0.png").read_bytes()).digest()
        fitted = calibrated_card.calibration
        tables = fitted.conformal, fitted.conformal_adaptive, fitted.rejection
        card = replace(calibrated_card, calibration=Calibration.of([*noise, own], *tables))
        done = evaluate(pictures, "--model", colour_model(card))
        assert (done.returncode, done.stdout) == (2, "")
        # the folder of green pictures has the same blue picture
        assert (
            "error: pictures: 2 of its pictures, such as blue/0.png, are among those that calib"
            in done.stderr
        )
