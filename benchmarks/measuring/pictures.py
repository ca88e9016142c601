"""Pictures of labelled folders, as a model takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tgems_edge.model_file.card import Preprocessing
from tgems_edge.runtime.images import read_pixels
from tgems_edge.sources.data import ImageFolder

__all__ = ["paths_of", "read_all"]


def paths_of(folder: ImageFolder) -> list[Path]:
    """Return the paths of all pictures in their order."""
    return [folder.path(index) for index in range(len(folder.names))]


def read_all(folder: ImageFolder, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the pixels (n, H, W, 3) of all pictures."""
    return np.stack([read_pixels(path, preprocessing) for path in paths_of(folder)])
