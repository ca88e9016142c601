"""The degenerate solutions of T-GEMS, noticed after training and said in plain words.

1. scale        z and sigma shrink together. The Jumper's normalisation and the floor under sigma make
                it impossible; what can still happen is that sigma ends on the floor.
2. constant     every class gets the same Gaussian, at chance accuracy.
3. redundant    the K dimensions are copies of a few.
4. bias         one class has a small sum of log sigma and wins every argmin.
5. lookup       the T-GEM learnt its prompts by heart and fails on templates it was not trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tgems_export.heads.tgem import SIGMA_FLOOR

__all__ = ["Health", "effective_rank", "examine", "guessing"]

FLOOR_SHARE = 0.1  # of all sigmas; a healthy head has none there
SEPARATION = 0.1  # spread of the class means, in units of sigma
RANK_SHARE = 0.05  # of K; few classes or pictures limit the rank too, and that is no fault
RANK_SLACK = 0.75  # an entropy falls a little short of a whole number
EXCESS = 0.25  # share of the predictions that one class wins beyond its share of the labels
TEMPLATE_DROP = 0.05  # of accuracy


@dataclass(frozen=True)
class Health:
    """Figures of a trained head on held-out pictures."""

    sigma_least: float
    sigma_most: float
    sigma_on_floor: float  # share of all C x K sigmas
    separation: float  # root mean square distance of the class means from their mean, over sigma
    rank: float  # effective rank of z
    excess: float  # largest surplus of predictions over labels of one class
    excess_class: str
    accuracy: float
    accuracy_held_out_templates: float | None
    guessing: float  # accuracy that always naming the commonest class reaches, with two standard errors
    k: int
    classes: int
    pictures: int

    def warnings(self) -> tuple[str, ...]:
        """Return warnings for the user, in plain words; empty for a healthy head."""
        found = []
        if self.sigma_on_floor > FLOOR_SHARE:
            found.append(
                f"{self.sigma_on_floor:.0%} of the sigmas lie on their floor of {SIGMA_FLOOR}: the pictures "
                "of a class are all but identical to the Jumper; more, and more varied, pictures help"
            )
        if self.separation < SEPARATION or self.accuracy <= self.guessing:
            found.append(
                f"accuracy {self.accuracy:.0%} on {self.pictures} held-out pictures cannot be told from "
                f"guessing, and the class means lie {self.separation:.2f} sigma apart; check the labels, "
                "give more pictures, or use a later layer"
            )
        if self.rank < RANK_SLACK * min(max(2, RANK_SHARE * self.k), self.classes - 1, self.pictures - 1):
            found.append(
                f"the {self.k} dimensions of z carry only {self.rank:.1f} independent ones; "
                "use --loss tgems, a later layer or a smaller --k"
            )
        if self.excess > EXCESS:
            found.append(
                f"class {self.excess_class!r} wins {self.excess:.0%} more of the pictures than are its own; "
                "balance the folders, use --loss tgems or a later layer"
            )
        if self.accuracy_held_out_templates is None:
            found.append(
                "too few templates to keep some aside, so nobody knows whether the T-GEM reads the text or "
                "learnt its prompts by heart; give five or more for other class names to work"
            )
        elif self.accuracy - self.accuracy_held_out_templates > TEMPLATE_DROP:
            drop = 100 * (self.accuracy - self.accuracy_held_out_templates)
            found.append(
                f"accuracy falls by {drop:.1f} points with templates it was not trained on: the T-GEM learnt "
                "its prompts by heart; give more templates"
            )
        return tuple(found)


def examine(
    z: Tensor,
    labels: Tensor,
    gaussians: tuple[Tensor, Tensor],
    predictions: Tensor,
    predictions_held_out_templates: Tensor | None,
    classes: Sequence[str],
) -> Health:
    """Measures a head on held-out pictures.

    Args:
        z: (B, K) Jumper outputs.
        labels: (B,) true classes.
        gaussians: mu and sigma^2, each (C, K).
        predictions: (B,) classes with the smallest rate.
        predictions_held_out_templates: (B,) the same with templates never trained on, if any.
        classes: the C names.
    """
    mu, variance = gaussians
    sigma = variance.sqrt()
    count = len(classes)
    surplus = _shares(predictions, count) - _shares(labels, count)
    spread = (mu - mu.mean(0)) / sigma
    held_out = predictions_held_out_templates
    return Health(
        sigma_least=float(sigma.min()),
        sigma_most=float(sigma.max()),
        sigma_on_floor=float((sigma < 1.05 * SIGMA_FLOOR).float().mean()),
        separation=float(spread.square().mean().sqrt()),
        rank=effective_rank(z),
        excess=float(surplus.max()),
        excess_class=classes[int(surplus.argmax())],
        accuracy=float((predictions == labels).float().mean()),
        accuracy_held_out_templates=None if held_out is None else float((held_out == labels).float().mean()),
        guessing=guessing(labels),
        k=z.shape[1],
        classes=count,
        pictures=len(labels),
    )


def guessing(labels: Tensor) -> float:
    """Accuracy that always naming the commonest of the labels (B,) reaches, with two standard errors."""
    chance = float(torch.bincount(labels).max()) / len(labels)
    return chance + 2 * math.sqrt(chance * (1 - chance) / len(labels))


def effective_rank(z: Tensor) -> float:
    """exp of the entropy of the covariance's normalised spectrum, between 1 and K."""
    values = torch.linalg.eigvalsh(torch.cov(z.double().T, correction=0).view(z.shape[1], -1)).clamp(min=0)
    share = values / values.sum().clamp(min=1e-12)
    return float(torch.special.entr(share).sum().exp())


def _shares(labels: Tensor, count: int) -> Tensor:
    return torch.bincount(labels, minlength=count).float() / max(1, len(labels))
