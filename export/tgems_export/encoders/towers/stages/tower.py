"""Towers that torch exports: a stem and stages of a library's own blocks, with a point behind every block.

A ViT has a graph of its own (`vit`), since attention gains from it. The blocks of all other towers go into
the graph as the library wrote them, with every BatchNorm folded into the convolution in front of it. A family
says where its blocks lie; this file does the rest.

The end of stage 5 is called `5`, its second block `5.2`. Width and positions change from stage to stage.

B pictures, D width and positions (h, w) or L of a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tgems_edge.model_file.card import Preprocessing
from tgems_export.encoders.towers.base import Activations, ExitPoint, Part, Pool, Readout, Tower
from tgems_export.encoders.towers.operations import count_operations
from tgems_export.encoders.towers.stages.folding import fold

__all__ = ["MAP", "ROWS", "TOKENS", "StagedTower", "Step", "Structure"]

# Which axes of a state are its positions.
MAP = (2, 3)  # (B, D, h, w)
ROWS = (1, 2)  # (B, h, w, D)
TOKENS = (1,)  # (B, L, D)


@dataclass(frozen=True)
class Step:
    """The modules between one point and the next, the block last."""

    modules: tuple[nn.Module, ...]
    axes: tuple[int, ...] = MAP  # of the positions in the state behind it
    prefix: int = 0  # tokens in front of the patches; the first of them is the class token

    def pooled(self, state: Tensor, pool: Pool) -> Tensor:
        """The activation (B, D) of a state behind the block."""
        return state[:, 0] if pool == "cls" else self.patches(state).mean(self.axes)

    def patches(self, state: Tensor) -> Tensor:
        """The state without its prefix tokens."""
        return state[:, self.prefix :] if self.prefix else state


@dataclass(frozen=True)
class Structure:
    """The modules of a tower in the order in which a picture passes them."""

    stem: nn.Module  # pictures (B, 3, H, W), normalised, to the first state
    stages: Sequence[Sequence[Step]]
    behind: nn.Module  # the last state to the joint embedding (B, E)


class StagedTower(Tower):
    """A tower of stages, of which a family's own file says where its modules lie."""

    def __init__(self, module: nn.Module, structure: Structure, size: tuple[int, int]):
        """Read a tower for pictures of a size (H, W)."""
        self._structure = structure
        steps = [step for stage in structure.stages for step in stage]
        state = torch.empty(1, 3, *size, device="meta")
        self._stem_operations, state = count_operations(structure.stem, state)
        operations, parameters = self._stem_operations, _count_parameters(structure.stem)
        names = _names(structure.stages)
        points = []
        self._step_operations = []
        for number, (step, name) in enumerate(zip(steps, names, strict=True), start=1):
            taken, state = count_operations(nn.Sequential(*step.modules), state)
            self._step_operations.append(taken)
            operations += taken
            parameters += sum(_count_parameters(part) for part in step.modules)
            positions = 1
            for axis in step.axes:
                positions *= state.shape[axis]
            width = state.numel() // positions
            pools: tuple[Pool, ...] = ("cls", "mean") if step.prefix else ("mean",)
            points.append(ExitPoint(name, number, width, positions, pools, operations, parameters))
        self._behind_operations, embedding = count_operations(structure.behind, state)
        self._steps = steps
        operations += self._behind_operations
        super().__init__(module, size, points, operations, embedding.shape[1])
        module.to(memory_format=torch.channels_last)  # three times as fast on a CPU

    def other_names(self, point: ExitPoint) -> tuple[str, ...]:
        """`5.4` for the end of a stage 5 of four blocks, which is called `5`."""
        if len(self._structure.stages) == 1:
            return ()
        seen = 0
        for number, stage in enumerate(self._structure.stages, start=1):
            seen += len(stage)
            if point.number == seen:
                return (f"{number}.{len(stage)}",)
        return ()

    def stem(self, preprocessing: Preprocessing) -> Part:
        """See `Tower`."""
        return Part("stem", _Stem(fold(self._structure.stem), preprocessing), self._stem_operations)

    def segment(self, start: int, end: int) -> tuple[Part, ...]:
        """See `Tower`; the state is as the library has it."""
        return tuple(
            Part(
                f"block {self.points[place].name}",
                fold(nn.Sequential(*self._steps[place].modules)),
                self._step_operations[place],
            )
            for place in range(start, end)
        )

    def readout(self, point: ExitPoint, pool: Pool, *, goes_on: bool) -> Readout:
        """See `Tower`."""
        if point is self.full:
            module = _Embedded(fold(self._structure.behind))
            return Readout(len(self.points), Part("projection", module, self._behind_operations))
        return Readout(point.number, Part(pool, _Pooled(self._step(point), pool), 0))

    def spread(self, point: ExitPoint) -> nn.Module:
        """See `Tower`."""
        return _Spread(self._step(point))

    def _step(self, point: ExitPoint) -> Step:
        return self._steps[point.number - 1]

    def activations(self, images: Tensor) -> Activations:
        """See `Tower`."""
        found: dict[Pool, list[Tensor]] = {pool: [] for pool in self.pools}

        def note(step: Step, state: Tensor) -> None:
            for pool, activations in found.items():
                activations.append(step.pooled(state, pool))

        with self._listening(note):
            embedding = nn.functional.normalize(self._run(images), dim=-1)
        return Activations({pool: tuple(activations) for pool, activations in found.items()}, embedding)

    def activation(self, images: Tensor, point: ExitPoint, pool: Pool) -> Tensor:
        """See `Tower`."""
        if point is self.full:
            return nn.functional.normalize(self._run(images), dim=-1)
        wanted = self._step(point)

        def note(step: Step, state: Tensor) -> None:
            if step is wanted:
                raise _Reached(state)

        with self._listening(note):
            try:
                self._run(images)
            except _Reached as reached:
                return wanted.pooled(reached.state, pool)
        raise AssertionError(f"the tower does not go through {point.name}")

    def _run(self, images: Tensor) -> Tensor:
        """The library's own forward pass."""
        return self.module(images.contiguous(memory_format=torch.channels_last))

    @contextmanager
    def _listening(self, note: Callable[[Step, Tensor], None]) -> Iterator[None]:
        """Calls `note` with every state that the library's own forward pass goes through."""
        handles = [
            step.modules[-1].register_forward_hook(lambda module, inputs, state, step=step: note(step, state))
            for step in self._steps
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Reached(Exception):
    """The point that was asked for is reached; what is behind it is not computed."""

    def __init__(self, state: Tensor):
        super().__init__()
        self.state = state


class _Stem(nn.Module):
    """uint8 (B, H, W, 3) to the first state.

    Scaling is in the first convolution. The mean is subtracted from the pixels, and not in that convolution,
    because it pads with zeros, which stand for the mean.
    """

    def __init__(self, layers: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        first = next(part for part in layers.modules() if isinstance(part, nn.Conv2d))
        scale = 1 / (255 * torch.tensor(preprocessing.std)).to(first.weight)
        first.weight = nn.Parameter(first.weight.detach() * scale.view(1, 3, 1, 1))
        mean = 255 * torch.tensor(preprocessing.mean).to(first.weight)
        self.mean = nn.Parameter(mean.view(1, 3, 1, 1)) if any(preprocessing.mean) else None
        self.layers = layers

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.permute(0, 3, 1, 2).float()
        return self.layers(images if self.mean is None else images - self.mean)


class _Embedded(nn.Module):
    """The joint embedding of the last state, (B, E), of length 1."""

    def __init__(self, behind: nn.Module):
        super().__init__()
        self.behind = behind

    def forward(self, state: Tensor) -> Tensor:
        return nn.functional.normalize(self.behind(state), dim=-1)


class _Pooled(nn.Module):
    """The activation of a state, (B, D)."""

    def __init__(self, step: Step, pool: Pool):
        super().__init__()
        self.step = step
        self.pool = pool

    def forward(self, state: Tensor) -> Tensor:
        return self.step.pooled(state, self.pool)


class _Spread(nn.Module):
    """The mean squared distance of the positions of a state from their mean, (B,)."""

    def __init__(self, step: Step):
        super().__init__()
        self.step = step

    def forward(self, state: Tensor) -> Tensor:
        patches = self.step.patches(state)
        axes = self.step.axes
        squares = (patches - patches.mean(axes, keepdim=True)).square()
        return squares.mean(axes).sum(1)


def _names(stages: Sequence[Sequence[Any]]) -> list[str]:
    """`1.1`, `1.2`, `1`, `2.1` and so on; without stages, `1` to `N`."""
    if len(stages) == 1:
        return [str(block) for block in range(1, len(stages[0]) + 1)]
    return [
        str(number) if block == len(stage) else f"{number}.{block}"
        for number, stage in enumerate(stages, start=1)
        for block in range(1, len(stage) + 1)
    ]


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
