"""`tgems-edge classify`: its results, its messages and its exit codes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tgems_edge.cli import app
from tgems_edge.model_file.card import Quantisation

KEYS = {
    *("image", "model", "label", "index", "rate", "probability"),
    *("top", "set", "coverage", "exit_layer", "milliseconds"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pictures(draw, folder):
    """Return four pictures in a tree that has other files too."""
    names = ["b.png", "a.jpg", "sub/c.webp", "sub/deep/d.bmp"]
    (folder / "photos/sub/deep").mkdir(parents=True)
    for seed, name in enumerate(names):
        draw(seed, 40, 30).save(folder / "photos" / name)
    for name in ("notes.txt", ".hidden.png", "sub/model.onnx"):
        (folder / "photos" / name).write_text("not a picture")
    return [f"photos/{name}" for name in sorted(names)]


@pytest.fixture
def classify():
    """classify(*arguments): run the command; an exception other than its exit fails the test."""

    def classify(*arguments, stdin=None):
        return CliRunner().invoke(
            app, ["classify", *map(str, arguments)], input=stdin, catch_exceptions=False
        )

    return classify


def rows(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def in_a_process(*arguments, **environment):
    """Return the finished command, started in a process as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "tgems_edge", "classify", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **environment},
    )


class TestProcess:
    def test_one_picture_is_one_row(self, pictures, classifier):
        done = in_a_process("photos/a.jpg")
        label = classifier.classify("photos/a.jpg").label
        assert done.returncode == 0
        assert done.stdout.decode().startswith(f"photos/a.jpg  {label} ")
        assert len(done.stdout.splitlines()) == 1
        assert done.stderr.startswith(b"model: built-in demo file (")

    def test_an_error_is_one_line_and_no_traceback(self):
        done = in_a_process("a.jpg", "--model", "missing.onnx")
        assert done.returncode == 2
        assert done.stdout == b""
        assert done.stderr.startswith(b"error: missing.onnx: ")
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize(
        "environment",
        [
            {"LC_ALL": "C"},
            {"PYTHONIOENCODING": "ascii"},
            {"PYTHONIOENCODING": "cp1252"},
        ],
        ids=str,
    )
    def test_names_beyond_the_terminals_encoding_do_not_crash_it(
        self, colour_model, colour_card, environment
    ):
        model = colour_model(replace(colour_card, classes=("rouge é", "猫", "🟦")))
        Image.new("RGB", (8, 8), "red").save("été 猫.png")
        done = in_a_process("été 猫.png", "--model", model, **environment)
        assert done.returncode == 0
        assert b"rouge" in done.stdout
        assert b"Traceback" not in done.stderr

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file name is Unicode")
    def test_a_file_name_that_is_no_utf_8_does_not_crash(self, draw):
        draw(1, 8, 8).save("picture.png")
        os.rename("picture.png", b"\xff.png")  # noqa: PTH104
        done = in_a_process(".", PYTHONIOENCODING="utf-8")
        assert done.returncode == 0
        assert b"Traceback" not in done.stderr

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
    def test_a_full_disk_is_one_line(self, pictures):
        command = [sys.executable, "-m", "tgems_edge", "classify", "--quiet", pictures[0]]
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1

    def test_a_reader_that_goes_away_ends_it_quietly(self, pictures):
        command = [sys.executable, "-m", "tgems_edge", "classify", "--quiet", *pictures * 20]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout.readline().startswith(pictures[0].encode())
            process.stdout.close()
            assert process.stderr.read() == b""


