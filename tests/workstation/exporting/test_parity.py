"""Parity lets rounding pass and nothing else; a graph that differs never becomes a file."""

import numpy as np
import pytest
import torch

from tgems_edge.errors import ParityError
from tgems_edge.model_file.gate import INPUT
from tgems_export.exporting import pipeline
from tgems_export.exporting.exits import load_exits
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.exporting.parity import check_rates, compare
from tgems_export.exporting.pipeline import export_exits
from tgems_export.exporting.settings import ExitSettings, ExportSettings
from tgems_export.pictures import draw_many

RATES = np.random.RandomState(0).normal(0, 3, (50, 10)).astype(np.float32)


class TorchSession:
    """Runs a graph as onnxruntime would run its file."""

    def __init__(self, graph):
        self.graph = graph

    def run(self, outputs, feed):
        assert outputs == ["rates_1"]
        return [self.graph(torch.from_numpy(feed[INPUT]))[0].numpy()]


@pytest.fixture
def exit_(heads):
    return load_exits(ExitSettings((1,), heads))[0]


def perturbed(*arguments, **options):
    """The graph with one weight a little off."""
    graph = ExitGraph(*arguments, **options)
    graph.heads[0].jumper.weight.data[0, 0] += 0.05
    return graph


def parity_of(exit_, graph):
    card = exit_.card
    what = (exit_.encoder, card.layer, card.pool, exit_.head, exit_.text)
    graph = graph(exit_.encoder, [Cut(card.layer, card.pool, exit_.head)], exit_.text)
    return compare(TorchSession(graph), *what, draw_many(20), "drawn")


def test_equal_rates_agree():
    parity = check_rates(RATES, RATES, "numbers")
    assert (parity.pictures, parity.of) == (50, "numbers")
    assert (parity.largest_rate_difference, parity.label_agreement) == (0, 1)


def test_rounding_passes_and_is_measured():
    parity = check_rates(RATES * np.float32(1 + 5e-5), RATES, "numbers")
    assert 0 < parity.largest_rate_difference <= 5.1e-5 * np.abs(RATES).max()


@pytest.mark.parametrize(
    "factor", [1 + 2e-4, 1 - 2e-4, -1, np.nan, np.inf], ids=["above", "below", "sign", "nan", "inf"]
)
def test_more_than_rounding_fails_and_the_picture_is_named(factor):
    ours = RATES.copy()
    ours[7, RATES[7].argmax()] = 20 * factor
    reference = RATES.copy()
    reference[7, RATES[7].argmax()] = 20
    with pytest.raises(ParityError, match=r"on picture 8 of 50 .* nothing was written"):
        check_rates(ours, reference, "numbers")


def test_small_rates_may_differ_absolutely():
    tiny = np.array([[0.0, 0.01, 0.02]], np.float32)
    assert check_rates(tiny + np.float32(9e-5), tiny, "numbers").label_agreement == 1
    with pytest.raises(ParityError):
        check_rates(tiny + np.float32(2e-4), tiny, "numbers")


def test_near_ties_may_fall_either_way_and_are_counted():
    reference, ours = np.array([[1, 1.00001, 2]] * 4), np.array([[1.00001, 1, 2]] + [[1, 1.00001, 2]] * 3)
    assert check_rates(ours, reference, "numbers").label_agreement == 0.75


def test_a_clear_label_that_flips_fails():
    reference = np.array([[1, 1.001, 2]])
    with pytest.raises(ParityError):
        check_rates(reference[:, [1, 0, 2]], reference, "numbers")


def test_the_graph_of_a_trained_head_passes(exit_):
    parity = parity_of(exit_, ExitGraph)
    assert parity.pictures == 20
    assert parity.largest_rate_difference < 1e-4


def test_a_perturbed_graph_fails(exit_):
    with pytest.raises(ParityError, match="differs from PyTorch"):
        parity_of(exit_, perturbed)


def test_a_perturbed_graph_leaves_no_file_and_an_old_one_untouched(exit_, tmp_path, reporter, monkeypatch):
    monkeypatch.setattr(pipeline, "ExitGraph", perturbed)
    old = tmp_path / "model.onnx"
    old.write_text("old")
    with pytest.raises(ParityError, match="nothing was written"):
        export_exits([exit_], ExportSettings(old, overwrite=True), reporter)
    assert [path.name for path in tmp_path.glob("*.*")] == ["model.onnx"]
    assert old.read_text() == "old"
