"""timm's EfficientNet and MobileNet families; a CLIP may be made from one of them (locked-image tuning)."""

from __future__ import annotations

from typing import Any

from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from tgems_export.encoders.towers.stages.tower import Step, Structure

__all__ = ["structure"]


def structure(module: TimmModel) -> Structure:
    """The structure of an EfficientNet, MobileNetV2 or MobileNetV3."""
    trunk: Any = module.trunk
    return Structure(
        stem=nn.Sequential(trunk.conv_stem, trunk.bn1),
        stages=[[Step((block,)) for block in stage] for stage in trunk.blocks],
        behind=_Behind(module),
    )


class _Behind(nn.Module):
    """The layers behind the last block: (B, D, h, w) to (B, E)."""

    def __init__(self, module: TimmModel):
        super().__init__()
        trunk: Any = module.trunk
        # In front of the pool an EfficientNet has one convolution more; a MobileNetV3 has it behind.
        early = hasattr(trunk, "bn2")
        self.convolution = nn.Sequential(trunk.conv_head, trunk.bn2) if early else nn.Identity()
        pooled = [] if early else [trunk.conv_head, trunk.norm_head, trunk.act2, trunk.flatten]
        self.pooled = nn.Sequential(trunk.global_pool, *pooled, trunk.classifier, module.head)

    def forward(self, state: Tensor) -> Tensor:
        return self.pooled(self.convolution(state))
