"""Fit temperature, label sets and rejection, on pictures that neither trained nor measure.

The posterior is softmax_c(-K R_c / T), and T is the temperature with the smallest cross-entropy (Guo et al.
2017). Then the conformal quantiles of that posterior, and of the smallest rate (`tgems_edge.maths.sets`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from tgems_edge.errors import DataError
from tgems_edge.maths.rates import posterior
from tgems_edge.maths.sets import COVERAGES, LEAST_PICTURES, REJECTS, SetMethod, quantile, set_scores

__all__ = ["Fitted", "calibrate", "calibrate_posterior", "fit_temperature"]

LOG_TEMPERATURES = (math.log(1e-3), math.log(1e6))  # bounds of the search, far beyond any head's


@dataclass(frozen=True)
class Fitted:
    """Fitted values; levels are keys as they stand in the card."""

    temperature: float
    conformal: dict[str, float]  # quantile of the threshold sets' scores, for each coverage
    conformal_adaptive: dict[str, float]  # of the adaptive sets' scores
    rejection: dict[str, float]  # of the smallest rate, for each share of known pictures beyond it


def calibrate(rates: NDArray[np.floating], labels: NDArray[np.int64], k: int) -> Fitted:
    """Fits everything for one exit.

    Args:
        rates: (n, C) class-rates.
        labels: (n,) true classes.
        k: K, the width of the Jumper's output.

    Raises:
        DataError: too few pictures.
    """
    temperature = fit_temperature(rates, labels, k)
    probabilities = posterior(rates.astype(np.float64), k, temperature)
    return calibrate_posterior(probabilities, rates.min(1), labels, temperature)


def calibrate_posterior(
    probabilities: NDArray[np.floating],
    surprisal: NDArray[np.floating],
    labels: NDArray[np.int64],
    temperature: float,
) -> Fitted:
    """Fits what makes label sets and `unknown` of a posterior.

    Args:
        probabilities: (n, C) the posterior; in a dynamic file that of each picture's own exit.
        surprisal: (n,) smallest rates, comparable with each other.
        labels: (n,) true classes.
        temperature: of the posterior; in a dynamic file that of the last exit.

    Raises:
        DataError: too few pictures.
    """
    if len(labels) < LEAST_PICTURES:
        raise DataError(
            f"{len(labels)} pictures to calibrate on; at least {LEAST_PICTURES} are needed for a coverage of "
            f"{COVERAGES[-1]}"
        )

    def quantiles(method: SetMethod) -> dict[str, float]:
        of_true = set_scores(probabilities, method)[np.arange(len(labels)), labels]
        return {coverage: quantile(of_true, float(coverage)) for coverage in COVERAGES}

    return Fitted(
        temperature=temperature,
        conformal=quantiles("threshold"),
        conformal_adaptive=quantiles("adaptive"),
        rejection={reject: quantile(surprisal, 1 - float(reject)) for reject in REJECTS},
    )


def fit_temperature(rates: NDArray[np.floating], labels: NDArray[np.int64], k: int) -> float:
    """The T with the smallest cross-entropy; arguments as in `calibrate`."""
    of_true = (np.arange(len(labels)), labels)

    def cross_entropy(log_temperature: float) -> float:
        probabilities = posterior(rates.astype(np.float64), k, math.exp(log_temperature))
        return float(-np.log(probabilities[of_true].clip(1e-300)).mean())

    # Convex in 1 / T, so it has one minimum in log T as well.
    return math.exp(minimize_scalar(cross_entropy, bounds=LOG_TEMPERATURES, method="bounded").x)
