"""INT8 and dynamic files from the command line: what they are, what they cost, and what is refused."""

import copy
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from tgems_edge import load
from tgems_edge.maths.rates import posterior
from tgems_edge.model_file.onnx_file import read_header
from tgems_edge.sources.data import read_labelled
from tgems_export.exporting import picture_sets, pipeline, pixels
from tgems_export.exporting.exits import DEMO_HEADS, load_exits
from tgems_export.exporting.settings import ExitSettings
from tgems_export.heads.file import load_head_card
from tgems_export.pictures import draw

pytestmark = pytest.mark.slow

NAMES = load_head_card(DEMO_HEADS / "layer-01.safetensors").classes
DRAWN = {"calibrate": range(20), "measure": range(20, 40), "gate": range(100, 200)}  # a class; a gate is 1000
THREE = ("cat", "ship", "truck")
BUDGET = 0.12  # exit 1 takes 0.09 of the full tower's operations, exit 2 takes 0.15


@pytest.fixture(scope="module", autouse=True)
def quick():
    """PyTorch is slow: a few pictures are compared with it, and each graph is exported once."""
    known = {}

    def once(write):
        def written(graph, size, opset):
            digest = hashlib.sha256(repr((write.__name__, graph, size, opset)).encode())
            for name, tensor in graph.state_dict().items():
                digest.update(name.encode() + tensor.numpy().tobytes())
            if (key := digest.digest()) not in known:
                known[key] = write(graph, size, opset)
            return copy.deepcopy(known[key])

        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "DRAWN_PICTURES", 16)
        patch.setattr(pixels, "COMPARED_PICTURES", 32)
        patch.setattr(pipeline, "to_onnx", once(pipeline.to_onnx))
        yield


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Folders of drawn pictures in the demo's classes: near ties, some of which INT8 flips."""
    folders = tmp_path_factory.mktemp("drawn")
    for purpose, numbers in DRAWN.items():
        for label, name in enumerate(NAMES):
            folder = folders / purpose / name
            folder.mkdir(parents=True)
            for number in numbers:
                draw(1000 * label + number, 32 + number, 40).save(folder / f"{number:03d}.bmp")
    return folders


@pytest.fixture(scope="module")
def easy_and_hard(tmp_path_factory):
    """Folders of drawn pictures whose class is what exit 2 says, so that it is right; and a file of names."""
    folders = tmp_path_factory.mktemp("easy-and-hard")
    (folders / "names.txt").write_text("\n".join(THREE))
    (exit_,) = load_exits(ExitSettings((2,), classes=THREE))
    for purpose, first in (("calibrate", 0), ("measure", 200)):
        pictures = [draw(seed, 32 + seed % 200, 40) for seed in range(first, first + 200)]
        images = torch.stack([exit_.encoder.reference_transform(picture) for picture in pictures])
        rates = exit_.head.rates(exit_.encoder.exit_activation(images, 2, exit_.card.pool), exit_.text)
        for number, (picture, label) in enumerate(zip(pictures, rates.argmin(1).tolist(), strict=True)):
            folder = folders / purpose / THREE[label]
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{number:03d}.bmp")
    return folders


@pytest.fixture
def small_gate(monkeypatch):
    """One that takes fewer pictures."""
    monkeypatch.setattr(picture_sets, "GATE_PICTURES", 200)


@pytest.fixture(scope="module")
def flat(fresh_figures, tmp_path_factory):
    """Some of the fresh figures without folders of classes."""
    folder = tmp_path_factory.mktemp("flat")
    for path in sorted(fresh_figures.rglob("*.*"))[::3]:
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    return folder


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "model.onnx"


@pytest.fixture
def export(command, heads, output):
    """export(*options): exit 1 of the heads of the figures, as JSON."""
    return lambda *options: command(
        "export", "--layer", 1, "--head", heads, "--output", output, "-q", "--json", *options
    )


@pytest.fixture
def refused(command, output):
    """refused(message, *options): one line, the exit code, and no file."""

    def refused(message, *options, exit_code=2):
        result = command("export", "--output", output, "--quiet", *options)
        assert result.exit_code == exit_code, result.stderr
        assert result.stdout == ""
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
        assert message in result.stderr
        assert not output.parent.exists()

    return refused


