"""Benchmarks write JSON, templates make pages of it, and the committed pages are those."""

import ast
import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from measuring import result
from measuring.operations import count_operations
from measuring.timing import Times, time_in_turn
from onnx import TensorProto, helper, numpy_helper
from rendering import pages
from rendering.cells import cells, fill
from rendering.plots import PLOTS

from tgems_edge.progress import Reporter
from tgems_export.study.report import render
from tgems_export.study.reporting.noise_report import render_noise

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
NAMES = sorted(path.stem for path in pages.RESULTS.glob("*.json"))
OF_DOCKER = {"arm64", "device_size"}  # written by tests/arm/check.py and docker/check.py
HELPERS = {"boards", "readme", "render"}
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if path.stem not in HELPERS)


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_page_is_what_its_figures_make(name):
    page = (pages.RESULTS / f"{name}.md").read_text(encoding="utf-8")
    assert page == pages.make_report(pages.load(name), pages.read_notes(name))


def test_every_page_has_figures_and_a_dated_conclusion():
    written = {path.name.removesuffix(".md") for path in pages.RESULTS.glob("*.md")}
    assert {name for name in written if not name.endswith(".notes")} - OF_DOCKER == set(NAMES)
    assert all(re.match(r"20\d\d-\d\d-\d\d: ", pages.read_notes(name)) for name in NAMES)


@pytest.mark.parametrize("name", ["cifar10", "tiny-imagenet"])
def test_the_committed_study_is_what_its_figures_make(name, tmp_path):
    committed = BENCHMARKS / "studies" / name
    shutil.copy(committed / "study.json", tmp_path)
    assert {path.name for path in render(tmp_path / "study.json").files} >= {"study.md", "study.html"}
    texts = [(folder / "study.md").read_text(encoding="utf-8") for folder in (tmp_path, committed)]
    assert texts[0] == texts[1]
    html = [(folder / "study.html").read_text(encoding="utf-8") for folder in (tmp_path, committed)]
    plain = [re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL) for page in html]
    assert plain[0] == plain[1]


def test_the_committed_noise_profile_is_what_its_figures_make(tmp_path):
    committed = BENCHMARKS / "studies" / "cifar10"
    shutil.copy(committed / "noise.json", tmp_path)
    render_noise(tmp_path / "noise.json")
    texts = [(folder / "noise.md").read_text(encoding="utf-8") for folder in (tmp_path, committed)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", NAMES)
def test_figures_say_what_they_are_of(name):
    record = pages.load(name)
    assert record["benchmark"] == name
    assert record["command"].startswith(f"python benchmarks/{name}.py")
    assert record["date"] and record["versions"]["Python"] and record["machine"]["processor"]
    assert all(record["tables"].values())


@pytest.mark.parametrize("name", PLOTS)
def test_plots_are_well_formed_and_lie_beside_their_page(name):
    plot = PLOTS[name](pages.load(name))
    assert ElementTree.fromstring(plot.svg).tag.endswith("svg")
    committed = (pages.RESULTS / f"{plot.name}.svg").read_text(encoding="utf-8")
    texts = [re.findall(r"<text[^>]*>([^<]+)</text>", svg) for svg in (plot.svg, committed)]
    assert texts[0] and texts[0] == texts[1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_opens_with_its_command_and_what_to_expect(script):
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    assert f"    python benchmarks/{script.name}" in text
    assert re.search(r"(minute|hour)", text)
    assert re.search(r"\bExpect\b", text)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_can_be_imported(script):
    assert importlib.import_module(script.stem).main


def test_files_stay_readable():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in BENCHMARKS.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}


ROW = {"share": 0.1234, "change": -0.02, "none": None, "list": [0.1, 0.25], "exits": [3, 5], "many": 45000}


class TestCells:
    @pytest.mark.parametrize(
        ("template", "expected"),
        [
            ("{share:percent} ± {share:.2f}", "12.3 ± 0.12"),
            ("{change:points}", "−2.0"),
            ("{list:percent}", "10.0, 25.0"),
            ("{list[1]:.2f}", "0.25"),
            ("exits {exits:set}", "exits {3, 5}"),
            ("{many:count}", "45\N{NO-BREAK SPACE}000"),
            ("{none:.1f}", "–"),
            ("{none[mean]:percent} ± {share:percent}", "–"),
        ],
    )
    def test_figures_are_formatted(self, template, expected):
        assert fill(template, ROW) == expected

    def test_a_figure_that_rows_do_not_have_is_an_error(self):
        with pytest.raises(KeyError):
            fill("{shrae:percent}", ROW)

    def test_every_row_has_every_column(self):
        assert cells([{"a": 1, "b": None}], {"A": "{a}", "B": "{b}"}) == [["1", "–"]]


class TestResult:
    @pytest.fixture
    def save(self, tmp_path, monkeypatch):
        monkeypatch.setattr(result, "RESULTS", tmp_path)
        monkeypatch.setattr(sys, "argv", ["benchmarks/training_time.py", "/home/me/pictures", "--x", "1"])
        rows = [{"exit": 1, "pool": "cls", "seconds": np.float32(2.5), "equal": "yes"}]
        facts = {"epochs": 1, "pictures": 2, "minutes": 0.1}
        return lambda **options: result.save("training_time", {"heads": rows}, facts, **options)

    def test_figures_are_written_and_nothing_else(self, save, tmp_path):
        save()
        (path,) = tmp_path.iterdir()
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["command"] == "python benchmarks/training_time.py pictures --x 1"
        assert record["tables"]["heads"][0]["seconds"] == 2.5
        assert "| 1 | cls | 2 | yes |" in pages.make_report(record, "")

    def test_a_quick_run_prints_its_page_and_writes_nothing(self, save, tmp_path, capsys):
        save(quick=True)
        assert list(tmp_path.iterdir()) == []
        assert capsys.readouterr().out.startswith("# Training all heads\n")


def test_operations_are_counted_from_shapes(tmp_path):
    def weight(name, *shape):
        return numpy_helper.from_array(np.zeros(shape, np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["y"], strides=[2, 2]),
        helper.make_node("Flatten", ["y"], ["flat"]),
        helper.make_node("Gemm", ["flat", "gemm"], ["g"], transB=1),
        helper.make_node("MatMul", ["g", "matmul"], ["out"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["B", 3, 4, 4]), ("out", ["B", 7]))
    ]
    weights = [weight("kernel", 5, 3, 2, 2), weight("gemm", 6, 20), weight("matmul", 6, 7)]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    path = tmp_path / "products.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    assert count_operations(path) == 2 * (5 * 2 * 2 * (3 * 2 * 2) + 20 * 6 + 6 * 7)


class TestTiming:
    def test_ratios_are_taken_within_a_round(self):
        times = Times(1, 1, {"plain": [2.0, 20.0, 4.0], "exit": [1.0, 5.0, 2.0]})
        assert (times.rounds, times.median("exit"), times.faster("exit", "plain")) == (3, 2.0, 2.0)

    def test_everything_runs_once_a_round(self):
        ran = []
        runs = {name: lambda name=name: ran.append(name) for name in "ab"}
        times = time_in_turn(runs, "", Reporter(quiet=True), least_rounds=3, seconds=0)
        assert sorted(ran) == list("aaabbb")
        assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}
