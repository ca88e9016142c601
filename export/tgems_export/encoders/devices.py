"""The choice of the accelerator that runs the encoder."""

from __future__ import annotations

import torch

from tgems_edge.errors import InputError

__all__ = ["choose_device"]


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: a device that is unknown or not here.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in available.items() if here))
    kind = name.split(":")[0]
    if not available.get(kind, False):
        here = ", ".join(kind for kind, is_here in available.items() if is_here)
        raise InputError(f"--device {name}: not available here; this machine has {here}")
    try:
        return torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: not available here; as in cuda:0") from None
