"""Inference forms of a library's modules: BatchNorm inside the convolution in front of it."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fold"]


def fold(module: nn.Module) -> nn.Module:
    """A copy in which no BatchNorm follows a convolution.

    Libraries register the layers of a block in the order in which they run, so a BatchNorm that is registered
    right behind a convolution normalises its outputs. Where that should not be so, `parity` fails.
    """
    folded = copy.deepcopy(module).eval()
    for part in list(folded.modules()):
        children = list(part.named_children())
        for (name, convolution), (next_name, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(part, name, fuse_conv_bn_eval(convolution, norm))
                setattr(part, next_name, _behind(norm))
    return folded


def _behind(norm: nn.BatchNorm2d) -> nn.Module:
    """The activation that timm keeps inside some of its norms."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()
