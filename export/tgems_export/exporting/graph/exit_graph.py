"""One exit or several of a tower as one graph, from uint8 pixels to what each of them says.

The trained parts stay as they are; a tower and a head give modules that say the same thing in a form that a
runtime likes. Nothing behind an exit is part of it, and what several exits share is computed once.

A picture leaves at an exit that is not the last (LRA-EE, arXiv 2605.26415, eq. 4) if

    sigmoid(w . (confidence, margin, spread) + b) >= threshold

for the largest probability, its lead over the second, and the mean squared distance of the patch tokens
from their mean. With logit(threshold) inside b it goes on if w . (confidence, margin, spread) + b < 0.

This graph computes everything, whatever its gates say, so it can be compared, quantised, calibrated and have
its gates fitted; `assembly` makes the file of it. It has, for an exit at layer l,

    rates_l (B, C), probabilities_l (B, C)      and, for all but the last, spread_l (B,), go_on_l (B,)

and constants that can be set: posterior_scale_l and, for all but the last, gate_weight_l (3,), gate_bias_l.

With fp16 the tower computes in half precision, which is nearly all of the work; its stem, whose folded
weights are too small for it, and the rates, which square and cancel, stay in fp32.

B pictures, C classes, D width of an activation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.towers.base import Part, Pool
from tgems_export.encoders.towers.operations import count_linears
from tgems_export.heads.base import ExitHead

__all__ = ["GATED", "POSTERIOR_SCALE", "Cut", "ExitGraph", "Precision", "TowerGraph"]

OWN = ("rates", "probabilities")  # of every exit
GATED = (*OWN, "spread", "go_on")  # of every exit but the last
POSTERIOR_SCALE = "posterior_scale"  # -K / T, with T = 1 until it is calibrated

Precision = Literal["fp32", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class Cut:
    """Where a tower is cut, what is read there, and the head behind it."""

    layer: int  # number of the exit point
    pool: Pool
    head: ExitHead


class TowerGraph(nn.Module):
    """An image tower up to one of its points, from pixels to the states behind stem and points."""

    def __init__(self, encoder: Encoder, end: int, precision: Precision = "fp32"):
        """Up to the point of the number `end`; up to the stem alone with 0."""
        super().__init__()
        self.dtype = DTYPES[precision]
        stem = encoder.tower.stem(encoder.preprocessing)
        segments = [encoder.tower.segment(number, number + 1) for number in range(end)]
        parts = list({id(part.module): part for segment in segments for part in segment}.values())
        places = {id(part.module): place for place, part in enumerate(parts)}
        self.stem = stem.module
        self.steps = nn.ModuleList(part.module for part in parts).to(self.dtype)
        self.order = [[places[id(part.module)] for part in segment] for segment in segments]
        self.part_names = [stem.name, *(part.name for part in parts)]
        self.operations = [stem.operations]  # of one picture, up to each state
        for segment in segments:
            self.operations.append(self.operations[-1] + sum(part.operations for part in segment))
        self.eval().requires_grad_(False)

    @property
    def outputs(self) -> list[str]:
        """Names of what `forward` returns."""
        return [f"tokens_{number}" for number in range(len(self.order) + 1)]

    @property
    def parts(self) -> dict[str, str]:
        """By the name of a parameter, the part of the tower that it belongs to."""
        modules = [("stem", self.stem), *((f"steps.{i}", step) for i, step in enumerate(self.steps))]
        return {
            f"{path}.{name}": title
            for (path, module), title in zip(modules, self.part_names, strict=True)
            for name, _ in module.named_parameters()
        }

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, H, W, 3) to all states."""
        return tuple(self.states(pixels))

    def states(self, pixels: Tensor) -> Iterator[Tensor]:
        """The states in order; none is computed before it is asked for."""
        state = self.stem(pixels).to(self.dtype)
        yield state
        for step in self.order:
            for place in step:
                state = self.steps[place](state)
            yield state


