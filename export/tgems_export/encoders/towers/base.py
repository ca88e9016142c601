"""The interface of every image tower: points to cut it at, and its pieces for ONNX.

A tower turns pixels into a state (tokens, or channels on a grid) and takes the state from one exit point to
the next. Whoever builds a graph asks for the pieces between two points and for what is read at one; nobody
else knows the names that a library gives its parts. All of it works on torch's meta device too, where a tower
costs no memory.

N exit points, B pictures, D the width of an activation, E of the joint embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from tgems_edge.errors import EncoderError
from tgems_edge.model_file.card import Preprocessing

__all__ = ["FULL", "Activations", "ExitPoint", "Part", "Pool", "Readout", "Tower"]

# The activation of a picture: the class token, the mean over the positions, or the joint embedding.
Pool = Literal["cls", "mean", "embedding"]
FULL = "full"  # the name of the point behind everything
NEAREST = 3  # points that a message lists


@dataclass(frozen=True)
class ExitPoint:
    """A place where a tower can be cut; counts are those of the library's modules, all tokens computed."""

    name: str  # as `--layer` takes it: `5`, a block of a ViT or the end of stage 5; `5.2`, its second block
    number: int  # the block, counted from 1 over the whole tower; what `exit_layer` says in a model file
    width: int  # D
    positions: int  # tokens, or pixels of the map
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
    """The part of an exit that turns the state behind a point into the activation (B, D)."""

    behind: int  # 0 for the stem
    part: Part


@dataclass(frozen=True)
class Activations:
    """Activations of B pictures at all N points, from one pass through the tower."""

    pools: dict[Pool, tuple[Tensor, ...]]  # N times (B, D)
    embedding: Tensor  # (B, E), of length 1


class Tower(ABC):
    """An image tower that can be cut.

    `module` stays what the library built: the reference that every graph is compared with.
    """

    def __init__(
        self,
        module: nn.Module,
        size: tuple[int, int],
        points: Sequence[ExitPoint],
        operations: int,
        embedding_width: int,
    ):
        """Describe a tower.

        Args:
            module: the library's, float (B, 3, H, W) to (B, E).
            size: (H, W) of its pictures.
            points: in order, each behind a block.
            operations: of one picture, from pixels to the embedding.
            embedding_width: E.
        """
        self.module: Any = module
        self.size = size
        self.points = tuple(points)
        self.operations = operations
        self.parameters = sum(parameter.numel() for parameter in module.parameters())
        number = len(self.points) + 1
        self.full = ExitPoint(
            FULL, number, embedding_width, 1, ("embedding",), self.operations, self.parameters
        )

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Pools that exits may read at every point but the last."""
        return tuple(pool for pool in self.points[0].pools if all(pool in p.pools for p in self.points))

    def point(self, name: str | int) -> ExitPoint:
        """The point of a name.

        Raises:
            EncoderError: there is none; the message lists what there is.
        """
        for point in (*self.points, self.full):
            if str(name) in (point.name, *self.other_names(point)):
                return point
        names = [point.name for point in self.points]
        if names == [str(number) for number in range(1, len(names) + 1)]:
            raise EncoderError(f"it has the layers 1 to {len(names)}, and {FULL}")
        raise EncoderError(f"it has no such layer; nearest: {self._nearest(str(name))}")

    def at(self, number: int) -> ExitPoint:
        """The point of a number.

        Raises:
            EncoderError: there is none.
        """
        if not 1 <= number <= self.full.number:
            raise EncoderError(f"it has {len(self.points)} blocks")
        return (*self.points, self.full)[number - 1]

    def other_names(self, point: ExitPoint) -> tuple[str, ...]:
        """Names under which a point is found as well."""
        return ()

    def _nearest(self, name: str) -> str:
        """The points whose stage and block are next to those of a name, with what they cost."""
        wanted = _stage_and_block(name)

        def distance(point: ExitPoint) -> tuple[int, int]:
            stage, block = _stage_and_block((point.name, *self.other_names(point))[-1])
            return abs(stage - wanted[0]), abs(block - wanted[1])

        near = sorted(sorted(self.points, key=distance)[:NEAREST], key=lambda point: point.number)
        described = (
            f"{point.name} ({point.operations / self.operations:.0%} of the operations)" for point in near
        )
        return f"{', '.join(described)}, {FULL}"

    @abstractmethod
    def stem(self, preprocessing: Preprocessing) -> Part:
        """The part from pixels, uint8 (B, H, W, 3), to the first state, scaling and normalisation inside."""

    @abstractmethod
    def segment(self, start: int, end: int) -> tuple[Part, ...]:
        """The parts from the state behind one point to that behind another; 0 stands for the stem."""

    @abstractmethod
    def readout(self, point: ExitPoint, pool: Pool, *, goes_on: bool) -> Readout:
        """The part of the exit at a point.

        Args:
            point: one of `points`, or `full`.
            pool: one of its pools.
            goes_on: whether the state behind the point is computed anyway, for later exits.
        """

    @abstractmethod
    def spread(self, point: ExitPoint) -> nn.Module:
        """The mean squared distance of the positions of the state at a point from their mean, (B,)."""

    @abstractmethod
    def activations(self, images: Tensor) -> Activations:
        """The library's own forward pass over pictures, float (B, 3, H, W), scaled and normalised."""

    @abstractmethod
    def activation(self, images: Tensor, point: ExitPoint, pool: Pool) -> Tensor:
        """The activation (B, D) at one point by the library's own forward pass, no further than there."""


def _stage_and_block(name: str) -> tuple[int, int]:
    """The numbers of `5.2`; 0 for what is no number."""
    stage, _, block = name.partition(".")
    return int(stage) if stage.isdecimal() else 0, int(block) if block.isdecimal() else 0
