"""Answers in columns: what follows from rates, for one picture and for many; the choice of uncertainty."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tgems_edge.errors import InputError
from tgems_edge.maths.sets import label_sets
from tgems_edge.runtime.answers import Answers
from tgems_edge.runtime.classifier import load
from tgems_edge.runtime.uncertainty import NO_SETS, Uncertainty, choose_uncertainty

GREEN, NAVY, BLACK = (
    np.full((6, 10, 3), colour, np.uint8) for colour in ((0, 255, 0), (0, 0, 100), (0, 0, 0))
)
# Sure, in two minds and strange, at block 2; sure and strange at block 5, where 4 is usual.
RATES = np.array([[-0.9, 0, 0], [-0.5, -0.4, 0], [0.4, 0.5, 0.6], [8, 3, 8], [8, 8, 7]], np.float32)
LAYERS = np.array([2, 2, 2, 5, 5])


@pytest.fixture
def answers(dynamic_card):
    return Answers.from_rates(RATES, LAYERS, dynamic_card)


def test_rates_become_the_answers_that_a_graph_gives(dynamic_model, dynamic_card):
    found = load(dynamic_model()).run([GREEN, NAVY, BLACK])
    assert found.exit_layers.tolist() == [2, 5, 5]
    again = Answers.from_rates(found.rates, found.exit_layers, dynamic_card)
    assert_allclose(again.probabilities, found.probabilities, atol=1e-6)
    assert_array_equal(again.labels, found.labels)


def test_each_exit_has_its_own_temperature(answers):
    early, late = np.exp(-2 * RATES[0]), np.exp(-2 * RATES[3] / 8)
    assert_allclose(answers.probabilities[0], early / early.sum(), rtol=1e-6)
    assert_allclose(answers.probabilities[3], late / late.sum(), rtol=1e-6)


def test_without_calibration_the_temperature_is_one(colour_card):
    (probabilities,) = Answers.from_rates(RATES[:1], np.array([4]), colour_card).probabilities
    assert_allclose(probabilities, np.exp(-2 * RATES[0]) / np.exp(-2 * RATES[0]).sum(), rtol=1e-6)


def test_surprisals_count_from_what_is_usual_at_the_exit(answers):
    assert_allclose(answers.surprisals, [0, 0.4, 1.3, -1, 3], atol=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2])
def test_what_is_more_surprising_than_known_pictures_is_unknown(answers, dynamic_card, share):
    bound = dynamic_card.calibration.rejection[f"{share:g}"]
    assert answers.unknown(share).tolist() == [bool(s > bound) for s in (0, 0.4, 1.3, -1, 3)]


@pytest.mark.parametrize("method", ["threshold", "adaptive"])
def test_sets_of_several_coverages_are_those_of_their_quantiles(answers, dynamic_card, method):
    for coverage in (0.8, 0.9, 0.95, 0.99):
        bound = dynamic_card.set_bound(coverage, method)
        expected = label_sets(answers.probabilities, bound, method)
        assert_array_equal(answers.sets(coverage, method), expected)


def test_a_part_says_what_the_whole_says(answers):
    uncertainty = Uncertainty(0.95, "adaptive", 0.05)
    single = [answers[row : row + 1] for row in range(len(answers))]
    assert [len(one) for one in single] == [1] * 5
    assert [one.rows(uncertainty=uncertainty)[0] for one in single] == answers.rows(uncertainty=uncertainty)
    assert Answers.join(single).rows(uncertainty=uncertainty) == answers.rows(uncertainty=uncertainty)


def test_rows_have_the_keys_of_the_interface(answers):
    sure, torn, strange, *_ = answers.rows(top=2, uncertainty=Uncertainty(0.95, "threshold", 0.05))
    assert list(sure) == ["label", "index", "rate", "probability", "top", "set", "coverage", "exit_layer"]
    assert (sure["label"], sure["index"], sure["set"], sure["exit_layer"]) == ("red", 0, ["red"], 2)
    assert torn["set"] == ["red", "green"] and torn["coverage"] == 0.95
    assert (strange["label"], strange["index"], strange["probability"]) == ("unknown", None, None)
    assert [entry["label"] for entry in strange["top"]] == ["red", "green"]


def test_rows_without_calibration_have_no_probabilities_and_no_sets(colour_card):
    (row,) = Answers.from_rates(RATES[:1], np.array([4]), colour_card).rows()
    assert (row["probability"], row["set"], row["coverage"]) == (None, None, None)
    assert row["label"] == "red" and len(row["top"]) == 3


def test_a_calibrated_file_has_sets_unless_it_is_told_otherwise(calibrated_card, colour_card):
    assert choose_uncertainty(calibrated_card) == Uncertainty(0.9, "threshold", None)
    assert choose_uncertainty(calibrated_card, 0.8, "adaptive", 0.05) == Uncertainty(0.8, "adaptive", 0.05)
    assert choose_uncertainty(colour_card) == NO_SETS


@pytest.mark.parametrize(
    "asked",
    [{"coverage": 0.9}, {"method": "adaptive"}, {"reject": 0.05}],
    ids=lambda asked: next(iter(asked)),
)
def test_doubt_that_the_file_does_not_have_is_refused(colour_card, asked):
    with pytest.raises(InputError, match="exported without calibration"):
        choose_uncertainty(colour_card, **asked)


def test_a_level_that_was_not_calibrated_is_refused(calibrated_card):
    with pytest.raises(InputError, match="choose one of them"):
        choose_uncertainty(calibrated_card, coverage=0.85)


def test_answers_of_an_exit_that_the_card_lacks_are_an_error(answers, dynamic_card):
    strange = replace(answers, exit_layers=np.array([2, 2, 2, 5, 7]))
    with pytest.raises(KeyError):
        strange.unknown(0.05)
