"""Class-rates, posterior and ranking: the formulas, and that numpy, torch and ONNX agree on them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from tgems_edge.maths.rates import class_rates, posterior, rate_tables, top_k

Z = np.array([[1.0, 3.0]])
MU = np.array([[1.0, 1.0], [3.0, 3.0]])
VARIANCE = np.array([[1.0, 4.0], [2.0, 0.5]])


def gaussians(seed, b, c, k, dtype=np.float64):
    generator = np.random.default_rng(seed)
    z, mu = generator.normal(size=(b, k)), generator.normal(size=(c, k))
    return z.astype(dtype), mu.astype(dtype), generator.uniform(0.5, 2, (c, k)).astype(dtype)


def direct_rates(z, mu, variance):
    """Eq. 1 as the paper writes it."""
    terms = np.log2(variance) + (z[:, None] - mu) ** 2 / (2 * variance)
    return terms.mean(-1)


def test_rates_of_a_hand_computed_example():
    # R_1 = 1/2 [ log2 1 + (1-1)^2 / 2 + log2 4   + (3-1)^2 / 8 ] = 1/2 [ 0 + 0 + 2 + 1/2 ] = 1.25
    # R_2 = 1/2 [ log2 2 + (1-3)^2 / 4 + log2 1/2 + (3-3)^2 / 1 ] = 1/2 [ 1 + 1 - 1 + 0   ] = 0.5
    assert class_rates(Z, MU, VARIANCE).tolist() == [[1.25, 0.5]]


def test_tables_of_a_hand_computed_example():
    a, b, c = rate_tables(MU, VARIANCE)
    assert a.tolist() == [[0.25, 0.0625], [0.125, 0.5]]
    assert b.tolist() == [[-0.5, -0.125], [-0.75, -3.0]]
    assert c.tolist() == [1.3125, 5.625]


def test_gaussian_form_is_the_code_length_per_dimension():
    z, mu, variance = gaussians(0, 4, 3, 5)
    densities = np.exp(-((z[:, None] - mu) ** 2) / (2 * variance)) / np.sqrt(2 * math.pi * variance)
    assert_allclose(class_rates(z, mu, variance, form="gaussian"), -np.log2(densities).mean(-1))


@given(st.data(), *[st.integers(1, 6)] * 3)
def test_one_matrix_product_equals_the_formula(data, b, c, k):
    values = st.floats(-10, 10)
    z, mu = (
        data.draw(arrays(float, (b, k), elements=values)),
        data.draw(arrays(float, (c, k), elements=values)),
    )
    variance = data.draw(arrays(float, (c, k), elements=st.floats(1e-3, 1e3)))
    assert_allclose(class_rates(z, mu, variance), direct_rates(z, mu, variance), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("offset", [0, 10, 100])
def test_float32_loses_no_more_than_rounding_to_cancellation(offset):
    k = 128
    z, mu, variance = gaussians(1, 16, 10, k, np.float32)
    z, mu = z + np.float32(offset), mu + np.float32(offset)
    a, b, c = rate_tables(mu, variance)
    magnitude = (z * z) @ a.T + abs(z) @ abs(b).T + abs(c)
    exact = direct_rates(*(array.astype(np.float64) for array in (z, mu, variance)))
    rates = class_rates(z, mu, variance)
    assert rates.dtype == np.float32
    # a sum of n products is off by at most n eps times the sum of their sizes
    assert np.all(abs(rates - exact) <= (2 * k + 8) * np.finfo(np.float32).eps * magnitude)


def test_numpy_torch_and_onnx_agree():
    torch = pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT

    z, mu, variance = gaussians(2, 7, 5, 32, np.float32)
    a, b, c = rate_tables(mu.astype(np.float64), variance.astype(np.float64))
    tables = {"tables": np.concatenate([a, b], 1).astype(np.float32), "c": c.astype(np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["z", "z"], ["squares"]),
            helper.make_node("Concat", ["squares", "z"], ["both"], axis=1),
            helper.make_node("Gemm", ["both", "tables", "c"], ["rates"], transB=1),
        ],
        "rates",
        [helper.make_tensor_value_info("z", float32, ["B", 32])],
        [helper.make_tensor_value_info("rates", float32, ["B", 5])],
        [onnx.numpy_helper.from_array(array, name) for name, array in tables.items()],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    in_numpy = class_rates(z, mu, variance)
    in_torch = class_rates(*map(torch.from_numpy, (z, mu, variance)), log2=torch.log2).numpy()
    in_onnx = session.run(None, {"z": z})[0]
    assert_allclose(in_numpy, direct_rates(z, mu, variance), rtol=1e-5)
    assert_allclose(in_torch, in_numpy, rtol=1e-5)
    assert_allclose(in_onnx, in_numpy, rtol=1e-5)


RATES = np.array([[0.3, -0.2, 0.1], [2.0, 2.5, 1.5]])


def test_posterior_sums_to_one():
    assert_allclose(posterior(RATES, 8).sum(-1), 1)


def test_posterior_odds_are_the_difference_of_the_code_lengths():
    p = posterior(RATES, 8, temperature=2.0)
    assert_allclose(np.log(p[:, 0] / p[:, 1]), -8 * (RATES[:, 0] - RATES[:, 1]) / 2.0)


def test_posterior_does_not_change_when_all_rates_shift():
    assert_allclose(posterior(RATES + 1000, 8), posterior(RATES, 8))


def test_a_high_temperature_flattens_the_posterior_and_a_low_one_sharpens_it():
    assert_allclose(posterior(RATES, 8, temperature=1e9), 1 / 3, rtol=1e-6)
    assert_allclose(posterior(RATES, 8, temperature=1e-3), [[0, 1, 0], [0, 0, 1]], atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_rates_do_not_overflow_the_posterior(dtype):
    rates = np.array([1e30, -1e30, 0], dtype)
    with np.errstate(over="raise", invalid="raise"):
        assert posterior(rates, 128).tolist() == [0, 1, 0]


def test_top_k_is_ordered_from_the_smallest_rate():
    assert_array_equal(top_k(RATES, 2), [[1, 2], [2, 0]])
    assert_array_equal(top_k(RATES[0], 2), [1, 2])


def test_ties_go_to_the_lower_index():
    assert top_k(np.array([1.0, 0.0, 1.0, 0.0, 1.0]), 5).tolist() == [1, 3, 0, 2, 4]
    assert_array_equal(top_k(np.arange(1000) % 2, 500), np.arange(0, 1000, 2))


def test_top_k_of_more_than_there_are_gives_all():
    assert top_k(RATES, 99).shape == (2, 3)
