"""An export, step by step: heads in, one model file out.

A static file is one of a single exit: every step is the same for one exit and for several, but that several
have gates to fit, which decide who leaves where.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from tgems_edge.errors import InputError
from tgems_edge.model_file.card import Resizing
from tgems_edge.model_file.gate import IMAGE, INPUT
from tgems_edge.progress import Reporter
from tgems_export.exporting.answers import FileGraph, answer
from tgems_export.exporting.dynamic.choosing import choose_exits
from tgems_export.exporting.dynamic.gates import check_budget
from tgems_export.exporting.exits import Exit, load_exits
from tgems_export.exporting.graph.assembly import flat, nested
from tgems_export.exporting.graph.exit_graph import ExitGraph
from tgems_export.exporting.graph.onnx_graph import set_temperature, to_onnx
from tgems_export.exporting.graph.resizing import compare_resizing, resizing_graph, with_resizing
from tgems_export.exporting.measuring import calibrate_card, calibration_of_head, measure, pass_gate
from tgems_export.exporting.parity import check_parity
from tgems_export.exporting.picture_sets import read_picture_sets
from tgems_export.exporting.pixels import Resize, read_pictures
from tgems_export.exporting.quantization.int8 import make_int8
from tgems_export.exporting.sealing import ModelFile, make_card, make_samples, write_model
from tgems_export.exporting.settings import ExportSettings
from tgems_export.pictures import draw_many
from tgems_export.storage.outputs import check_output_file
from tgems_export.threads import one_thread, open_on_one_thread

__all__ = ["export_exits", "export_model"]

DRAWN_PICTURES = 64


def export_model(settings: ExportSettings, reporter: Reporter) -> ModelFile:
    """Loads exits and writes them into one model file; raises what `load_exits` and `export_exits` raise."""
    check_output_file(settings.output, overwrite=settings.overwrite)
    return export_exits(load_exits(settings.exits), settings, reporter)


@one_thread()
def export_exits(exits: Sequence[Exit], settings: ExportSettings, reporter: Reporter) -> ModelFile:
    """Writes the model file, if the graph computes what PyTorch computes and INT8 costs no more than it may.

    Args:
        exits: one, or several for a dynamic file, in the order of the tower.
        settings: see `ExportSettings`; `settings.exits` has done its work.
        reporter: where progress goes.

    Raises:
        ParityError: the graph differs from PyTorch, or its resizing from Pillow; nothing was written.
        AccuracyError: INT8 costs more accuracy than it may; nothing was written.
        InputError: the file exists, or the graph cannot be written as asked.
        DataError: pictures that cannot be used, or are needed and were not given.
    """
    check_output_file(settings.output, overwrite=settings.overwrite)
    chosen, preprocessing = settings.graph, exits[0].encoder.preprocessing
    sets = read_picture_sets(settings.pictures, exits, chosen.precision, reporter)
    # The graph of all exits, in floating point
    exact, operations = _make_graph(exits, settings, reporter)
    # Every picture, once
    pictures = read_pictures(exits, sets, _resize(settings, exits[0]), reporter)
    parity = check_parity(exits, exact, chosen.floats, pictures.compared, DRAWN_PICTURES, reporter)
    # In integers, and with gates
    int8, quantisation = make_int8(exact, chosen, settings.int8, sets, pictures, preprocessing, reporter)
    written, dynamic = choose_exits(
        exits, operations, exact, int8, pictures.calibration, settings.dynamic.budget, reporter
    )
    # The graph of the file, which answers labelled pictures without the resizing that was done already
    layers = [exit_.layer for exit_ in written]
    assemble = nested if settings.dynamic.nested else flat
    model = assemble(int8 or exact, layers)
    graph = FileGraph.open(model, INPUT, preprocessing)
    resizing = None
    if chosen.input == IMAGE:
        model, resizing = _add_resizing(model, graph, chosen.opset, reporter)
    card = make_card(exits[0], settings.graph, parity, written, dynamic, quantisation, resizing)
    # What is fitted and measured on labelled pictures
    if pictures.calibration:
        calibrated = answer(graph, pictures.calibration, card, "calibrating", reporter)
        card = calibrate_card(card, calibrated, pictures.calibration.pictures)
        if dynamic is None:
            set_temperature(model, card.last_exit.layer, card.last_exit.k, card.last_exit.temperature)
        if pictures.measuring:
            measured = answer(graph, pictures.measuring, card, "measuring", reporter)
            card = dataclasses.replace(card, accuracy=measure(measured, pictures.measuring.pictures))
            if quantisation and sets.is_gated:
                floats = FileGraph.open(assemble(exact, layers), INPUT, preprocessing)
                reference = answer(floats, pictures.measuring, card, "measuring it in fp32", reporter)
                gate = pass_gate(measured, reference, pictures.measuring.pictures, settings.int8.limits)
                card = dataclasses.replace(card, quantisation=dataclasses.replace(quantisation, gate=gate))
    elif dynamic is None and (known := calibration_of_head(exits[0], card)):
        card = known
        set_temperature(model, card.last_exit.layer, card.last_exit.k, card.last_exit.temperature)
    # The file
    samples = make_samples(FileGraph.open(model, chosen.input, preprocessing))
    return write_model(model, dataclasses.replace(card, samples=samples), settings)


def _make_graph(
    exits: Sequence[Exit], settings: ExportSettings, reporter: Reporter
) -> tuple[onnx.ModelProto, list[int]]:
    """The graph, and the operations of one picture up to each exit."""
    encoder, layers = exits[0].encoder, [exit_.card.layer for exit_ in exits]
    if len(exits) > 1 and settings.graph.precision == "fp16":
        raise InputError("--dynamic with --precision fp16: choose fp32 or int8")
    blocks = f"block{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
    reporter.say(f"cutting {encoder.id.name} behind {blocks} of {encoder.blocks}")
    graph = ExitGraph(encoder, [exit_.cut for exit_ in exits], exits[0].text, settings.graph.floats)
    if len(exits) > 1:  # before all that takes minutes
        check_budget(graph.operations[0] / encoder.tower.operations, settings.dynamic.budget)
    return to_onnx(graph, encoder.preprocessing.size, settings.graph.opset), graph.operations


def _resize(settings: ExportSettings, exit_: Exit) -> Resize | None:
    """Return the resizing of the file, if it resizes."""
    if settings.graph.input != IMAGE:
        return None
    resizing = resizing_graph(exit_.encoder.preprocessing, settings.graph.opset)
    session = open_on_one_thread(resizing.SerializeToString())

    def resize(picture: Image.Image) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = session.run([INPUT], {IMAGE: np.asarray(picture)})[0][0]
        return pixels

    return resize


def _add_resizing(
    model: onnx.ModelProto, graph: FileGraph, opset: int, reporter: Reporter
) -> tuple[onnx.ModelProto, Resizing]:
    """A graph that takes whole pictures, and how its resizing compares with Pillow's."""
    reporter.say("comparing its resizing with Pillow's")
    whole = with_resizing(model, graph.preprocessing, opset)
    return whole, compare_resizing(whole, graph.preprocessing, graph.session, draw_many(DRAWN_PICTURES))
