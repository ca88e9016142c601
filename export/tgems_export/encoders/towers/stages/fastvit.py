"""FastViT: the image towers of MobileCLIP and MobileCLIP2, S0 to S4."""

from __future__ import annotations

from typing import Any

from open_clip.timm_model import TimmModel
from timm.utils.model import reparameterize_model
from torch import nn

from tgems_export.encoders.towers.stages.tower import Step, Structure

__all__ = ["inference_form", "structure"]


def inference_form(module: TimmModel) -> TimmModel:
    """The same network with the branches of every block, which only training needs, summed into one."""
    with next(module.parameters()).device:  # where it makes the sums
        return reparameterize_model(module)


def structure(module: TimmModel) -> Structure:
    """The structure of a FastViT in its inference form."""
    trunk: Any = module.trunk
    stages = []
    for stage in trunk.stages:
        first, *others = stage.blocks
        opening = Step((stage.downsample, stage.pos_emb, first))
        stages.append([opening, *(Step((block,)) for block in others)])
    return Structure(trunk.stem, stages, nn.Sequential(trunk.final_conv, trunk.head, module.head))
