"""The network of the demo CLIP, weights to begin with, and what updates them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tgems_edge.errors import EncoderError
from tgems_export.demo.pictures import PREPROCESSING

__all__ = ["WEIGHTS", "architecture", "load_earlier", "make_optimisers"]

WEIGHTS = "open_clip_model.safetensors"
BLOCKS = 12
HEAD_WIDTH = 32
EMBEDDING_WIDTH = 128


def architecture(width: int, patch_dropout: float = 0.0) -> dict[str, Any]:
    """Return open_clip's `model_cfg`: 64 patches and the CLS token, and a short text tower."""
    vision: dict[str, Any] = {
        "image_size": PREPROCESSING.size[0],
        "layers": BLOCKS,
        "width": width,
        "head_width": HEAD_WIDTH,
        "patch_size": 8,
        "mlp_ratio": 4.0,
    }
    if patch_dropout:
        vision["patch_dropout"] = patch_dropout
    text = {"context_length": 16, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2}
    return {"embed_dim": EMBEDDING_WIDTH, "vision_cfg": vision, "text_cfg": text}


def load_earlier(clip: Any, folder: Path) -> None:
    """Load the weights of an earlier folder; a kernel for smaller patches is spread over the larger ones.

    Raises:
        EncoderError: they do not fit.
    """
    try:
        weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
        kernel = weights["visual.conv1.weight"]
        factor = clip.visual.conv1.weight.shape[-1] // kernel.shape[-1]
        spread = kernel.repeat_interleave(factor, 2).repeat_interleave(factor, 3) / factor**2
        clip.load_state_dict(weights | {"visual.conv1.weight": spread})
    except Exception as error:  # the reader of safetensors has errors of its own
        reason = " ".join(str(error).split())[:200]
        raise EncoderError(f"--start-from {folder}: does not fit this recipe ({reason})") from None


def make_optimisers(
    clip: Any,
    *,
    matrix_learning_rate: float,
    learning_rate: float,
    matrix_weight_decay: float,
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the image tower's blocks, AdamW for the rest.

    Each group keeps its learning rate as `peak`.
    """
    matrices = [p for p in clip.visual.transformer.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    rest = [p for p in clip.parameters() if id(p) not in known]
    muon = torch.optim.Muon(
        matrices,
        lr=matrix_learning_rate,
        weight_decay=matrix_weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(rest, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.95))
    for optimiser in (muon, adamw):
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return [muon, adamw]
