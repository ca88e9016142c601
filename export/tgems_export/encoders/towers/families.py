"""The family that an image encoder of open_clip belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models import eva
from timm.models import vision_transformer as vit
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.fastvit import FastVit
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from timm.models.vitamin import MbConvStages
from torch import nn

from tgems_edge.errors import EncoderError
from tgems_export.encoders.towers.base import Tower
from tgems_export.encoders.towers.stages import efficientnet, fastvit, hybrids, pyramids, resnet
from tgems_export.encoders.towers.stages.tower import StagedTower, Structure
from tgems_export.encoders.towers.vits.openclip_vit import OpenClipViT
from tgems_export.encoders.towers.vits.timm_vit import TimmViT

__all__ = ["kind_of", "read_tower"]

# By the kind of timm's network, its structure.
STRUCTURES: dict[type[nn.Module], Callable[[TimmModel], Structure]] = {
    ConvNeXt: pyramids.convnext_structure,
    EfficientNet: efficientnet.structure,
    FastVit: fastvit.structure,
    MobileNetV3: efficientnet.structure,
    SwinTransformer: pyramids.swin_structure,
    VisionTransformerRelPos: hybrids.relative_structure,
}


def read_tower(module: nn.Module) -> Tower:
    """The tower in an image encoder of open_clip.

    Raises:
        EncoderError: it belongs to no family here, or has a part that cannot be cut out of it.
    """
    if isinstance(module, VisionTransformer):
        return OpenClipViT(module)
    if isinstance(module, ModifiedResNet):
        return _staged(module, resnet.structure)
    if isinstance(module, TimmModel):
        trunk: Any = module.trunk
        if type(trunk) is vit.VisionTransformer and _has_stages(trunk):
            return _staged(module, hybrids.vitamin_structure)
        if type(trunk) in (vit.VisionTransformer, eva.Eva):
            return TimmViT(module)
        if type(trunk) is FastVit:
            module = fastvit.inference_form(module)
        if type(trunk) in STRUCTURES:
            return _staged(module, STRUCTURES[type(trunk)])
    raise EncoderError(f"its image tower is a {kind_of(module)}, which is not among those that can be cut")


def _has_stages(trunk: vit.VisionTransformer) -> bool:
    """Whether stages of convolutions make the tokens of a ViT."""
    return isinstance(getattr(trunk.patch_embed, "backbone", None), MbConvStages)


def _staged(module: Any, read: Callable[[Any], Structure]) -> StagedTower:
    size = module.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    return StagedTower(module, read(module), (height, width))


def kind_of(module: nn.Module) -> str:
    """Return the kind of an image encoder of open_clip, by the name its library gives it."""
    if isinstance(module, TimmModel):
        return f"{type(module.trunk).__name__} (timm)"
    return f"{type(module).__name__} (open_clip)"