class ExitGraph(nn.Module):
    """One exit or several of an image tower, from pixels to what each of them says."""

    def __init__(self, encoder: Encoder, cuts: Sequence[Cut], text: Tensor, precision: Precision = "fp32"):
        """For classes with text embeddings (C, E); cuts in the order of their layers."""
        super().__init__()
        tower, last = encoder.tower, cuts[-1]
        readouts = [tower.readout(tower.at(cut.layer), cut.pool, goes_on=cut is not last) for cut in cuts]
        self.layers = [cut.layer for cut in cuts]
        self.behind = [readout.behind for readout in readouts]  # the states that the exits read
        self.tower = TowerGraph(encoder, self.behind[-1], precision)
        self.readouts = nn.ModuleList(readout.part.module for readout in readouts).to(self.tower.dtype)
        self.heads = nn.ModuleList(cut.head.readout(text) for cut in cuts)
        self.spreads = nn.ModuleList(tower.spread(tower.at(cut.layer)) for cut in cuts[:-1])
        self.readout_names = [
            _named(readout.part, place, len(cuts)) for place, readout in enumerate(readouts)
        ]
        # What a picture that leaves at each exit takes, heads of earlier exits included.
        self.operations: list[int] = []
        behind = 0
        for readout, head in zip(readouts, self.heads, strict=True):
            behind += readout.part.operations + count_linears(1, head)
            self.operations.append(self.tower.operations[readout.behind] + behind)
        # Tensors, so that they have names in the file: temperatures and gates are fitted on what it says.
        for cut in cuts:
            self.register_buffer(f"{POSTERIOR_SCALE}_{cut.layer}", torch.tensor(-float(cut.head.k)))
        for layer in self.layers[:-1]:
            self.register_buffer(f"gate_weight_{layer}", torch.zeros(3))
            self.register_buffer(f"gate_bias_{layer}", torch.tensor(0.0))
        self.eval().requires_grad_(False)

    @property
    def outputs(self) -> list[str]:
        """Names of what `forward` returns."""
        *gated, last = self.layers
        return [f"{what}_{layer}" for layer in gated for what in GATED] + [f"{what}_{last}" for what in OWN]

    @property
    def parts(self) -> dict[str, str]:
        """By the name of a parameter, the part of the tower that it belongs to."""
        named = {f"tower.{name}": part for name, part in self.tower.parts.items()}
        for place, (readout, title) in enumerate(zip(self.readouts, self.readout_names, strict=True)):
            named |= {f"readouts.{place}.{name}": title for name, _ in readout.named_parameters()}
        return named

    @property
    def head_layers(self) -> dict[str, int]:
        """By the name of a parameter, the exit to whose head it belongs."""
        return {
            f"heads.{place}.{name}": layer
            for place, (layer, head) in enumerate(zip(self.layers, self.heads, strict=True))
            for name, _ in head.named_parameters()
        }

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, H, W, 3) to `outputs`."""
        return tuple(tensor for answer in self.answers(pixels) for tensor in answer)

    def answers(self, pixels: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """What each exit says; nothing behind an exit is computed before the next is asked for."""
        states = enumerate(self.tower.states(pixels))
        number, state = next(states)
        exits = zip(self.layers, self.behind, self.readouts, self.heads, (*self.spreads, None), strict=True)
        for layer, behind, readout, head, measure_spread in exits:
            while number < behind:
                number, state = next(states)
            rates = head(readout(state).float())
            probabilities = torch.softmax(self.get_buffer(f"{POSTERIOR_SCALE}_{layer}") * rates, 1)
            if measure_spread is None:  # the last
                yield rates, probabilities
            else:
                spread = measure_spread(state)
                yield rates, probabilities, spread, self._go_on(layer, probabilities, spread)

    def _go_on(self, layer: int, probabilities: Tensor, spread: Tensor) -> Tensor:
        """Whether pictures go on behind this exit, (B,)."""
        best, second = probabilities.topk(2)[0].chunk(2, 1)  # (B, 1)
        features = torch.cat([best, best - second, spread.unsqueeze(1)], 1)
        # A sum and no product of matrices, which a quantiser would take for one of the tower's.
        score = (features * self.get_buffer(f"gate_weight_{layer}")).sum(1)
        return score + self.get_buffer(f"gate_bias_{layer}") < 0


def _named(part: Part, place: int, exits: int) -> str:
    """The name of a part that one exit alone reads through."""
    return part.name if exits == 1 else f"{part.name} of exit {place + 1}"