def made(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def operators(path):
    """Count how often each occurs, in branches as well."""
    graphs, found = [onnx.load(path).graph], Counter()
    while graphs:
        for node in graphs.pop().node:
            found[node.op_type] += 1
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found


def classify(command, model, *pictures):
    result = command("classify", *pictures, "--model", model, "--json")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def right(answers):
    """The share of pictures labelled as their folder."""
    return np.mean([answer["label"] == Path(answer["image"]).parent.name for answer in answers])


class TestStatic:
    def test_pictures_without_labels_give_the_ranges_and_nothing_else(
        self, command, export, flat, figures, output
    ):
        report = made(export("--precision", "int8", "--calibration", flat))
        card = load(output).card
        assert (card.precision, report["precision"]) == ("int8", "int8")
        made_how = card.quantisation
        assert (made_how.scheme, made_how.target, made_how.images) == ("static", "generic", 35)
        assert made_how.ranges in ("minmax", "entropy", "percentile")
        assert (made_how.kept, made_how.gate) == ((), None)
        assert report["quantisation"]["ranges"] == made_how.ranges and report["dynamic"] is None
        assert (card.calibration, card.last_exit.calibration, card.accuracy) == (None, None, None)
        assert card.parity.pictures == 16
        assert operators(output)["QuantizeLinear"] and not operators(output)["If"]
        answers = classify(command, output, figures)
        assert right(answers) > 0.95
        assert {answer["probability"] for answer in answers} == {None}

    def test_pictures_with_labels_calibrate_what_the_int8_graph_says(self, export, fresh_figures, output):
        made(export("--precision", "int8", "--calibration", fresh_figures, "--target", "x86-vnni"))
        model = load(output)
        card = model.card
        assert card.calibration.images == 210 and card.accuracy is None
        assert (card.quantisation.target, card.quantisation.images) == ("x86-vnni", 105)
        assert card.quantisation.gate is None
        result = model.classify(fresh_figures / "red_circle" / "00.jpg")
        expected = posterior(result.rates, card.last_exit.k, card.last_exit.temperature)
        np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)

    def test_data_alone_calibrates_and_measures_but_too_few_are_no_gate(
        self, command, heads, fresh_figures, output
    ):
        options = ("--layer", 1, "--head", heads, "--data", fresh_figures, "--output", output, "-q")
        result = command("export", *options, "--precision", "int8")
        assert result.exit_code == 0, result.stderr
        assert "int8      for generic, " in result.stdout
        assert "gate      not measured: it takes 1000 labelled pictures" in result.stdout
        card = load(output).card
        assert card.calibration.images + card.accuracy.images == 210
        assert card.accuracy.top1 > 0.95 and card.quantisation.gate is None

    def test_unlabelled_pictures_and_data_share_the_work(self, export, flat, many_figures, output):
        made(export("--precision", "int8", "--calibration", flat, "--data", many_figures))
        card = load(output).card
        assert card.quantisation.images == 35
        assert card.calibration.images == card.accuracy.images == 255

    def test_whole_pictures_go_in_as_well(self, command, export, flat, figures, output):
        made(export("--precision", "int8", "--calibration", flat, "--input", "image"))
        card = load(output).card
        assert card.input == "image" and card.resizing.pixels_within_1 >= 0.999
        assert right(classify(command, output, figures)) > 0.95

    def test_it_is_a_quarter_of_fp32(self, export, flat, output):
        int8 = made(export("--precision", "int8", "--calibration", flat))["bytes"]
        assert 0.2 < int8 / made(export("--overwrite"))["bytes"] < 0.5


def test_without_pictures_ranges_are_found_at_run_time(command, export, figures, output):
    report = made(export("--precision", "int8-dynamic"))
    assert report["precision"] == "int8"
    made_how = load(output).card.quantisation
    assert (made_how.scheme, made_how.ranges, made_how.images, made_how.gate) == ("dynamic", None, 0, None)
    assert operators(output)["MatMulInteger"] and not operators(output)["QuantizeLinear"]
    assert right(classify(command, output, figures)) > 0.95


