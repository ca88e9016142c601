"""The graph of a file before it is calibrated and sealed: one exit or several, in fp32, fp16 or INT8.

A draft is compared with PyTorch in floating point, exit by exit, and its INT8 with that. What it was made
from stays beside it, so that the finished file can be compared with it on pictures that made neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tgems_edge.errors import DataError, ImageError, InputError
from tgems_edge.model_file.card import Colour, Dynamic, Parity, Quantisation
from tgems_edge.model_file.card import Exit as CardExit
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import decode, read_pixels
from tgems_export.encoders.encoder import Encoder
from tgems_export.exporting.dynamic.decisions import (
    Decision,
    ExitAnswers,
    answer_all,
    decide,
    write,
)
from tgems_export.exporting.dynamic.gates import check_budget, drop_noisy, inr
from tgems_export.exporting.graph.assembly import flat, nested
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.exporting.graph.exit_graph import Precision as FloatPrecision
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.exporting.parity import compare
from tgems_export.exporting.picture_sets import Given, Labelled
from tgems_export.exporting.quantization.products import find_readouts
from tgems_export.exporting.quantization.ranges import with_outputs
from tgems_export.exporting.quantization.recipe import Recipe, Target, quantise
from tgems_export.exporting.quantization.search import Limits, Quantiser, batches, read_calibrating
from tgems_export.heads.base import ExitHead
from tgems_export.heads.file import HeadCard
from tgems_export.pictures import draw_many
from tgems_export.threads import in_order, open_on_one_thread

__all__ = ["Draft", "Dynamics", "Exit", "Form", "Precision", "draft"]

Precision = Literal["fp32", "fp16", "int8", "int8-dynamic"]

DRAWN_PICTURES = 64
COMPARED_PICTURES = 1000  # at most, of those given: PyTorch runs over them too; shared by the exits
NOISY = "INT8 adds too much noise to it (LRA-EE, eq. 6), and accuracy is no lower without it"


@dataclass(frozen=True)
class Dynamics:
    """How several exits share one file."""

    budget: float = 0.6  # operations of a mean picture, as a share of the full tower's
    nested: bool = True  # in branches, which a runtime skips; not every provider knows them


@dataclass(frozen=True)
class Form:
    """What the file is to be like."""

    input: Literal["pixels", "image"] = "pixels"  # resized, or whole pictures that the graph resizes itself
    precision: Precision = "fp32"
    opset: int = 18
    target: Target = "generic"
    limits: Limits = field(default_factory=Limits)
    mixed: bool = True  # whether parts that INT8 costs too much may stay in fp32
    dynamics: Dynamics = field(default_factory=Dynamics)


@dataclass(frozen=True)
class Exit:
    """One of the exits that are to be frozen: an encoder, one of its blocks, and the head behind it."""

    encoder: Encoder
    head: ExitHead
    card: HeadCard
    classes: tuple[str, ...]
    text: Tensor  # (C, E)
    trained_on: list[bytes] | None  # beginnings of the digests of its training pictures, where they are known


@dataclass(frozen=True)
class Draft:
    """A graph with the inputs and outputs of a file, that takes pixels."""

    model: onnx.ModelProto
    exact: onnx.ModelProto | None  # the same in fp32, where it is INT8
    parity: Parity  # of the graph in floating point with PyTorch
    quantisation: Quantisation | None
    exits: tuple[CardExit, ...]  # several are calibrated already, one is not
    dynamic: Dynamic | None


def draft(exits: Sequence[Exit], form: Form, given: Given, reporter: Reporter) -> Draft:
    """Makes the graph of a file.

    Args:
        exits: in the order of their blocks; one, or several for a dynamic file.
        form: see `Form`.
        given: pictures to find ranges on, and labelled ones for the gates of several exits.
        reporter: where progress goes.

    Raises:
        ParityError: a graph differs from PyTorch.
        AccuracyError: INT8 changes too many labels, whatever is spared.
        DataError: pictures that are needed and were not given, or do not do.
        InputError: a form that cannot be had, or a budget that no exit can meet.
    """
    _check_form(exits, form, given)
    encoder, text = exits[0].encoder, exits[0].text
    layers = [exit_.card.layer for exit_ in exits]
    blocks = f"block{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
    reporter.say(f"cutting {encoder.id.name} behind {blocks} of {encoder.blocks}")
    cuts = [Cut(exit_.card.layer, exit_.card.pool, exit_.head) for exit_ in exits]
    floats: FloatPrecision = "fp16" if form.precision == "fp16" else "fp32"
    graph = ExitGraph(encoder, cuts, text, floats)
    if len(exits) > 1:  # before all that takes minutes
        check_budget(graph.operations[0] / encoder.tower.operations, form.dynamics.budget)
    model = to_onnx(graph, encoder.preprocessing.size, form.opset)
    parities = [_check_parity(exit_, model, floats, given, reporter, len(exits)) for exit_ in exits]
    int8, made = _quantise(model, encoder, form, given, reporter)
    written: tuple[CardExit, ...] = (_card_exit(exits[0].card, graph.operations[0]),)
    dynamic = None
    if len(exits) > 1:
        written, dynamic = _decide(exits, cuts, model, int8, form, given, reporter)
        layers = [exit_.layer for exit_ in written]
    assemble = nested if form.dynamics.nested else flat
    return Draft(
        model=assemble(int8 or model, layers),
        exact=assemble(model, layers) if int8 else None,
        parity=max(parities, key=lambda found: found.largest_rate_difference),
        quantisation=made,
        exits=written,
        dynamic=dynamic,
    )


def _check_form(exits: Sequence[Exit], form: Form, given: Given) -> None:
    if form.precision == "int8" and not given.representative:
        raise DataError(
            "--precision int8 needs pictures to find the ranges of its activations: give --calibration "
            "(labels are not needed) or --data; without pictures, --precision int8-dynamic finds them as it "
            "runs"
        )
    if len(exits) > 1:
        if given.calibrates is None:
            raise DataError(
                "--dynamic needs labelled pictures to fit its gates on; give --data or --calibration"
            )
        if form.precision == "fp16":
            raise InputError("--dynamic with --precision fp16: choose fp32 or int8")


def _card_exit(card: HeadCard, operations: int) -> CardExit:
    """An exit as the card of the file will have it, before anything is fitted."""
    return CardExit(card.layer, card.k, card.pool, card.head_kind, operations, None, None)


def _decide(
    exits: Sequence[Exit],
    cuts: Sequence[Cut],
    model: onnx.ModelProto,
    int8: onnx.ModelProto | None,
    form: Form,
    given: Given,
    reporter: Reporter,
) -> tuple[tuple[CardExit, ...], Dynamic]:
    """Which exits stay, and who leaves where; written into the graphs."""
    encoder, budget = exits[0].encoder, form.dynamics.budget
    layers = [cut.layer for cut in cuts]
    assert given.calibrates is not None
    pixels, labelled = _read(given.calibrates, encoder, reporter)
    answers = dict(zip(layers, answer_all(int8 or model, layers, batches(pixels)), strict=True))
    candidates = _Candidates(exits, cuts, answers, labelled.labels, budget)
    noisy = _noisy(model, int8, layers, pixels) if int8 else []
    kept, decision = _without_noisy(candidates, layers, noisy)
    dropped = [layer for layer in layers if layer not in kept]
    for layer in dropped:
        reporter.say(f"exit {layer} dropped: {NOISY}")
    for decides in (model, int8) if int8 else (model,):
        write(decides, decision.exits)
    full = encoder.tower.operations
    return decision.exits, Dynamic(budget, full, dict.fromkeys(map(str, dropped), NOISY))


@dataclass(frozen=True)
class _Candidates:
    """Exits to choose from, and what each of them says of the pictures that calibrate."""

    exits: Sequence[Exit]
    cuts: Sequence[Cut]
    answers: dict[int, ExitAnswers]  # by layer
    labels: NDArray[np.int64]  # (n,)
    budget: float

    def decide(self, layers: Sequence[int]) -> Decision:
        """What some of them decide together."""
        encoder, text = self.exits[0].encoder, self.exits[0].text
        cuts = [cut for cut in self.cuts if cut.layer in layers]
        counts = ExitGraph(encoder, cuts, text).operations
        cards = [exit_.card for exit_ in self.exits if exit_.card.layer in layers]
        exits = [_card_exit(card, operations) for card, operations in zip(cards, counts, strict=True)]
        answers = [self.answers[layer] for layer in layers]
        return decide(answers, self.labels, exits, encoder.tower.operations, self.budget)


def _without_noisy(
    candidates: _Candidates, layers: Sequence[int], noisy: Sequence[int]
) -> tuple[Sequence[int], Decision]:
    """The exits to keep, and what they decide.

    Eq. 6 compares exits of one depth; earlier ones are always less noisy, so it must not cost accuracy.
    """
    decision = candidates.decide(layers)
    without = [layer for layer in layers if layer not in noisy]
    if 1 < len(without) < len(layers):
        with suppress(InputError):  # a budget that only a dropped exit can meet
            if (alternative := candidates.decide(without)).accuracy >= decision.accuracy:
                return without, alternative
    return layers, decision


def _quantise(
    model: onnx.ModelProto, encoder: Encoder, form: Form, given: Given, reporter: Reporter
) -> tuple[onnx.ModelProto | None, Quantisation | None]:
    """The graph in INT8, if it is asked for, and how it was made."""
    if not form.precision.startswith("int8"):
        return None, None
    if form.precision == "int8-dynamic":
        recipe, images = Recipe(form.target, None), 0
        int8 = quantise(model, recipe, {})
    else:
        pixels = read_calibrating(given.representative, encoder.preprocessing, reporter)
        quantiser = Quantiser(model, pixels, reporter)
        recipe, images = quantiser.best(form.target), quantiser.observed
        if form.mixed and given.is_gated:
            recipe = quantiser.spare(recipe, form.limits)
        int8 = quantiser.make(recipe)
    return int8, Quantisation(
        scheme="static" if recipe.ranges else "dynamic",
        target=recipe.target,
        ranges=recipe.ranges,
        images=images,
        equalised=recipe.equalised,
        kept=recipe.kept,
        gate=None,
    )


def _check_parity(
    exit_: Exit,
    model: onnx.ModelProto,
    precision: FloatPrecision,
    given: Given,
    reporter: Reporter,
    exits: int,
) -> Parity:
    """How an exit of a graph in floating point compares with PyTorch, on drawn pictures and on given ones."""
    session = open_on_one_thread(model.SerializeToString())
    what = (session, exit_.encoder, exit_.card.layer, exit_.card.pool, exit_.head, exit_.text)
    drawn = _counted(draw_many(DRAWN_PICTURES), DRAWN_PICTURES, reporter)
    parity = compare(*what, drawn, "drawn from a seed, all aspect ratios", precision)
    if real := given.measures or given.calibrates:
        paths = real.paths[:: -(-len(real.paths) * exits // COMPARED_PICTURES)]
        counted = _counted(
            _decoded(paths, exit_.encoder.colour), len(paths), reporter
        )  # one batch in memory at a time
        of = "of --data" if given.measures else "of --calibration"
        if readable := next(counted, None):
            given_ones = chain([readable], counted)
            parity = _worse(parity, compare(*what, given_ones, of, precision))
    return parity


def _decoded(paths: Iterable[Path], colour: Colour | None) -> Iterator[Image.Image]:
    """Those pictures that can be read; who needs them all says which cannot."""
    for path in paths:
        with suppress(ImageError):
            yield decode(path, colour=colour)


def _counted(pictures: Iterable[Image.Image], total: int, reporter: Reporter) -> Iterator[Image.Image]:
    """The same pictures, with progress."""
    with reporter.task("comparing it with PyTorch", total, unit="pictures") as task:
        for picture in pictures:
            yield picture
            task.advance(1)


def _worse(one: Parity, other: Parity) -> Parity:
    """Both comparisons in one, with the larger difference."""
    pictures = one.pictures + other.pictures
    agreeing = one.label_agreement * one.pictures + other.label_agreement * other.pictures
    return Parity(
        pictures=pictures,
        of=f"{one.pictures} {one.of}; {other.pictures} {other.of}",
        largest_rate_difference=max(one.largest_rate_difference, other.largest_rate_difference),
        label_agreement=agreeing / pictures,
    )


def _read(labelled: Labelled, encoder: Encoder, reporter: Reporter) -> tuple[NDArray[np.uint8], Labelled]:
    """Pictures as the graph takes them, (n, H, W, 3), and which of them these are."""
    pixels, readable = [], []
    with reporter.task("reading pictures", len(labelled.members), unit="pictures") as task:
        for position, path in enumerate(labelled.paths):
            task.advance(1)
            with suppress(ImageError):  # calibrating says which
                pixels.append(read_pixels(path, encoder.preprocessing))
                readable.append(position)
    if not pixels:
        raise DataError(f"{labelled.folder.root}: none of its pictures can be read")
    return np.stack(pixels), labelled.only(np.array(readable))


def _noisy(
    exact: onnx.ModelProto, int8: onnx.ModelProto, layers: Sequence[int], pixels: NDArray[np.uint8]
) -> list[int]:
    """The exits to which INT8 adds too much noise (LRA-EE, eq. 6)."""
    clean, noisy = (_activations(model, pixels) for model in (exact, int8))
    return [layer for layer, drop in zip(layers, drop_noisy(inr(clean, noisy)), strict=True) if drop]


def _activations(model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """What the head of every exit reads, (n, D) each."""
    read = find_readouts(model)
    session = open_on_one_thread(with_outputs(model, read))
    runs = in_order(partial(session.run, read), ({INPUT: batch} for batch in batches(pixels)))
    return [np.concatenate(column) for column in zip(*runs, strict=True)]