class TestJson:
    def test_a_line_has_the_keys_and_types_of_the_interface(self, classify, pictures, classifier):
        done = classify(pictures[0], "--json")
        (row,) = rows(done)
        expected = classifier.classify(pictures[0])
        assert done.exit_code == 0
        assert row.keys() == KEYS
        assert row["image"] == pictures[0]
        assert row["model"] == f"sha256:{classifier.card.file_sha256}"
        assert (row["label"], row["index"]) == (expected.label, expected.top1)
        assert row["rate"] == pytest.approx(expected.rates.min(), abs=1e-4)
        assert row["exit_layer"] == classifier.card.last_exit.layer
        assert row["milliseconds"].keys() == {"preprocess", "inference", "postprocess"}
        assert all(isinstance(value, float) for value in row["milliseconds"].values())
        assert len(row["top"]) == 3
        assert row["top"][0] == {key: row[key] for key in ("label", "index", "rate", "probability")}

    def test_what_needs_calibration_is_null_without_it(self, classify, pictures, colour_model):
        (row,) = rows(classify(pictures[0], "--json", "--model", colour_model()))
        assert row["probability"] is row["set"] is row["coverage"] is None
        assert [entry["probability"] for entry in row["top"]] == [None] * 3

    def test_a_calibrated_model_states_probabilities_and_sets(self, classify, colour_model, calibrated_card):
        Image.new("RGB", (8, 8), "yellow").save("sun.png")
        model = colour_model(calibrated_card)
        (row,) = rows(classify("sun.png", "--json", "--model", model))
        assert row.keys() == KEYS
        assert sum(entry["probability"] for entry in row["top"]) == pytest.approx(1)
        assert (row["set"], row["coverage"]) == (["red", "green"], 0.9)

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--coverage", "0.8"], ["red"]),
            (["--coverage", "0.99"], ["red", "green", "blue"]),
            (["--sets", "adaptive"], ["red"]),
            (["--sets", "adaptive", "--coverage", "0.95"], ["red", "green"]),
            (["--top", "1"], ["red", "green"]),
        ],
        ids=str,
    )
    def test_coverage_and_method_of_the_sets_are_chosen(
        self, classify, colour_model, calibrated_card, options, expected
    ):
        Image.new("RGB", (8, 8), "yellow").save("sun.png")
        (row,) = rows(classify("sun.png", "--json", "--model", colour_model(calibrated_card), *options))
        assert row["set"] == expected

    def test_an_unknown_picture_keeps_its_rate_top_and_set(self, classify, colour_model, calibrated_card):
        Image.new("RGB", (8, 8), "black").save("night.png")
        model = colour_model(calibrated_card)
        (known,) = rows(classify("night.png", "--json", "--model", model))
        (unknown,) = rows(classify("night.png", "--json", "--model", model, "--reject", "0.05"))
        changed = ("label", "index", "probability")
        assert [known[key] for key in changed] == ["red", 0, pytest.approx(1 / 3)]
        assert [unknown[key] for key in changed] == ["unknown", None, None]
        for key in KEYS - {*changed, "milliseconds"}:
            assert unknown[key] == known[key]

    def test_a_known_picture_is_not_rejected(self, classify, colour_model, calibrated_card):
        Image.new("RGB", (8, 8), "blue").save("sea.png")
        model = colour_model(calibrated_card)
        (row,) = rows(classify("sea.png", "--json", "--model", model, "--reject", "0.05"))
        assert row["label"] == "blue"

    def test_names_are_written_as_they_are(self, classify, colour_model, colour_card):
        Image.new("RGB", (8, 8), "blue").save("bleu é.png")
        model = colour_model(replace(colour_card, classes=("a", "b", "猫")))
        done = classify("bleu é.png", "--json", "--model", model)
        assert '"image": "bleu é.png"' in done.stdout
        assert '"label": "猫"' in done.stdout

    def test_an_unreadable_picture_is_a_line_with_its_error(self, classify, pictures):
        done = classify("photos/notes.txt", pictures[0], "--json")
        broken, fine = rows(done)
        assert broken.keys() == {"image", "error"}
        assert broken["image"] == "photos/notes.txt"
        assert "not a picture" in broken["error"]
        assert fine.keys() == KEYS
        assert done.exit_code == 1


