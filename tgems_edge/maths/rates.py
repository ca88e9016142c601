r"""The maths of T-GEMS (arXiv 2605.17499), once, for numpy, torch and the ONNX graph.

B pictures, C classes, K dimensions of the Jumper's output z. A class c is a Gaussian
N(mu_c, diag(sigma_c^2)) over z, and its class-rate is the code length of z under it:

    eq. 1    R_c = 1/K sum_j [ log2 sigma_cj^2 + (z_j - mu_cj)^2 / (2 sigma_cj^2) ]
    eq. 2    y   = argmin_c R_c

Eq. 1 is a polynomial in z. With

    a_cj = 1 / (2 K sigma_cj^2)
    b_cj = -mu_cj / (K sigma_cj^2)
    c_c  = 1/K sum_j [ log2 sigma_cj^2 + mu_cj^2 / (2 sigma_cj^2) ]

it becomes one matrix product, R = [z*z, z] @ [a, b]^T + c. That product is what the T-GEM is
trained with, what the exported graph holds, and what this module computes.

Eq. 1 is the literal formula of the paper. It is not quite the code length of a Gaussian, which is

    R_c = 1/K sum_j [ 1/2 log2(2 pi sigma_cj^2) + (z_j - mu_cj)^2 / (2 ln2 sigma_cj^2) ]   bits

Learned variances absorb the difference; variances that are moments of a sample do not. Both forms
are offered, because the sampling baseline has to be judged by its better one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["class_rates", "posterior", "rate_tables", "top_k"]

Array = TypeVar("Array", bound=Any)  # a numpy array or a torch tensor

RateForm = Literal["paper", "gaussian"]

# R_c = 1/K sum_j [ u log2 sigma^2 + v (z - mu)^2 / sigma^2 + w ]
_COEFFICIENTS: dict[RateForm, tuple[float, float, float]] = {
    "paper": (1.0, 0.5, 0.0),
    "gaussian": (0.5, 0.5 / math.log(2), 0.5 * math.log2(2 * math.pi)),
}


def rate_tables(
    mu: Array,
    variance: Array,
    *,
    form: RateForm = "paper",
    log2: Callable[[Any], Any] = np.log2,
) -> tuple[Array, Array, Array]:
    """Class Gaussians as the tables of one matrix product.

    Args:
        mu: (C, K) means.
        variance: (C, K) variances sigma^2, all positive.
        form: `paper` is eq. 1 to the letter, `gaussian` the code length in bits.
        log2: the logarithm of the arrays' library; pass `torch.log2` for tensors.

    Returns:
        a (C, K), b (C, K) and c (C,) of the module's docstring.
    """
    u, v, w = _COEFFICIENTS[form]
    k = mu.shape[1]
    a: Any = v / (k * variance)
    b = -2 * a * mu
    c: Any = (u * log2(variance) + v * mu * mu / variance).sum(-1) / k + w
    return a, b, c


def class_rates(
    z: Array,
    mu: Array,
    variance: Array,
    *,
    form: RateForm = "paper",
    log2: Callable[[Any], Any] = np.log2,
) -> Array:
    """Class-rates R_c (eq. 1): how many bits z costs, per dimension, under each class.

    Args:
        z: (B, K) outputs of the Jumper.
        mu: (C, K) means.
        variance: (C, K) variances sigma^2, all positive.
        form: see `rate_tables`.
        log2: see `rate_tables`.

    Returns:
        (B, C) rates; smaller is better. They can be negative: a density may exceed 1.
    """
    a, b, c = rate_tables(mu, variance, form=form, log2=log2)
    rates: Array = (z * z) @ a.T + z @ b.T + c
    return rates


def posterior(rates: NDArray[Any], k: int, temperature: float = 1.0) -> NDArray[Any]:
    """Class probabilities, softmax over c of -K R_c / T.

    K R_c is the whole code length, so -K R_c is a log-likelihood up to a constant factor; the
    temperature T, fitted on held-out pictures, takes up that factor.

    Args:
        rates: (..., C) class-rates.
        k: K, the width of the Jumper's output.
        temperature: T > 0; 1 when nothing was calibrated.

    Returns:
        (..., C) probabilities that sum to 1.
    """
    logits = -k * rates / temperature
    logits = logits - logits.max(axis=-1, keepdims=True)
    weights = np.exp(logits)
    result: NDArray[Any] = weights / weights.sum(axis=-1, keepdims=True)
    return result


def top_k(rates: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Indices of the k classes with the smallest rates, best first; ties go to the lower index.

    Args:
        rates: (..., C) class-rates.
        k: how many; at most C are returned.

    Returns:
        (..., min(k, C)) class indices. The first is eq. 2.
    """
    return np.argsort(rates, axis=-1, kind="stable")[..., :k]
