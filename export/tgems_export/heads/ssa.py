"""SSA (LRA-EE, arXiv 2605.26415, eq. 3): an MLP to the joint embedding, and cosines to the classes there.

For ViT-B/32 it has 985 856 parameters, 13.9 % of a block.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from tgems_export.encoders.towers.layers import Gelu, make_linear
from tgems_export.heads.base import ExitHead
from tgems_export.heads.losses import cosines

__all__ = ["SsaHead", "SsaReadout"]


class SsaHead(ExitHead):
    """SSA: LayerNorm and an MLP, from the mean patch token to the embedding that the full CLIP would have."""

    def __init__(self, width: int, embedding_width: int):
        """Make a head for activations of width D and text embeddings of width E = K."""
        super().__init__()
        self.k = embedding_width
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, embedding_width)

    def forward(self, activation: Tensor) -> Tensor:
        """(B, D) to (B, E), of any length."""
        return self.out(nn.functional.gelu(self.hidden(self.norm(activation))))

    def rates(self, activation: Tensor, text: Tensor) -> Tensor:
        """Minus the cosines (B, C) of activations (B, D) to the classes of text embeddings (C, E)."""
        return -cosines(self(activation), text)

    def readout(self, text: Tensor) -> SsaReadout:
        """See `ExitHead`: the MLP, and one product with the directions of the classes."""
        return SsaReadout(self, text)


class SsaReadout(nn.Module):
    """The MLP of an SSA head and the directions of its classes, from activations (B, D) to rates (B, C)."""

    def __init__(self, head: SsaHead, text: Tensor):
        """Fold a head for classes with text embeddings (C, E)."""
        super().__init__()
        hidden, out = (make_linear(m.weight.clone(), m.bias.clone()) for m in (head.hidden, head.out))
        self.embed = nn.Sequential(copy.deepcopy(head.norm), hidden, Gelu(), out)
        self.tables = make_linear(-nn.functional.normalize(text, dim=1), None)

    def forward(self, activation: Tensor) -> Tensor:
        """Minus the cosines."""
        embedding = self.embed(activation)
        return self.tables(embedding / embedding.norm(dim=1, keepdim=True))