class TestTable:
    def test_rates_are_shown_without_calibration_and_per_cent_with_it(
        self, classify, colour_model, calibrated_card
    ):
        Image.new("RGB", (8, 8), "blue").save("sea.png")
        plain = classify("sea.png", "--model", colour_model(), "--top", 1)
        assert plain.stdout == "sea.png  blue (rate -1.000)\n"
        calibrated = colour_model(calibrated_card)
        assert classify("sea.png", "--model", calibrated).stdout == (
            "sea.png  blue 79%   then red 11%, green 11%\n"
        )

    @pytest.mark.parametrize(
        ("colour", "options", "expected"),
        [
            ("yellow", [], "red 47% or green 47%   then blue 6%"),
            ("yellow", ["--top", "2"], "red 47% or green 47%"),
            ("yellow", ["--top", "1"], "red 47% or 1 more"),
            ("yellow", ["--coverage", "0.99"], "red 47% or green 47% or blue 6%"),
            ("yellow", ["--coverage", "0.99", "--top", "1"], "red 47% or 2 more"),
            ("yellow", ["--coverage", "0.8"], "red 47%   then green 47%, blue 6%"),
            ("yellow", ["--reject", "0.05"], "red 47% or green 47%   then blue 6%"),
            ("black", ["--reject", "0.05"], "unknown (nearest red 33%)"),
        ],
        ids=str,
    )
    def test_a_set_is_joined_by_or_and_what_follows_comes_then(
        self, classify, colour_model, calibrated_card, colour, options, expected
    ):
        Image.new("RGB", (8, 8), colour).save("x.png")
        done = classify("x.png", "--model", colour_model(calibrated_card), *options)
        assert done.stdout == f"x.png  {expected}\n"

    def test_what_or_means_is_said_once(self, classify, pictures, colour_model, calibrated_card):
        done = classify(*pictures, "--model", colour_model(calibrated_card), "--coverage", "0.95")
        said = 'the classes joined by "or" contain the true class for at least 95% of pictures'
        assert done.stderr.count(said) == 1

    @pytest.mark.parametrize(("top", "shown"), [(1, 1), (2, 2), (3, 3), (99, 10)])
    def test_top_says_how_many_classes_are_shown(self, classify, pictures, top, shown):
        assert classify(pictures[0], "--top", top).stdout.count("%") == shown
        (row,) = rows(classify(pictures[0], "--top", top, "--json"))
        assert len(row["top"]) == shown

    def test_names_are_padded_to_the_longest(self, classify, pictures):
        lines = classify("photos").stdout.splitlines()
        width = max(map(len, pictures))
        assert all(line[width : width + 2] == "  " and line[width + 2] != " " for line in lines)


class TestSeveralExits:
    @pytest.fixture
    def sky(self):
        for name, colour in {"noon": "blue", "dusk": "navy", "night": "black", "dawn": "red"}.items():
            Image.new("RGB", (8, 8), colour).save(f"{name}.png")
        return ["noon.png", "dusk.png", "night.png", "dawn.png"]

    @pytest.mark.parametrize("batch", [1, 3, 4])
    def test_the_exit_of_each_picture_stands_behind_its_name(self, classify, sky, dynamic_model, batch):
        done = classify(*sky, "--model", dynamic_model(), "--reject", "0.05", "--batch", batch)
        assert done.stdout.splitlines() == [
            "noon.png   exit 2  blue 79%   then red 11%, green 11%",
            "dusk.png   exit 5  blue 58%   then red 21%, green 21%",
            "night.png  exit 5  unknown (nearest red 33%)",
            "dawn.png   exit 2  red 79%   then green 11%, blue 11%",
        ]

    def test_exits_are_aligned(self, classify, sky, dynamic_model, dynamic_card):
        early, late = dynamic_card.exits
        model = dynamic_model(replace(dynamic_card, exits=(early, replace(late, layer=12))))
        assert classify("noon.png", "--model", model).stdout.startswith("noon.png  exit  2  blue 79%")

    @pytest.mark.parametrize("style", [[], ["--json"]], ids=str)
    def test_how_many_left_where_is_said_in_the_end(self, classify, sky, dynamic_model, style):
        done = classify(*sky, sky[0], "--model", dynamic_model(), *style)
        assert "exits: 3 at 2, 2 at 5" in done.stderr.splitlines()
        assert "exits" not in done.stdout

    def test_an_exit_that_nothing_took_is_counted_too(self, classify, sky, dynamic_model):
        assert "exits: 1 at 2, 0 at 5\n" in classify(sky[0], "--model", dynamic_model()).stderr

    def test_quiet_leaves_standard_error_empty(self, classify, sky, dynamic_model):
        assert classify(*sky, "--model", dynamic_model(), "--quiet").stderr == ""

    def test_a_line_of_json_has_the_exit_and_no_other_keys(self, classify, sky, dynamic_model):
        found = rows(classify(*sky, "--json", "--model", dynamic_model()))
        assert [row["exit_layer"] for row in found] == [2, 5, 5, 2]
        assert all(row.keys() == KEYS for row in found)

    def test_a_static_file_says_nothing_of_exits(self, classify, pictures):
        done = classify(*pictures)
        assert "exit" not in done.stdout
        assert "exits" not in done.stderr

    def test_a_block_that_is_no_exit_of_the_card_is_one_line(
        self, classify, sky, dynamic_model, dynamic_card
    ):
        early, late = dynamic_card.exits
        model = dynamic_model(replace(dynamic_card, exits=(replace(early, layer=3), late)))
        done = classify(*sky, "--model", model, "--quiet")
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
        assert done.stderr.startswith(f"error: {model}: the graph gave an answer from block 2")


