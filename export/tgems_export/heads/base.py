"""The interface of every head: how well each class fits an activation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn

__all__ = ["ExitHead", "HeadKindName"]

HeadKindName = Literal["tgem", "ssa", "zero-shot"]


class ExitHead(nn.Module, ABC):
    """The network behind an exit that says how well each class fits an activation.

    Whatever its kind, softmax(-K R / T) is its posterior (`tgems_edge.maths.rates`).
    """

    k: int  # K, the width in which it compares

    @abstractmethod
    def rates(self, activation: Tensor, text: Tensor) -> Tensor:
        """R (B, C), smaller is better, of activations (B, D) under classes of text embeddings (C, E)."""

    @abstractmethod
    def readout(self, text: Tensor) -> nn.Module:
        """The same as a module of the graph, from activations (B, D) to R (B, C), with the classes inside."""
