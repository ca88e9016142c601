"""Temperature, quantiles and thresholds: fitted where the answer is known."""

import numpy as np
import pytest

from tgems_edge.errors import DataError
from tgems_edge.maths.metrics import calibration_error, coverage_interval
from tgems_edge.maths.rates import posterior
from tgems_edge.maths.sets import COVERAGES, label_sets
from tgems_export.calibration import calibrate

K = 16


def draw(seed, pictures, temperature=1.0, classes=5):
    """Rates (n, C) of a model whose posterior is right at this temperature, and labels drawn from it."""
    rng = np.random.RandomState(seed)
    rates = rng.standard_normal((pictures, classes)) * 2 * temperature / K
    chances = posterior(rates, K, temperature)
    labels = (chances.cumsum(1) < rng.uniform(size=(pictures, 1))).sum(1)
    return rates.astype(np.float32), labels.astype(np.int64)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 3.7, 400.0])
def test_the_temperature_of_a_right_model_is_found(temperature):
    rates, labels = draw(0, 20_000, temperature)
    fitted = calibrate(rates, labels, K)
    assert fitted.temperature == pytest.approx(temperature, rel=0.05)


def test_calibration_lowers_the_calibration_error_on_other_pictures():
    fitted = calibrate(*draw(1, 4000, temperature=4.0), K)
    rates, labels = draw(2, 4000, temperature=4.0)
    before, after = (calibration_error(posterior(rates, K, t), labels) for t in (1.0, fitted.temperature))
    assert before > 0.2 and after < 0.03


@pytest.mark.parametrize("method", ["threshold", "adaptive"])
def test_sets_cover_what_they_promise_on_other_pictures(method):
    """Coverage holds on average over many calibrations, and mostly within the interval of each."""
    measured = {coverage: [] for coverage in COVERAGES}
    for seed in range(40):
        fitted = calibrate(*draw(2 * seed, 300), K)
        rates, labels = draw(2 * seed + 1, 300)
        bounds = fitted.conformal if method == "threshold" else fitted.conformal_adaptive
        for coverage in COVERAGES:
            members = label_sets(posterior(rates, K, fitted.temperature), bounds[coverage], method)
            measured[coverage].append(members[np.arange(300), labels].mean())
    for coverage, found in measured.items():
        low, high = coverage_interval(300, 300, float(coverage))
        assert np.mean(found) == pytest.approx(float(coverage), abs=0.012)
        assert np.mean([low <= share <= high for share in found]) >= 0.85


def test_a_share_of_known_pictures_lies_beyond_the_rejection_threshold():
    fitted = calibrate(*draw(5, 5000), K)
    rates, _ = draw(6, 5000)
    for reject, bound in fitted.rejection.items():
        assert (rates.min(1) > bound).mean() == pytest.approx(float(reject), abs=0.02)


def test_a_model_that_is_always_right_gets_a_finite_temperature():
    labels = np.arange(120) % 3
    rates = (1 - np.eye(3)[labels]).astype(np.float32)
    fitted = calibrate(rates, labels, K)
    assert 0 < fitted.temperature < np.inf
    assert fitted.conformal["0.9"] == pytest.approx(0, abs=1e-3)


def test_too_few_pictures_name_the_number_needed():
    rates, labels = draw(7, 98)
    with pytest.raises(DataError, match="98 pictures to calibrate on; at least 99 are needed"):
        calibrate(rates, labels, K)
