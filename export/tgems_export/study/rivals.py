"""Rivals of the T-GEM: the paper's baseline, closed-form classifiers, and the full CLIP.

All of them see the same pictures and the same activations as the T-GEM, and none of them sees text, except
for the full CLIP.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from tgems_edge.maths.rates import RateForm, class_rates
from tgems_export.encoders.towers.base import Pool
from tgems_export.study.material import Material
from tgems_export.study.measures import Value, measure_answers
from tgems_export.study.variations import training_members

__all__ = ["RIVALS", "SAMPLES", "measure_rivals", "measure_sampling", "measure_zero_shot", "sampling"]

SAMPLES = (5, 10, 25, 50, 100, 200, 500)  # S, pictures a class
DRAWS = 5
FORMS: tuple[RateForm, ...] = ("paper", "gaussian")
RIVALS = ("discriminant", "regression", "nearest mean")
PASSES = 100  # of the logistic regression's solver; more change little
LEAST_VARIANCE = 1e-6  # of a dimension that is constant in the sample


def sampling(activations: Tensor, labels: Tensor, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Moments of S pictures a class on the raw activation, the sampling baseline of arXiv 2605.17499.

    Args:
        activations: (n, D), without a Jumper.
        labels: (n,) with classes 0 to C - 1.
        per_class: S.
        seed: of the draw.

    Returns:
        mu and sigma^2, each (C, D).
    """
    generator = torch.Generator().manual_seed(seed)
    means, variances = [], []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero()[:, 0]
        drawn = members[torch.randperm(len(members), generator=generator)[:per_class]]
        sample = activations[drawn]
        means.append(sample.mean(0))
        variances.append(sample.var(0, unbiased=False).clamp(min=LEAST_VARIANCE))
    return torch.stack(means), torch.stack(variances)


def measure_sampling(material: Material, layer: int, pool: Pool) -> Iterator[tuple[str, Value]]:
    """Top-1 of Gaussians measured on S pictures a class: mean and spread over five draws, both rates."""
    known = material.training.activations(layer, pool)
    labels = torch.from_numpy(material.training.labels)
    unseen = material.evaluation.activations(layer, pool)
    for size in SAMPLES:
        found: dict[RateForm, list[float]] = {form: [] for form in FORMS}
        for seed in range(DRAWS):
            moments = sampling(known, labels, size, seed)
            for form in FORMS:
                rates = class_rates(unseen, *moments, form=form, log2=torch.log2)
                right = rates.argmin(1).numpy() == material.evaluation.labels
                found[form].append(float(right.mean()))
        for form in FORMS:
            yield f"{form} {size}", float(np.mean(found[form]))
            yield f"{form} {size} spread", float(np.std(found[form], ddof=1))


def measure_rivals(
    material: Material,
    layer: int,
    pool: Pool,
    per_class: int | None = None,
    seed: int = 0,
    which: tuple[str, ...] = RIVALS,
) -> Iterator[tuple[str, Value]]:
    """Top-1 to 3 of classifiers that are fitted on labels.

    Args:
        material: see `Material`.
        layer: block, counted from 1.
        pool: which token.
        per_class: labelled pictures; default all that a T-GEM would train on.
        seed: of the split and the draw, as for a T-GEM.
        which: of `RIVALS`: a Gaussian discriminant with one covariance, shrunk as by Ledoit and Wolf 2004;
            multinomial logistic regression on standardised activations; the nearest class mean.
    """
    members, _ = training_members(material, seed, per_class)
    x = material.training.activations(layer, pool)[members].numpy()
    y = material.training.labels[members]
    unseen = material.evaluation.activations(layer, pool).numpy()
    fits = {"discriminant": _discriminant, "regression": _regression, "nearest mean": _nearest_mean}
    for name in which:
        scores = fits[name](x, y, unseen)
        for measure, value in measure_answers(-scores, material.evaluation.labels):
            yield f"{name} {measure}", value


def measure_zero_shot(material: Material) -> Iterator[tuple[str, Value]]:
    """The full CLIP: cosines of its embedding with the texts."""
    cosines = material.evaluation.embeddings() @ material.text.T
    yield from measure_answers(-cosines.numpy(), material.evaluation.labels)
    if material.new_names and material.new_text is not None:
        answers = (material.new_names.embeddings() @ material.new_text.T).argmax(1).numpy()
        yield "new names", float((answers == material.new_names.labels).mean())


def _discriminant(x: NDArray[np.float32], y: NDArray[np.int64], unseen: NDArray[np.float32]) -> np.ndarray:
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)
    return _all_classes(model.decision_function(unseen))


def _regression(x: NDArray[np.float32], y: NDArray[np.int64], unseen: NDArray[np.float32]) -> np.ndarray:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=PASSES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    return _all_classes(model.decision_function(unseen))


def _all_classes(scores: np.ndarray) -> np.ndarray:
    """Scores (B, C); of two classes scikit-learn only gives the second's."""
    return scores if scores.ndim == 2 else np.stack([-scores, scores], 1)


def _nearest_mean(x: NDArray[np.float32], y: NDArray[np.int64], unseen: NDArray[np.float32]) -> np.ndarray:
    means = np.stack([x[y == label].mean(0) for label in range(y.max() + 1)])
    return 2 * unseen @ means.T - (means * means).sum(1)
