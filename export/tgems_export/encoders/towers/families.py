"""Which family an image encoder of open_clip belongs to."""

from __future__ import annotations

from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models import eva
from timm.models import vision_transformer as vit
from torch import nn

from tgems_edge.errors import EncoderError
from tgems_export.encoders.towers.base import Tower
from tgems_export.encoders.towers.openclip_vit import OpenClipViT
from tgems_export.encoders.towers.timm_vit import TimmViT

__all__ = ["kind_of", "read_tower"]

PYRAMID = "its stages shrink the picture, so its blocks are no chain of one width"
NOT_A_CHAIN = {
    "ModifiedResNet (open_clip)": PYRAMID,
    "ConvNeXt (timm)": PYRAMID,
    "FastVit (timm)": PYRAMID,
    "SwinTransformer (timm)": PYRAMID,
    "VisionTransformerRelPos (timm)": "its attention has relative positions, which the graph has not",
}


def read_tower(module: nn.Module) -> Tower:
    """The tower in an image encoder of open_clip.

    Raises:
        EncoderError: it belongs to no family here, or has a part that cannot be cut out of it.
    """
    if isinstance(module, VisionTransformer):
        return OpenClipViT(module)
    if isinstance(module, TimmModel) and type(module.trunk) in (vit.VisionTransformer, eva.Eva):
        return TimmViT(module)
    why = NOT_A_CHAIN.get(kind_of(module), "not one of the ViTs that can be cut")
    raise EncoderError(f"its image tower is a {kind_of(module)}: {why}")


def kind_of(module: nn.Module) -> str:
    """What kind of network an image encoder of open_clip is, by the name its library gives it."""
    if isinstance(module, TimmModel):
        return f"{type(module.trunk).__name__} (timm)"
    return f"{type(module).__name__} (open_clip)"
