"""The degenerate solutions of T-GEMS: each is provoked by training, and is impossible or noticed.

Activations are drawn around one centre per class; texts around one embedding per class.
"""

import pytest
import torch

from tgems_export.encoders.prompts import class_embeddings
from tgems_export.heads.tgem import SIGMA_FLOOR
from tgems_export.heads.training.base import TrainingSet, predict
from tgems_export.heads.training.health import effective_rank, examine
from tgems_export.heads.training.tgem import TGemSettings, train_tgem_head

D, E = 32, 16
VALIDATION = 200


class Trained:
    """A head trained on drawn activations, with the prompts and the figures that belong to it."""

    def __init__(
        self,
        classes=4,
        *,
        pictures=400,
        noise=1.0,  # around the centre of the class; the centres lie about 10 apart
        rank=D,  # of the activations
        meaning=True,  # labels have something to do with the activations
        shares=None,  # of the labels in training; even by default, and always even in validation
        templates=8,
        held_out="alike",  # templates never trained on: alike, elsewhere or none
        epochs=20,
        **settings,
    ):
        generator = torch.Generator().manual_seed(1)
        random = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        centres, directions = 2 * random(classes, rank), random(rank, D) if rank < D else torch.eye(D)
        texts, elsewhere = random(classes, 1, E), random(classes, 1, E)

        def say(texts, count):
            return torch.nn.functional.normalize(texts + 0.3 * random(classes, count, E), dim=-1)

        def draw(labels):
            seen = labels if meaning else torch.randint(classes, labels.shape, generator=generator)
            return (centres[seen] + noise * random(len(labels), rank)) @ directions

        weights = torch.tensor(shares or [1.0] * classes)
        labels = torch.multinomial(weights, pictures, True, generator=generator)
        validation = torch.arange(VALIDATION) % classes
        prompts = say(texts, templates)
        others = {"alike": texts, "elsewhere": elsewhere, "none": None}[held_out]
        data = TrainingSet(
            draw(labels),
            torch.nn.functional.one_hot(labels, classes).float(),
            prompts,
            draw(validation),
            validation,
            class_embeddings(prompts),
        )
        self.head = train_tgem_head(data, TGemSettings(epochs=epochs, **{"k": 64, **settings}), layer=1)
        self.z = self.head.jumper(data.activations)
        seen = data.validation_activations
        self.health = examine(
            self.head.jumper(seen),
            validation,
            self.head.tgem(data.text),
            predict(self.head, seen, data.text),
            None if others is None else predict(self.head, seen, class_embeddings(say(others, 4))),
            [f"class {number}" for number in range(classes)],
        )
        self.sigma = self.head.tgem(data.text)[1].sqrt()


@pytest.mark.parametrize(("classes", "noise"), [(2, 0.01), (3, 0.01), (5, 0.01), (3, 2.0), (5, 1.0)])
def test_a_healthy_head_is_left_in_peace(classes, noise):
    trained = Trained(classes, noise=noise)
    assert trained.health.accuracy > 0.9
    assert trained.health.warnings() == ()


@pytest.mark.parametrize("loss", ["tgems", "paper"])
def test_scale_cannot_shrink(loss):
    trained = Trained(noise=0.0, loss=loss)
    torch.testing.assert_close(trained.z.std(0), torch.ones(64), rtol=0, atol=0.1)
    assert trained.sigma.min() >= SIGMA_FLOOR * (1 - 1e-6)


def test_sigmas_that_end_on_the_floor_are_noticed():
    trained = Trained(noise=0.0, loss="paper", k=16, epochs=60, spread_learning_rate=4e-3, few=0)
    assert any("sigmas lie on their floor" in warning for warning in trained.health.warnings())


@pytest.mark.parametrize("loss", ["paper", "tgems"])
def test_constant_gaussians_are_noticed(loss):
    trained = Trained(meaning=False, loss=loss)
    assert trained.health.accuracy < 0.4
    assert any("cannot be told from guessing" in warning for warning in trained.health.warnings())


@pytest.mark.parametrize("k", [16, 64])
def test_redundant_dimensions_are_noticed(k):
    warnings = Trained(6, rank=1, k=k).health.warnings()
    assert any(f"the {k} dimensions of z carry only 1.0 independent ones" in w for w in warnings)


def test_a_class_that_wins_every_argmin_is_noticed():
    trained = Trained(meaning=False, shares=[0.95, 0.02, 0.02, 0.01])
    assert any("class 'class 0' wins 7" in warning for warning in trained.health.warnings())


def test_a_single_template_leaves_the_lookup_table_unnoticed_and_that_is_said():
    (warning,) = Trained(templates=1, held_out="none").health.warnings()
    assert "too few templates" in warning


def test_a_lookup_table_is_noticed():
    trained = Trained(held_out="elsewhere")
    assert trained.health.accuracy > 0.9
    assert any("learnt its prompts by heart" in warning for warning in trained.health.warnings())


def test_effective_rank_counts_directions():
    generator = torch.Generator().manual_seed(0)
    independent = torch.randn(20_000, 8, generator=generator)
    assert effective_rank(independent) == pytest.approx(8, abs=0.01)
    assert effective_rank(torch.cat([independent, independent], 1)) == pytest.approx(8, abs=0.01)
    copies = independent[:, :1] * torch.randn(8, generator=generator)
    assert effective_rank(copies) == pytest.approx(1, abs=1e-6)


def test_effective_rank_of_the_identity_is_k():
    corners = torch.cat([torch.eye(6), -torch.eye(6)])  # their covariance is a multiple of the identity
    assert effective_rank(corners) == pytest.approx(6)
