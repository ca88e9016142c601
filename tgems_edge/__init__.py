"""tgems-edge: CLIP's meaning in one small ONNX file, on a Raspberry Pi, a Jetson or any CPU.

    from tgems_edge import load
    result = load("model.onnx").classify("cat.jpg")
    print(result.label)

Importing the package is fast: modules that need numpy, Pillow or onnxruntime are imported on first use.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tgems_edge.errors import TgemsError
    from tgems_edge.runtime.classifier import Classifier, load
    from tgems_edge.runtime.result import Result

__all__ = ["Classifier", "Result", "TgemsError", "__version__", "load"]

__version__ = "0.2.0"

# From version 1.29, onnxruntime sends telemetry to Microsoft unless this is set before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULE_OF = {
    "Classifier": "tgems_edge.runtime.classifier",
    "Result": "tgems_edge.runtime.result",
    "TgemsError": "tgems_edge.errors",
    "load": "tgems_edge.runtime.classifier",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULE_OF[name]), name)
