"""`tgems-edge bench`: interleaved runs, start-up in child processes, the printed tables, and errors."""

import json
import random
import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tgems_edge.bench import cold_start
from tgems_edge.bench.candidates import Candidate
from tgems_edge.bench.pictures import draw_pictures, pictures_from_folder
from tgems_edge.bench.report import Platform, Quantiles
from tgems_edge.bench.steady_state import run_interleaved
from tgems_edge.cli import app
from tgems_edge.cli.bench_table import warnings
from tgems_edge.errors import DataError, ModelFileError
from tgems_edge.machine import describe, observe
from tgems_edge.model_file.card import Sample
from tgems_edge.model_file.default import built_in_model
from tgems_edge.progress import Reporter

QUIET = Reporter(quiet=True)


def bench(*arguments):
    """Return the finished command; an exception other than the command's exit fails the test."""
    options = ["--seconds", "0.2", "--threads", "1", *map(str, arguments)]
    return CliRunner().invoke(app, ["bench", *options], catch_exceptions=False)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_sample(card, rates):
    """Return a card whose only sample is a noise picture with these rates."""
    return replace(card, samples=(Sample("noise", "1", "cd" * 32, "cd" * 32, rates),))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the report of the built-in file and a copy of it."""
    copy = shutil.copy(built_in_model(), tmp_path_factory.mktemp("models") / "copy.onnx")
    done = bench(built_in_model(), "--model", copy, "--batch", 1, "--batch", 3, "--json", "--quiet")
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    return json.loads(line)


class TestJson:
    def test_it_says_what_was_asked_for(self, report):
        assert report.keys() == {"schema_version", "parameters", "results", "platform"}
        assert report["schema_version"] == 1
        asked = report["parameters"]
        assert (asked["threads"], asked["batch"], asked["seconds"]) == ([1], [1, 3], 0.2)
        assert asked["against"] is asked["provider"] is None
        assert asked["pictures"]["source"] == "drawn"
        assert asked["pictures"]["megapixels"] == pytest.approx(0.3072)

    def test_it_says_on_what_machine(self, report):
        platform = report["platform"]
        assert platform.keys() == {"machine", "before", "after", "versions"}
        assert platform["machine"]["cores"] >= 1
        assert platform["before"].keys() == platform["after"].keys() >= {"governor", "celsius", "throttled"}
        assert platform["versions"].keys() == {"python", "onnxruntime", "tgems-edge", "numpy", "Pillow"}

    def test_files_are_what_their_cards_say(self, report, classifier):
        ours, copy = report["results"]
        assert ours["name"] == "built-in demo file" and copy["name"].endswith("copy.onnx")
        for result in report["results"]:
            assert (result["kind"], result["error"]) == ("model", None)
            assert result["file"]["bytes"] == built_in_model().stat().st_size
            assert result["file"]["card"] == {
                "sha256": classifier.card.file_sha256,
                "encoder": "demo",
                "classes": 10,
                "precision": "int8",
                "exit_layers": [5],
                "accuracy": classifier.card.accuracy.top1,
                "reproduces": True,
            }

    def test_a_start_is_several_processes_and_longer_than_its_parts(self, report):
        for result in report["results"]:
            start = result["start"]
            assert 3 <= start["runs"] <= 10
            for spread in (start["first_label"], start["session"], start["first_run"]):
                assert 0 < spread["least"] <= spread["median"] <= spread["most"]
            parts = start["session"]["least"] + start["first_run"]["least"]
            assert start["first_label"]["least"] > parts

    def test_a_process_of_its_own_tells_its_memory(self, report):
        if not Path("/proc/self/status").exists():
            pytest.skip("the system does not say")
        for result in report["results"]:
            assert 2e7 < result["start"]["peak"] < 3e8
            for case in result["cases"]:
                assert 2e7 < case["memory"]["steady"] <= case["memory"]["peak"] < 3e8

    def test_each_case_has_its_runs_in_full(self, report):
        for result in report["results"]:
            assert [(case["threads"], case["batch"]) for case in result["cases"]] == [(1, 1), (1, 3)]
            for case in result["cases"]:
                assert case["rounds"] >= 3 and case["exits"] is None
                assert case["stages"].keys() == {"decode", "resize", "inference", "postprocess"}
                for times in (case["latency"], *case["stages"].values()):
                    assert list(times) == ["least", "p50", "p90", "p99", "most"]
                    assert times["least"] > 0 and sorted(times.values()) == list(times.values())
                least = sum(times["least"] for times in case["stages"].values())
                assert least <= case["latency"]["least"] + 1e-3
                fastest = 1000 * case["batch"] / case["latency"]["least"]
                assert 0 < case["pictures_per_second"] <= fastest * 1.01

    def test_rounds_are_shared_and_ratios_are_to_the_first(self, report):
        ours, copy = report["results"]
        for one, other in zip(ours["cases"], copy["cases"], strict=True):
            assert one["rounds"] == other["rounds"]
            assert one["times_faster"] is None
            assert other["times_faster"]["than"] == "built-in demo file"
            for ratio in (other["times_faster"]["run"], other["times_faster"]["inference"]):
                assert 0.5 < ratio < 2  # the same file


class TestText:
    def test_a_file_that_cannot_be_measured_keeps_its_row_and_the_others_go_on(
        self, dynamic_model, dynamic_card, folder
    ):
        (folder / "broken.onnx").write_bytes(b"no model")
        wrong = dynamic_model(with_sample(dynamic_card, (0.0, 0.0, -9.0)), name="wrong.onnx")
        right = dynamic_model(with_sample(dynamic_card, (-9.0, 0.0, 0.0)), name="right.onnx")
        done = bench("broken.onnx", wrong.name, right.name)
        assert done.exit_code == 1
        assert "❌ broken.onnx\n" in done.stdout
        # The two cards record different labels for the same noise, so only one can be reproduced.
        assert ("✅ wrong.onnx" in done.stdout) != ("✅ right.onnx" in done.stdout)
        assert " right.onnx, threads 1, batch 1, exit 2" in done.stdout
        words = " ".join(done.stdout.split())
        assert "samples in its card get other labels" in words
        assert "times faster than wrong.onnx" in words
        assert "give --pictures FOLDER" in words
        assert max(map(len, done.stdout.splitlines())) <= 80
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and errors[0].startswith("error: broken.onnx: not an ONNX file")

    def test_one_file_alone(self):
        done = bench("--quiet")
        assert done.exit_code == 0
        assert "✅ built-in demo file" in done.stdout
        assert "faster than" not in done.stdout and "❎" not in done.stdout


class TestPicturesOfYours:
    def test_exits_are_counted_and_pictures_that_cannot_be_read_left_out(
        self, dynamic_model, dynamic_card, folder
    ):
        (folder / "mine").mkdir()
        for number, colour in enumerate(["white", "white", "white", "black"]):
            Image.new("RGB", (40, 30), colour).save(folder / "mine" / f"{number}.png")
        (folder / "mine/broken.jpg").write_bytes(b"no picture")
        done = bench(dynamic_model(dynamic_card), "--pictures", "mine", "--batch", 4, "--batch", 1, "--json")
        assert done.exit_code == 1
        assert done.stderr.count("warning: left out: ") == 1 and "broken.jpg" in done.stderr
        report = json.loads(done.stdout)
        assert report["parameters"]["pictures"]["source"] == "folder"
        assert report["parameters"]["pictures"]["count"] == 4
        together, alone = report["results"][0]["cases"]
        shares = [(exit["layer"], exit["share"]) for exit in together["exits"]]
        assert shares == [(2, 0.75), (5, 0.25)]
        assert [exit["latency"] for exit in together["exits"]] == [None, None]
        assert sum(exit["pictures"] for exit in alone["exits"]) == alone["rounds"]
        for exit in alone["exits"]:
            assert exit["latency"]["p50"] > 0

    @pytest.mark.parametrize("name", ["nothing", "empty"])
    def test_a_folder_without_pictures_is_refused(self, folder, name):
        (folder / "empty").mkdir()
        done = bench("--pictures", name)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"error: {name}: ") and done.stderr.count("\n") == 1


class TestBadInput:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("--seconds", "0"),
            ("--seconds", "nan"),
            ("--seconds", "1e9"),
            ("--against", "half"),
            ("missing.onnx",),
            ("missing.onnx", "gone.onnx"),
            ("--threads", "5000"),
            ("--provider", "abacus"),
        ],
        ids=str,
    )
    def test_it_is_one_line(self, arguments):
        done = bench(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert [line for line in done.stderr.splitlines() if not line.startswith("opening ")] == [
            line for line in done.stderr.splitlines() if line.startswith("error: ")
        ]
        assert done.stderr.count("error: ") == 1

    @pytest.mark.parametrize("option", ["--threads", "--batch"])
    def test_counts_begin_at_one(self, option):
        assert bench(option, "0").exit_code == 2

    def test_against_a_file_that_is_no_tower(self):
        done = bench("--against", built_in_model())
        assert done.exit_code == 2
        assert "not the full tower of an encoder" in done.stderr.splitlines()[-1]

    def test_against_full_without_the_workstation_side_names_what_to_install(self, folder, monkeypatch):
        (folder / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
        monkeypatch.syspath_prepend(folder)
        done = bench("--against", "full")
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1].startswith("error: --against full: ")
        assert "pip install 'tgems-edge[export]'" in done.stderr.splitlines()[-1]

    @pytest.mark.parametrize(
        "encoder", ["local-dir:clip", "hf-hub:some/body", "../clip", "--help", "a; rm b"]
    )
    def test_against_full_does_not_load_what_a_card_names(self, colour_model, colour_card, encoder):
        card = replace(colour_card, encoder=replace(colour_card.encoder, name=encoder))
        done = bench(colour_model(card), "--against", "full")
        assert (done.exit_code, done.stdout) == (2, "")
        said = done.stderr.splitlines()[-1]
        assert "is not loaded automatically; if you trust it: " in said
        assert f"make_tower full {shlex.quote(encoder)} full.onnx" in said


class TestFreshProcesses:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("import os; os.kill(os.getpid(), 4)", "killed (Illegal instruction)"),
            ("raise SystemExit('out of luck')", "out of luck"),
        ],
        ids=["killed", "failed"],
    )
    def test_what_ends_one_ends_nothing_else(self, folder, monkeypatch, body, said):
        (folder / "doomed.py").write_text(body)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(cold_start, "CHILD", "doomed")
        entry = cold_start.MeasuredFile("model", built_in_model(), None)
        with pytest.raises(ModelFileError) as caught:
            cold_start.probe(entry, 1, [])
        assert said in str(caught.value)


class Sleeper(Candidate):
    """A candidate that sleeps for a given time and records its inputs."""

    def __init__(self, seconds):
        self.seconds, self.seen = seconds, []

    def resize(self, picture):
        return np.asarray(picture)

    def infer(self, inputs):
        self.seen.append([array.tobytes() for array in inputs])
        time.sleep(self.seconds)

    def answer(self, outputs):
        return []


class TestInTurn:
    def test_all_see_the_same_pictures_and_the_ratio_is_that_of_their_times(self, folder):
        slow, fast = Sleeper(0.03), Sleeper(0.01)
        runs = run_interleaved([slow, fast], draw_pictures(folder, QUIET), 2, 0.2)
        assert slow.seen == fast.seen and len(slow.seen) > len(runs[0].runs)  # and a warm-up
        assert 2 < runs[1].times_faster(runs[0], "inference") < 3.1
        assert 1 < runs[1].times_faster(runs[0]) < runs[1].times_faster(runs[0], "inference")
        assert runs[0].times_faster(runs[0]) == 1

    def test_three_rounds_are_the_least(self, folder):
        (runs,) = run_interleaved([Sleeper(0)], draw_pictures(folder, QUIET), 1, 1e-6)
        assert len(runs.runs) == 3


class TestFigures:
    def test_a_quantile_is_a_run_that_happened(self):
        seconds = [number / 1000 for number in range(1, 201)]
        random.Random(0).shuffle(seconds)
        assert Quantiles.of(seconds) == Quantiles(1, 100, 180, 198, 200)

    def test_of_few_runs_the_99th_percentile_is_the_slowest(self):
        assert Quantiles.of([0.001, 0.009, 0.002]) == Quantiles(1, 2, 9, 9, 9)

    def test_drawn_pictures_are_the_same_again(self, tmp_path):
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            draw_pictures(tmp_path / name, QUIET)
        one, other = (sorted((tmp_path / name).iterdir()) for name in ("one", "other"))
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
        assert len({path.read_bytes() for path in one}) == len(one) == 8

    def test_pictures_start_over_when_all_were_taken(self, folder, draw):
        for seed in range(3):
            draw(seed, 20, 20).save(folder / f"{seed}.png")
        taken = pictures_from_folder(folder, QUIET).take(7)
        assert sorted(taken[:3]) == sorted(taken[3:6]) and taken[6] == taken[0]

    def test_a_folder_of_unreadable_pictures_is_refused(self, folder):
        (folder / "picture.png").write_bytes(b"no picture")
        with pytest.raises(DataError, match="none of the pictures can be read"):
            pictures_from_folder(folder, QUIET).take(1)


class TestWarnings:
    @pytest.fixture
    def platform(self):
        calm = replace(
            observe(), governor="performance", celsius=50.0, throttled=(), load=0.0, power_mode=None
        )
        return Platform(describe(), calm, calm, {})

    def test_a_calm_machine_has_none(self, platform):
        assert list(warnings(platform)) == []

    def test_a_machine_that_does_not_say_has_none(self, platform):
        silent = replace(platform.before, governor=None, celsius=None, throttled=None, load=None)
        assert list(warnings(replace(platform, before=silent, after=silent))) == []

    @pytest.mark.parametrize(
        ("when", "what", "said"),
        [
            ("after", {"throttled": ("under-voltage",)}, "under-voltage"),
            ("after", {"celsius": 84.0}, "84 °C"),
            ("before", {"governor": "ondemand"}, "the governor is ondemand"),
            ("before", {"load": 1.5}, "load 1.5"),
        ],
        ids=str,
    )
    def test_what_spoils_the_figures_is_one_line(self, platform, when, what, said):
        changed = replace(platform, **{when: replace(getattr(platform, when), **what)})
        (warning,) = warnings(changed)
        assert said in warning