class TestPictures:
    def test_a_folder_stands_for_its_pictures_sorted(self, classify, pictures):
        assert [row["image"] for row in rows(classify("photos", "--json"))] == pictures

    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("photos/*.jpg", ["photos/a.jpg"]),
            ("photos/[ab].*", ["photos/a.jpg", "photos/b.png"]),
            ("photos/**/*.bmp", ["photos/sub/deep/d.bmp"]),
        ],
    )
    def test_a_glob_stands_for_its_matches(self, classify, pictures, pattern, found):
        assert [row["image"] for row in rows(classify(pattern, "--json"))] == found

    @pytest.mark.parametrize("argument", [".", "*.png"])
    def test_pictures_of_one_argument_are_sorted(self, classify, folder, argument):
        names = [f"{number * 7 % 30}.png" for number in range(30)]
        for name in names:
            (folder / name).touch()
        assert [row["image"] for row in rows(classify(argument, "--json"))] == sorted(names)

    def test_a_file_named_like_a_glob_is_that_file(self, classify, draw):
        draw(1, 8, 8).save("[ab].png")
        assert [row["image"] for row in rows(classify("[ab].png", "--json"))] == ["[ab].png"]

    def test_a_dash_is_standard_input(self, classify, pictures, folder, classifier):
        data = (folder / pictures[0]).read_bytes()
        (row,) = rows(classify("-", "--json", stdin=data))
        assert (row["image"], row["label"]) == ("-", classifier.classify(data).label)

    def test_arguments_keep_their_order(self, classify, pictures):
        done = classify(pictures[3], "photos/*.jpg", pictures[1], "--json")
        assert [row["image"] for row in rows(done)] == [pictures[3], "photos/a.jpg", pictures[1]]

    @pytest.mark.parametrize("batch", [2, 3, 100])
    def test_a_batch_changes_nothing(self, classify, pictures, batch):
        names = [pictures[0], "photos/notes.txt", *pictures[1:]]
        alone, together = classify(*names), classify(*names, "--batch", batch)
        assert (together.stdout, together.exit_code) == (alone.stdout, 1)


class TestLeftOut:
    def test_what_a_folder_holds_besides_is_one_line(self, classify, pictures):
        said = "left out: 1 hidden, 2 other files (.onnx, .txt)\n"
        assert classify("photos").stderr.startswith(said)
        assert "left out" not in classify("photos", "--quiet").stderr

    def test_a_suffix_without_decoder_is_said_with_quiet_too(self, classify, pictures, folder):
        (folder / "photos" / "scan.PSD").touch()
        done = classify("photos", "--quiet")
        assert "warning: left out: 1 .psd (convert to JPEG or PNG), 1 hidden" in done.stderr
        assert done.exit_code == 0

    def test_a_folder_of_nothing_else_says_what_it_has(self, classify, folder):
        (folder / "scans").mkdir()
        (folder / "scans" / "a.psd").touch()
        done = classify("scans")
        assert (done.exit_code, done.stdout) == (2, "")
        assert "scans: a folder without pictures; it has 1 .psd (convert to JPEG or PNG)" in done.stderr

    @pytest.mark.parametrize("argument", ["photos", "photos/*"])
    def test_a_name_that_is_no_utf8_is_classified(self, pictures, folder, argument):
        name = os.fsdecode(b"photos/caf\xe9.png")
        try:
            (folder / name).write_bytes((folder / "photos/b.png").read_bytes())
        except OSError:
            pytest.skip("this file system refuses names that are no UTF-8")
        (folder / "photos/notes.txt").unlink()
        done = in_a_process(argument, "--quiet")
        assert (done.returncode, done.stderr) == (0, b"") and b"/caf" in done.stdout

    def test_a_pipe_is_refused_and_never_opened(self, classify, pictures):
        os.mkfifo("photos/pipe.jpg")
        done = classify("photos/pipe.jpg")
        assert (done.exit_code, done.stdout) == (2, "")
        assert "photos/pipe.jpg: a device, a pipe or a socket, not a file" in done.stderr
        assert "1 device, pipe or socket (pipe.jpg)" in classify("photos").stderr