class TestGate:
    @pytest.fixture
    def options(self, drawn):
        folders = ("--calibration", drawn / "calibrate", "--data", drawn / "measure")
        return ("--layer", 1, "--precision", "int8", *folders, "--max-accuracy-drop", 10)

    @pytest.mark.parametrize("kind", ["pixels", "image"])
    def test_what_int8_costs_is_in_the_card(self, command, options, drawn, output, kind, small_gate):
        limits = ("--max-label-flips", 20, "--mixed", "none", "--input", kind)
        shown = command("export", *options, *limits, "--output", output)
        assert shown.exit_code == 0, shown.stderr
        gate = load(output).card.quantisation.gate
        measured = read_labelled(drawn / "measure")
        assert (gate.images, gate.data_sha256) == (200, measured.sha256)
        assert 1 < gate.label_flips <= 20 and gate.accuracy_drop <= 10
        assert f"points against fp32 and {gate.label_flips:.1f}% of labels flipped on 200" in shown.stdout
        assert "-0.0" not in shown.stdout
        exact = output.with_name("fp32.onnx")
        made(command("export", "--layer", 1, "--input", kind, "--output", exact, "--json", "-q"))
        pictures = [measured.path(index) for index in range(200)]
        before, after = (
            np.array([model.classify(picture).label for picture in pictures])
            for model in (load(exact), load(output))
        )
        assert 100 * np.mean(before != after) == pytest.approx(gate.label_flips)

    def test_too_many_flips_write_nothing(self, refused, options, drawn):
        limits = ("--max-label-flips", 1, "--data", drawn / "gate", "--mixed", "none")
        message = "of the labels on 1000 pictures (--max-accuracy-drop 10, --max-label-flips 1); nothing was"
        refused(message, *options, *limits, exit_code=4)

    def test_parts_that_cost_too_much_stay_in_fp32(self, command, options, output, small_gate):
        result = command("export", *options, "--max-label-flips", 6, "--output", output)
        assert result.exit_code == 0, result.stderr
        made_how = load(output).card.quantisation
        assert made_how.kept == ("patch embedding",) and 0 < made_how.gate.label_flips <= 6
        assert "; in fp32: patch embedding" in result.stdout
        assert "most of it comes from patch embedding: kept in fp32" in result.stderr

    def test_half_of_the_parts_at_most(self, refused, options, small_gate):
        message = (
            "with patch embedding in fp32 already; give the --target it is for, another --layer or a higher"
        )
        refused(message, *options, "--max-label-flips", 0, exit_code=4)


@pytest.fixture(scope="module")
def files(command, easy_and_hard, tmp_path_factory):
    """files(*options): a dynamic file of the exits 1 and 2."""

    def files(*options):
        path = tmp_path_factory.mktemp("dynamic") / "model.onnx"
        given = ("--classes", easy_and_hard / "names.txt", "--calibration", easy_and_hard / "calibrate")
        dynamic = ("--dynamic", "--exits", "1,2", "--budget", BUDGET)
        result = command("export", *dynamic, *given, "--output", path, *options)
        assert result.exit_code == 0, result.stderr
        assert "   exits     " in result.stdout and "; a mean one takes " in result.stdout
        return path

    return files


@pytest.fixture(scope="module", params=["fp32", "int8"])
def both(request, files):
    """The same exits in branches and flat, one of which takes whole pictures."""
    precision = ("--precision", request.param)
    if request.param == "fp32":
        return {"nested": files(*precision), "flat": files(*precision, "--no-if", "--input", "image")}
    return {"nested": files(*precision, "--input", "image"), "flat": files(*precision, "--no-if")}


