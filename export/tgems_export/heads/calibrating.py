"""Calibration of heads, on pictures that trained nothing: every file of a head's own classes gets it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tgems_edge.errors import DataError
from tgems_edge.maths.sets import LEAST_PICTURES
from tgems_edge.model_file.card import Calibration
from tgems_edge.sources.data import ImageFolder
from tgems_export.calibration import calibrate
from tgems_export.encoders.features import Features
from tgems_export.encoders.towers.base import ExitPoint, Pool
from tgems_export.heads.base import ExitHead
from tgems_export.heads.file import HeadCalibration
from tgems_export.splits import split

__all__ = ["Calibrating", "calibrate_head", "given", "hold_out"]

SHARE = 0.1  # of the pictures that would train, or more, so that they are enough
MOST = 0.25


@dataclass(frozen=True)
class Calibrating:
    """Pictures that fit a calibration and nothing else, m of them."""

    features: Features
    rows: Tensor  # (m,) which of the features
    labels: Tensor  # (m,)
    digests: list[bytes]  # (m,) SHA-256 of their files


def given(features: Features, folder: ImageFolder) -> Calibrating:
    """All pictures of a folder that was given to calibrate with.

    Raises:
        DataError: too few of them.
    """
    if len(features.indices) < LEAST_PICTURES:
        raise DataError(
            f"{folder.root}: {len(features.indices)} pictures to calibrate with; {LEAST_PICTURES} are needed"
        )
    return _chosen(features, folder, np.arange(len(features.indices)))


def hold_out(
    features: Features, folder: ImageFolder, train: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], Calibrating | None]:
    """Take pictures to calibrate with from those that would train, where there are enough of them."""
    share = max(SHARE, LEAST_PICTURES / len(train))
    if share > MOST:
        return train, None
    labels = folder.labels[features.indices][train]
    remaining, held_out = split(labels, share, seed + 1)
    if len(held_out) < LEAST_PICTURES:
        return train, None
    return train[remaining], _chosen(features, folder, train[held_out])


def _chosen(features: Features, folder: ImageFolder, rows: NDArray[np.int64]) -> Calibrating:
    members = features.indices[rows]
    digests = [folder.digests[member] for member in members.tolist()]
    return Calibrating(features, torch.from_numpy(rows), torch.from_numpy(folder.labels[members]), digests)


def calibrate_head(
    held: Calibrating, head: ExitHead, text: Tensor, point: ExitPoint, pool: Pool
) -> HeadCalibration:
    """Fit the calibration of a head for classes with text embeddings (C, E)."""
    activations = held.features.activations(point.number, pool)[held.rows]
    with torch.no_grad():
        rates = head.rates(activations, text).numpy()
    fitted = calibrate(rates, held.labels.numpy(), head.k)
    quantiles = Calibration.of(held.digests, fitted.conformal, fitted.conformal_adaptive, fitted.rejection)
    return HeadCalibration(fitted.temperature, quantiles)