class TestFailures:
    def test_one_unreadable_picture_does_not_stop_the_others(self, classify, pictures):
        done = classify(*pictures[:2], "photos/notes.txt", *pictures[2:])
        assert [line.split()[0] for line in done.stdout.splitlines()] == pictures
        assert "error: photos/notes.txt: not a picture" in done.stderr
        assert "1 of 5 pictures could not be read" in done.stderr
        assert done.exit_code == 1

    def test_a_missing_picture_is_a_finding(self, classify):
        done = classify("missing.jpg", "--quiet")
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr == "error: missing.jpg: no such file\n"

    def test_quiet_leaves_standard_error_empty(self, classify, pictures):
        assert classify(*pictures, "--quiet").stderr == ""

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["empty"], "empty: a folder without pictures"),
            (["*.nothing"], "matches no file"),
            (["a.png", "--model", "missing.onnx"], "no such model file"),
            (["a.png", "--model", "empty"], "a folder, not a model file"),
            (["a.png", "--model", "a.png"], "not an ONNX file"),
            (["a.png", "--provider", "TPU"], "no provider 'TPU'"),
            (["a.png", "--top", "0"], "--top"),
            (["a.png", "--batch", "0"], "--batch"),
            (["a.png", "--threads", "0"], "--threads"),
            (["a.png", "--threads", "many"], "--threads"),
            (["a.png", "--nonsense"], "--nonsense"),
            ([], "IMAGE"),
        ],
        ids=str,
    )
    def test_bad_usage_says_what_is_wrong(self, classify, draw, folder, arguments, reason):
        (folder / "empty").mkdir()
        draw(1, 8, 8).save("a.png")
        done = classify(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert reason in done.stderr

    @pytest.mark.parametrize(
        "options", [["--coverage", "0.9"], ["--sets", "adaptive"], ["--reject", "0.05"]], ids=str
    )
    @pytest.mark.parametrize("style", [[], ["--json"]], ids=str)
    def test_what_needs_calibration_is_refused_without_it(
        self, classify, pictures, colour_model, options, style
    ):
        done = classify(*pictures, "--model", colour_model(), *options, *style)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("error: the file was exported without calibration, so it has no ")
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["--coverage", "0.85"], "error: coverage 0.85: the file has 0.8, 0.9, 0.95, 0.99; choose one"),
            (["--coverage", "nan"], "error: coverage nan: the file has "),
            (["--coverage", "0"], "error: coverage 0: the file has "),
            (["--coverage", "90"], "error: coverage 90: the file has "),
            (["--reject", "0.5"], "error: reject 0.5: the file has 0.01, 0.05, 0.1, 0.2; choose one"),
            (["--reject", "nan"], "error: reject nan: the file has "),
            (["--sets", "smallest"], "--sets"),
            (["--coverage", "most"], "--coverage"),
        ],
        ids=str,
    )
    def test_a_level_the_file_does_not_have_is_refused(
        self, classify, pictures, colour_model, calibrated_card, options, reason
    ):
        done = classify(*pictures, "--model", colour_model(calibrated_card), *options)
        assert (done.exit_code, done.stdout) == (2, "")
        assert reason in done.stderr

    def test_a_name_with_a_line_break_is_still_one_line(self, classify, folder):
        (folder / "two\nlines.png").write_text("not a picture")
        assert len(classify("two\nlines.png", "--quiet").stderr.splitlines()) == 1

    def test_a_missing_onnxruntime_says_what_to_install(self, classify, draw, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        done = classify("a.png")
        assert done.exit_code == 2
        assert "pip install 'tgems-edge[cpu]'" in done.stderr


def test_the_model_in_use_is_named(classify, pictures, colour_model):
    assert "model: built-in demo file (" in classify(pictures[0]).stderr
    colour_model(name="model.onnx")
    assert "model: model.onnx (3 classes, exit 4 of colours, " in classify(pictures[0]).stderr


def test_the_exits_and_the_precision_of_the_model_in_use_are_named(
    classify, pictures, dynamic_model, dynamic_card
):
    done = classify(pictures[0], "--model", dynamic_model())
    assert (
        "model: " in done.stderr and "dynamic.onnx (3 classes, exits 2, 5 of colours, 0.0 MB)" in done.stderr
    )
    made = Quantisation("dynamic", "generic", None, 0, False, (), None)
    small = dynamic_model(replace(dynamic_card, precision="int8", quantisation=made))
    assert "(3 classes, exits 2, 5 of colours, int8, " in classify(pictures[0], "--model", small).stderr
