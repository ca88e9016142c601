"""The default model file, used where none is named."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["built_in_model", "default_model"]


def default_model() -> Path:
    """`$TGEMS_MODEL`, else `./model.onnx`, else the built-in demo file."""
    if named := os.environ.get("TGEMS_MODEL"):
        return Path(named)
    here = Path("model.onnx")
    return here if here.exists() else built_in_model()


def built_in_model() -> Path:
    """The demo file that ships with the package: exit 5 of the demo CLIP, CIFAR-10's ten names."""
    return Path(__file__).parents[1] / "demo" / "model.onnx"
