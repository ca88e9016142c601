"""What every image tower offers, whatever it is made of: points to cut it at, and its pieces for ONNX.

A tower turns pixels into a state (tokens, or channels on a grid) and takes the state from one exit point to
the next. Whoever builds a graph asks for the pieces between two points and for what is read at one; nobody
else knows the names that a library gives its parts. All of it works on torch's meta device too, where a tower
costs no memory.

B pictures, D the width of an activation, E of the joint embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from tgems_edge.errors import EncoderError
from tgems_edge.model_file.card import Preprocessing

__all__ = ["Activations", "ExitPoint", "Part", "Pool", "Readout", "Tower"]

Pool = Literal["cls", "mean"]  # of what an exit may read: the class token, or the mean of the patch tokens


@dataclass(frozen=True)
class ExitPoint:
    """Where a tower can be cut. Counts are those of the library's own modules, every token computed."""

    name: str  # as `--layer` takes it
    number: int  # its place, counted from 1; what `exit_layer` says in a model file
    width: int  # D
    pools: tuple[Pool, ...]
    operations: int  # of one picture, up to here; of two, one multiplies and one adds
    parameters: int  # up to here


@dataclass(frozen=True)
class Part:
    """A piece of a tower, ready for ONNX. A part that is used more than once is one module."""

    name: str  # as INT8 reports it and keeps it in fp32
    module: nn.Module
    operations: int  # of one picture


@dataclass(frozen=True)
class Readout:
    """What an exit reads: a part from the state behind the point with a number to the activation (B, D)."""

    behind: int  # 0 for the stem
    part: Part


@dataclass(frozen=True)
class Activations:
    """What one pass over B pictures leaves behind, N points, width D, joint embedding E."""

    pools: dict[Pool, Tensor]  # (N, B, D) the class token, or the mean of the patch tokens, at each point
    embedding: Tensor  # (B, E) the full tower's answer, of length 1


class Tower(ABC):
    """An image tower that can be cut.

    `module` stays what the library built: the reference that every graph is compared with.
    """

    prefix = 0  # P, how many entries of a state, the first, are no patches

    def __init__(
        self, module: nn.Module, size: tuple[int, int], points: Sequence[ExitPoint], operations: int
    ):
        """Of a module for pictures (H, W), with its points in order and the operations of all of it."""
        self.module: Any = module
        self.size = size
        self.points = tuple(points)
        self.operations = operations  # of one picture, from pixels to the embedding
        self.parameters = sum(parameter.numel() for parameter in module.parameters())

    @property
    def pools(self) -> tuple[Pool, ...]:
        """What exits may read at any point."""
        return tuple(pool for pool in self.points[0].pools if all(pool in p.pools for p in self.points))

    def point(self, name: str | int) -> ExitPoint:
        """The point of a name.

        Raises:
            EncoderError: there is none; the message lists what there is.
        """
        for point in self.points:
            if point.name == str(name):
                return point
        names = [point.name for point in self.points]
        plain = names == [str(number) for number in range(1, len(names) + 1)]
        listed = f"1 to {len(names)}" if plain else ", ".join(names)
        raise EncoderError(f"it has the layers {listed}")

    @abstractmethod
    def stem(self, preprocessing: Preprocessing) -> Part:
        """From pixels, uint8 (B, H, W, 3), to the first state, scaling and normalisation inside."""

    @abstractmethod
    def segment(self, start: int, end: int) -> tuple[Part, ...]:
        """The parts from the state behind one point to that behind another; 0 stands for the stem."""

    @abstractmethod
    def readout(self, point: ExitPoint, pool: Pool, *, goes_on: bool) -> Readout:
        """What an exit reads at a point.

        Args:
            point: one of `points`.
            pool: one of its pools.
            goes_on: whether the state behind the point is computed anyway, for later exits.
        """

    @abstractmethod
    def spread(self) -> nn.Module:
        """From any state to the mean squared distance of its patches from their mean, (B,)."""

    @abstractmethod
    def activations(self, images: Tensor) -> Activations:
        """The library's own forward pass over pictures, float (B, 3, H, W), scaled and normalised."""

    @abstractmethod
    def activation(self, images: Tensor, point: ExitPoint, pool: Pool) -> Tensor:
        """The activation (B, D) at one point by the library's own forward pass, no further than there."""
