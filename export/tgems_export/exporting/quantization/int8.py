"""Step of an export that makes its graph INT8."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from tgems_edge.errors import InputError
from tgems_edge.model_file.card import Preprocessing, Quantisation
from tgems_edge.progress import Reporter
from tgems_export.exporting.picture_sets import PictureSets
from tgems_export.exporting.pixels import ReadPictures, ReadSet
from tgems_export.exporting.quantization.products import find_products
from tgems_export.exporting.quantization.recipe import Recipe, quantise
from tgems_export.exporting.quantization.search import (
    Quantiser,
    check_different,
    choose_calibrating,
    read_calibrating,
)
from tgems_export.exporting.settings import GraphSettings, Int8Settings

__all__ = ["make_int8"]


def make_int8(
    exact: onnx.ModelProto,
    graph: GraphSettings,
    settings: Int8Settings,
    sets: PictureSets,
    pictures: ReadPictures,
    preprocessing: Preprocessing,
    reporter: Reporter,
) -> tuple[onnx.ModelProto | None, Quantisation | None]:
    """Make the graph INT8, if it is asked for, and say how it was made.

    Args:
        exact: in fp32.
        graph: says whether it is asked for.
        settings: see `Int8Settings`.
        sets: says whether accuracy will be measured, and has pictures without labels.
        pictures: the labelled ones.
        preprocessing: of the encoder.
        reporter: where progress goes.

    Raises:
        InputError: nothing in the graph can be quantized as asked for.
        DataError: too few pictures that differ.
        AccuracyError: INT8 changes too many labels, whatever is kept in fp32.
    """
    if not graph.is_int8:
        return None, None
    if graph.precision == "int8-dynamic":
        if all(product.operator == "Conv" for product in find_products(exact)):
            raise InputError(
                "--precision int8-dynamic: this tower is all convolutions, which are computed in integers "
                "only with known ranges; give --precision int8"
            )
        recipe, images = Recipe(settings.target, None), 0
        int8 = quantise(exact, recipe, {})
    else:
        if sets.unlabelled:
            paths = [sets.unlabelled.path(index) for index in range(len(sets.unlabelled.names))]
            pixels = read_calibrating(paths, preprocessing, reporter)
        else:
            assert pictures.calibration is not None
            pixels = _representative(pictures.calibration)
        quantiser = Quantiser(exact, pixels, reporter)
        recipe, images = quantiser.best(settings.target), quantiser.observed
        if settings.mixed and sets.is_gated:
            recipe = quantiser.keep_costly_parts(recipe, settings.limits)
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


def _representative(calibration: ReadSet) -> NDArray[np.uint8]:
    """Choose pictures that show what activations take, evenly spread."""
    chosen = choose_calibrating(range(len(calibration.pixels)))
    pixels = calibration.pixels[chosen]
    check_different(pixels, calibration.varied[chosen])
    return pixels