class TestDynamic:
    def test_the_card_says_how_it_decides(self, both):
        for path in both.values():
            card = load(path).card
            assert card.exit_layers == (1, 2) and card.last_exit.gate is None
            assert 0.1 < card.mean_operations <= card.dynamic.budget == BUDGET
            assert card.dynamic.dropped == {} and card.calibration.images == 200
            assert (card.precision == "int8") == (card.quantisation is not None)
            assert card.description.startswith("3 classes, exits 1, 2 of demo")

    def test_branches_are_there_unless_they_are_not_wanted(self, both):
        assert operators(both["nested"])["If"] == 1
        assert operators(both["flat"])["If"] == 0

    def test_a_device_reads_and_reproduces_them(self, command, both):
        for path in both.values():
            assert read_header(path).operators == operators(path)
            result = command("verify", path)
            assert result.exit_code == 0, result.stderr

    def test_each_picture_has_its_exit_and_both_forms_agree(self, command, both, easy_and_hard):
        answers = {form: classify(command, path, easy_and_hard / "measure") for form, path in both.items()}
        for found in answers.values():
            taken = Counter(answer["exit_layer"] for answer in found)
            assert taken.keys() == {1, 2} and min(taken.values()) >= 20
            assert right(found) > 0.7
            late = [answer for answer in found if answer["exit_layer"] == 2]
            assert right(late) > 0.95
            assert all(0 < answer["probability"] <= 1 for answer in found)
        # One of them resizes by itself, a grey level off now and then.
        same = [
            (one["label"], one["exit_layer"]) == (two["label"], two["exit_layer"])
            for one, two in zip(answers["nested"], answers["flat"], strict=True)
        ]
        assert np.mean(same) > 0.9

    def test_evaluating_counts_the_exits(self, command, both, easy_and_hard):
        for path in both.values():
            found = made(command("evaluate", easy_and_hard / "measure", "--model", path, "--json", "-q"))
            assert [exit_["layer"] for exit_ in found["exits"]] == [1, 2]
            assert sum(exit_["images"] for exit_ in found["exits"]) == found["images"] == 200
            assert min(exit_["images"] for exit_ in found["exits"]) >= 20
            first, last = (exit_.operations for exit_ in load(path).card.exits)
            assert first < found["operations"] < last
            calibrated = command("evaluate", easy_and_hard / "calibrate", "--model", path)
            assert calibrated.exit_code == 2 and "calibrated" in calibrated.stderr

    def test_the_gate_compares_what_the_exits_decide_together(self, files, easy_and_hard, small_gate):
        limits = ("--max-label-flips", 40, "--max-accuracy-drop", 10, "--mixed", "none")
        path = files("--precision", "int8-dynamic", "--data", easy_and_hard / "measure", *limits)
        card = load(path).card
        assert card.quantisation.scheme == "dynamic" and card.quantisation.gate.images == 200
        assert 0 < card.quantisation.gate.label_flips <= 40
        assert card.accuracy.images == 200


def test_heads_of_the_other_kind_share_a_file_too(command, figures, fresh_figures, tmp_path):
    heads, path = tmp_path / "heads", tmp_path / "model.onnx"
    options = ("--head-kind", "ssa", "--out", heads, "--layer", 1, "--layer", 2, "-q")
    assert command("train", figures, *options).exit_code == 0
    exits = ("--dynamic", "--exits", "1,2", "--head-kind", "ssa", "--head", heads)
    made(command("export", *exits, "--calibration", fresh_figures, "--output", path, "-q", "--json"))
    card = load(path).card
    assert {(exit_.head_kind, exit_.pool) for exit_ in card.exits} == {("ssa", "mean")}
    assert right(classify(command, path, figures)) > 0.9


