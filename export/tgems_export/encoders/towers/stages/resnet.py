"""open_clip's ModifiedResNet: OpenAI's RN50 to RN101, and TinyCLIP's."""

from __future__ import annotations

from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from tgems_export.encoders.towers.stages.tower import Step, Structure

__all__ = ["structure"]


def structure(module: ModifiedResNet) -> Structure:
    """The structure of a ModifiedResNet."""
    stem = [
        *(module.conv1, module.bn1, module.act1),
        *(module.conv2, module.bn2, module.act2),
        *(module.conv3, module.bn3, module.act3),
        module.avgpool,
    ]
    stages = [
        [Step((block,)) for block in layer]
        for layer in (module.layer1, module.layer2, module.layer3, module.layer4)
    ]
    return Structure(nn.Sequential(*stem), stages, module.attnpool)
