"""timm's ConvNeXt and Swin: stages of which all but the first begin by shrinking the map."""

from __future__ import annotations

from typing import Any

from open_clip.timm_model import TimmModel
from torch import nn

from tgems_export.encoders.towers.stages.tower import MAP, ROWS, Step, Structure

__all__ = ["convnext_structure", "swin_structure"]


def convnext_structure(module: TimmModel) -> Structure:
    """The structure of a ConvNeXt."""
    trunk: Any = module.trunk
    behind = nn.Sequential(trunk.norm_pre, trunk.head, module.head)
    return Structure(trunk.stem, [_steps(stage, MAP) for stage in trunk.stages], behind)


def swin_structure(module: TimmModel) -> Structure:
    """The structure of a Swin."""
    trunk: Any = module.trunk
    behind = nn.Sequential(trunk.norm, trunk.head, module.head)
    return Structure(trunk.patch_embed, [_steps(stage, ROWS) for stage in trunk.layers], behind)


def _steps(stage: Any, axes: tuple[int, ...]) -> list[Step]:
    first, *others = stage.blocks
    return [Step((stage.downsample, first), axes), *(Step((block,), axes) for block in others)]