class TestRefused:
    def test_ranges_need_pictures(self, refused):
        refused("without pictures, --precision int8-dynamic finds them as it runs", "--precision", "int8")

    def test_too_few_pictures(self, refused, flat, tmp_path):
        few = tmp_path / "few"
        few.mkdir()
        for path in sorted(flat.iterdir())[:31]:
            shutil.copy(path, few)
        refused(
            "31 pictures that differ and are not of one colour; INT8 needs at least 32",
            *("--layer", 1, "--precision", "int8", "--calibration", few),
        )

    def test_pictures_of_one_colour(self, refused, tmp_path):
        grey = tmp_path / "grey"
        grey.mkdir()
        for level in range(40):
            Image.new("RGB", (40, 40), (level, level, level)).save(grey / f"{level}.png")
        options = ("--layer", 1, "--precision", "int8", "--calibration", grey)
        refused("0 pictures that differ and are not of one colour", *options)

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    @pytest.mark.parametrize("exits", [["--layer", 1], ["--dynamic", "--exits", "1,2"]], ids=["one", "two"])
    def test_pictures_none_of_which_can_be_read(self, command, tmp_path, output, exits, precision):
        for name in NAMES:
            (tmp_path / "broken" / name).mkdir(parents=True)
            for number in range(20):
                (tmp_path / "broken" / name / f"{number}.png").write_text(f"no picture of a {name}: {number}")
        options = (*exits, "--precision", precision, "--data", tmp_path / "broken", "--output", output)
        result = command("export", *options, "--quiet")
        assert result.exit_code == 2 and result.stdout == ""
        *warnings, error = result.stderr.splitlines()
        assert all(line.startswith("warning: left out: ") for line in warnings)
        assert error.startswith("error: ") and "none of its pictures can be read" in error
        assert not output.parent.exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "--exits is missing: give two or more layers, such as --exits 3,5,8"),
            (["--exits", "5"], "--exits 5: give two or more layers"),
            (["--exits", "3,five"], "layer five: demo has the layers 1 to 12, and full"),
            (["--exits", "3,-5"], "layer -5: demo has the layers 1 to 12, and full"),
            (["--exits", "3,,5"], "--exits 3,,5: give two or more layers"),
            (["--exits", "5,3"], "exits 5, 3: give them in increasing order, each once"),
            (["--exits", "3,3"], "exits 3, 3: give them in increasing order, each once"),
            (["--exits", "3,13"], "layer 13: demo has the layers 1 to 12"),
            (["--exits", "0,3"], "layer 0: demo has the layers 1 to 12"),
            (["--exits", "1,2"], "--dynamic needs labelled pictures to fit its gates on; give --data or"),
            (["--exits", "1,2", "--head-kind", "ssa"], "--head-kind ssa: give --head; `tgems-edge train"),
            (["--exits", "1,2", "--budget", "nan"], "--budget nan: give a number from 0 to 1"),
            (["--exits", "1,2", "--budget", "-0.1"], "--budget -0.1: give a number from 0 to 1"),
            (["--exits", "1,2", "--budget", "1.5"], "--budget 1.5: give a number from 0 to 1"),
        ],
    )
    def test_exits_that_cannot_be_had(self, refused, options, message):
        refused(message, "--dynamic", *options)

    def test_exits_without_dynamic(self, refused):
        refused("--exits: only with --dynamic; one exit is --layer", "--exits", "1,2")

    @pytest.mark.parametrize("option", ["--max-accuracy-drop", "--max-label-flips"])
    @pytest.mark.parametrize("value", ["nan", "-1", "101", "inf"])
    def test_limits_that_mean_nothing(self, refused, option, value):
        refused(f"{option} {value}: give a number from 0 to 100", option, value)

    def test_heads_that_are_not_there(self, refused, heads):
        dynamic = ("--dynamic", "--head")
        missing = "layer-03.safetensors: no such head file; make one with `tgems-edge train`"
        refused(missing, *dynamic, heads, "--exits", "1,3")
        file = heads / "layer-01.safetensors"
        refused("a file, and 2 exits need a folder of heads; give --head", *dynamic, file, "--exits", "1,2")
        refused("no head files here", *dynamic, heads, "--exits", "1,2", "--head-kind", "ssa")

    def test_half_precision_for_several_exits(self, refused, drawn):
        options = ("--exits", "1,2", "--precision", "fp16", "--calibration", drawn / "calibrate")
        refused("--dynamic with --precision fp16: choose fp32 or int8", "--dynamic", *options)

    def test_gates_need_labels(self, refused, flat):
        options = ("--exits", "1,2", "--precision", "int8", "--calibration", flat)
        refused("--dynamic needs labelled pictures to fit its gates on", "--dynamic", *options)

    def test_a_budget_that_no_exit_meets_is_refused_before_any_work(self, refused, drawn, monkeypatch):
        monkeypatch.setattr(pipeline, "to_onnx", None)
        options = ("--exits", "1,2", "--calibration", drawn / "calibrate")
        message = "even if every picture left at the first exit, it would take 0.0"
        refused(message, "--dynamic", *options, "--budget", "0.01")
        refused("is the smallest", "--dynamic", *options, "--budget", "0")

    def test_pictures_without_labels_are_of_no_use_in_floating_point(self, refused, flat):
        message = "pictures without folders of classes, which only --precision int8 can use"
        refused(message, "--calibration", flat)
        refused(message, "--calibration", flat, "--precision", "fp16")

    def test_a_picture_that_gives_ranges_may_not_measure(self, refused, fresh_figures, flat, heads):
        options = ("--layer", 1, "--head", heads, "--precision", "int8")
        message = "70 of its pictures, such as blue_cross-00.jpg, are among those to measure on in"
        refused(message, *options, "--calibration", flat, "--data", fresh_figures)
