"""Each loss is its formula, written out the slow way."""

import math

import pytest
import torch

from tgems_export.heads.losses import Loss

NAMES = ("tgems", "rate", "cosine", "paper")
B, C, K = 3, 4, 5


@pytest.fixture
def example():
    """z (B, K), mu and variance (C, K), and a label for every picture."""
    generator = torch.Generator().manual_seed(0)
    z, mu = torch.randn(B, K, generator=generator), torch.randn(C, K, generator=generator)
    return z, mu, 0.1 + torch.rand(C, K, generator=generator), torch.tensor([2, 0, 3])


def rate(z, mu, variance):
    terms = [math.log2(v) + (a - m) ** 2 / (2 * v) for a, m, v in zip(z, mu, variance, strict=True)]
    return sum(terms) / K


def cosine(z, mu):
    return float(z @ mu / (z.norm() * mu.norm()))


def cross_entropy(logits, label):
    return math.log(sum(math.exp(logit) for logit in logits)) - logits[label]


def by_hand(name, z, mu, variance, label):
    """The loss of one picture."""
    rates = [rate(z.tolist(), m, v) for m, v in zip(mu.tolist(), variance.tolist(), strict=True)]
    cosines = [cosine(z, m) for m in mu]
    scale = K * math.log(2) / 2
    contrast_of_rates = cross_entropy([-scale * r for r in rates], label) + 0.01 * rates[label]
    contrast_of_cosines = cross_entropy([c / 0.07 for c in cosines], label)
    return {
        "rate": contrast_of_rates,
        "cosine": contrast_of_cosines,
        "tgems": contrast_of_rates + contrast_of_cosines,
        "paper": rates[label] + 1 - cosines[label],
    }[name]


def one_hot(labels):
    return torch.nn.functional.one_hot(labels, C).float()


def value(name, z, mu, variance, labels):
    return Loss(name, K)(z, mu, variance, one_hot(labels)).item()


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_its_formula(example, name):
    z, mu, variance, labels = example
    expected = sum(by_hand(name, z[i], mu, variance, int(labels[i])) for i in range(B)) / B
    assert value(name, z, mu, variance, labels) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_soft_target_is_the_mixture_of_its_labels(example, name):
    z, mu, variance, _ = example
    loss, soft = Loss(name, K), torch.tensor([0.1, 0.2, 0.3, 0.4])
    pure = torch.stack([loss(z, mu, variance, one_hot(torch.full((B,), label))) for label in range(C)])
    torch.testing.assert_close(loss(z, mu, variance, soft.expand(B, C)), soft @ pure)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 1, 100])
def test_gradients_are_finite(example, name, size):
    z, mu, variance, labels = example
    leaves = [(size * z).requires_grad_(), (size * mu).requires_grad_(), variance.requires_grad_()]
    loss = Loss(name, K)
    loss(*leaves, one_hot(labels)).backward()
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize(
    ("name", "learns"), [("tgems", True), ("rate", True), ("cosine", False), ("paper", False)]
)
def test_the_scale_is_learnt_where_there_is_one(example, name, learns):
    z, mu, variance, labels = example
    loss = Loss(name, K)
    loss(z, mu.requires_grad_(), variance, one_hot(labels)).backward()
    assert (loss.log_scale.grad is not None) == learns


def test_the_letter_of_the_paper_is_content_with_a_constant_and_the_contrast_is_not(example):
    _, _, _, labels = example
    constant, unit = torch.ones(C, K), torch.full((C, K), 1.0)
    losses = {name: value(name, constant[:B], constant, unit, labels) for name in NAMES}
    assert losses["paper"] == pytest.approx(0, abs=1e-6)
    assert losses["rate"] == losses["cosine"] == pytest.approx(math.log(C), rel=1e-4)
