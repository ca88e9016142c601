"""Metrics agree with hand-computed examples and with other people's implementations."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tgems_edge.maths.metrics import (
    calibration_error,
    count_confusions,
    coverage_interval,
    reliability,
    top_accuracy,
)

RATES = np.array([[0.3, -0.2, 0.1], [2.0, 2.5, 1.5], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
LABELS = np.array([1, 0, 2, 0])
PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50)


def test_top_accuracy_of_a_hand_computed_example():
    assert [top_accuracy(RATES, LABELS, k) for k in (1, 2, 3)] == [0.5, 0.75, 1.0]


def test_calibration_error_of_a_hand_computed_example():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.6, 0.4]])
    # two bins of two pictures: |0.9 - 0.5| and |0.6 - 1.0|
    assert calibration_error(p, np.array([0, 1, 1, 0])) == pytest.approx(0.4)


def test_confidence_that_comes_true_has_no_calibration_error():
    p = np.tile([0.75, 0.25], (400, 1))
    assert calibration_error(p, np.arange(400) % 4 // 3) == pytest.approx(0)


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.0), (0.25, 0.2)])
def test_calibration_error_tells_overconfidence_from_calibration(temperature, expected):
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.ones(4), 20_000)
    labels = (p.cumsum(1) > generator.random((len(p), 1))).argmax(1)
    sharpened = p ** (1 / temperature)
    sharpened /= sharpened.sum(1, keepdims=True)
    assert calibration_error(sharpened, labels) == pytest.approx(expected, abs=0.1)
    assert (calibration_error(sharpened, labels) < 0.03) == (temperature == 1)


@given(arrays(float, st.tuples(st.integers(1, 50), st.just(3)), elements=st.floats(0, 1)), st.data())
def test_reliability_counts_every_picture_once(p, data):
    labels = data.draw(arrays(int, len(p), elements=st.integers(0, 2)))
    bins = reliability(p, labels)
    right = (p.argmax(1) == labels).sum()
    assert sum(b.pictures for b in bins) == len(p)
    assert sum(b.pictures * b.accuracy for b in bins) == pytest.approx(right)
    assert 0 <= calibration_error(p, labels) <= 1


def test_certainty_belongs_to_the_last_bin():
    (only,) = reliability(np.array([[1.0, 0.0], [0.99, 0.01]]), np.array([0, 0]))
    assert (only.pictures, only.confidence, only.accuracy) == (2, pytest.approx(0.995), 1.0)


@given(PAIRS)
def test_every_picture_with_a_wrong_answer_is_in_one_confusion(pairs):
    labels, answers = np.array(pairs).T
    found = count_confusions(answers, labels)
    wrong = [pair for pair in pairs if pair[0] != pair[1]]
    assert {(true, other): count for true, other, count in found.tolist()} == Counter(wrong)
    assert (np.diff(found[:, 2]) <= 0).all()


def test_equally_frequent_confusions_are_in_the_order_of_the_classes():
    labels, answers = np.array([[2, 0], [0, 1], [1, 2], [0, 1], [1, 1], [0, 2]]).T
    assert count_confusions(answers, labels).tolist() == [[0, 1, 2], [0, 2, 1], [1, 2, 1], [2, 0, 1]]


def test_without_a_wrong_answer_there_are_no_confusions():
    assert count_confusions(np.array([1, 0]), np.array([1, 0])).shape == (0, 3)


@settings(max_examples=30)
@given(st.integers(99, 3000), st.integers(1, 1000), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_coverage_falls_where_the_beta_binomial_distribution_says(calibrated, measured, coverage):
    stats = pytest.importorskip("scipy.stats")
    hits = np.ceil((calibrated + 1) * coverage - 1e-9)
    expected = stats.betabinom(measured, hits, calibrated + 1 - hits).ppf([0.025, 0.975]) / measured
    assert coverage_interval(calibrated, measured, coverage) == pytest.approx(tuple(expected), abs=1e-9)


def test_an_interval_narrows_with_pictures_on_either_side():
    def width(calibrated, measured):
        low, high = coverage_interval(calibrated, measured, 0.9)
        assert low <= 0.9 <= high
        return high - low

    assert width(2000, 2000) < width(200, 2000) < width(200, 200)
    assert width(2000, 2000) < width(2000, 200)
