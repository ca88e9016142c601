"""Label sets: the definitions, and that they keep their promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from tgems_edge.maths.metrics import coverage_interval
from tgems_edge.maths.sets import (
    COVERAGES,
    LEAST_PICTURES,
    METHODS,
    REJECTS,
    label_sets,
    quantile,
    rank,
    set_scores,
)

P = np.array([[0.2, 0.7, 0.1], [0.5, 0.25, 0.25]])


@st.composite
def posteriors(draw):
    """(B, C) probabilities with some ties and some certainty."""
    shape = draw(st.tuples(st.integers(1, 40), st.integers(2, 6)))
    weights = draw(arrays(float, shape, elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, 50.0])))
    weights[weights.sum(1) == 0] = 1
    return weights / weights.sum(1, keepdims=True)


def test_threshold_scores_are_what_is_missing_to_certainty_and_nothing_for_the_best_class():
    assert_allclose(set_scores(P, "threshold"), [[0.8, 0, 0.9], [0, 0.75, 0.75]])


def test_adaptive_scores_are_the_probability_of_better_classes():
    assert_allclose(set_scores(P, "adaptive"), [[0.7, 0, 0.9], [0, 0.5, 0.75]])


def test_a_quantile_is_a_score_counted_with_the_one_to_come():
    scores = np.arange(9)[::-1] / 10
    assert quantile(scores, 0.5) == 0.4  # the 5th of 9: ceil(10 * 0.5)
    assert quantile(scores, 0.81) == 0.8  # the 9th: ceil(8.1)


def test_rounding_does_not_move_a_quantile():
    assert [rank(99, float(level)) for level in COVERAGES] == [80, 90, 95, 99]
    assert [rank(99, 1 - float(level)) for level in REJECTS] == [80, 90, 95, 99]


def test_too_few_scores_have_no_high_quantile():
    quantile(np.zeros(LEAST_PICTURES), 0.99)
    with pytest.raises(ValueError, match=f"{LEAST_PICTURES - 1} scores have no 0.99 quantile"):
        quantile(np.zeros(LEAST_PICTURES - 1), 0.99)


def test_sets_of_a_hand_computed_example():
    assert_array_equal(label_sets(P, 0.75, "threshold"), [[False, True, False], [True, True, True]])
    assert_array_equal(label_sets(P, 0.7, "adaptive"), [[True, True, False], [True, True, False]])


@given(posteriors(), st.sampled_from(METHODS), st.floats(0, 2))
def test_the_best_class_is_always_in(p, method, bound):
    members = label_sets(p, bound, method)
    assert members[np.arange(len(p)), p.argmax(1)].all()


@given(posteriors(), st.sampled_from(METHODS), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_sets_grow_with_the_bound(p, method, bounds):
    smaller, larger = (label_sets(p, bound, method) for bound in sorted(bounds))
    assert not (smaller & ~larger).any()


@given(posteriors(), st.sampled_from(METHODS), st.floats(0, 1))
def test_no_class_outside_a_set_is_more_probable_than_one_inside(p, method, bound):
    for row, members in zip(p, label_sets(p, bound, method), strict=True):
        assert row[~members].max(initial=0) <= row[members].min()


@given(posteriors(), st.sampled_from(METHODS), st.floats(0.01, 0.99), st.data())
def test_calibration_pictures_are_covered_at_least_as_often_as_promised(p, method, coverage, data):
    labels = data.draw(arrays(int, len(p), elements=st.integers(0, p.shape[1] - 1)))
    own = np.arange(len(p)), labels
    if rank(len(p), coverage) <= len(p):
        bound = quantile(set_scores(p, method)[own], coverage)
        assert label_sets(p, bound, method)[own].mean() >= coverage


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_the_promise_holds_for_new_pictures_of_a_model_that_is_too_sure(method, coverage):
    generator = np.random.default_rng(0)
    n, m = 4000, 20_000
    p = generator.dirichlet(np.full(5, 0.5), n + m)
    truth = p**0.5 / (p**0.5).sum(1, keepdims=True)
    labels = (truth.cumsum(1) > generator.random((n + m, 1))).argmax(1)
    bound = quantile(set_scores(p[:n], method)[np.arange(n), labels[:n]], coverage)
    low, high = coverage_interval(n, m, coverage)
    assert low <= label_sets(p[n:], bound, method)[np.arange(m), labels[n:]].mean() <= high
