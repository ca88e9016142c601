"""Resizing and cropping inside the graph, for callers that have no Pillow: C++, JavaScript, phones.

The arithmetic of the sizes is that of `tgems_edge.runtime.images.to_pixels`, and so of torchvision and
open_clip.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime
from onnx import compose, parser
from PIL import Image

from tgems_edge.errors import ParityError
from tgems_edge.model_file.card import Preprocessing, Resizing, resampling
from tgems_edge.model_file.gate import IMAGE, INPUT
from tgems_edge.runtime.images import to_pixels
from tgems_export.exporting.graph.resampling import resampling_text
from tgems_export.threads import open_on_one_thread

__all__ = ["compare_resizing", "resizing_graph", "with_resizing"]

NEAR = 1  # grey levels
NEAR_SHARE = 0.999  # of all pixels

# (height, width) of the picture to that of the resized one. Integers divide towards zero, as Python's
# int(S * long / short) does; Round rounds half to even, as Python's round does.
SHORTEST_SQUARE = """
    short = ReduceMin <keepdims = 1> (size)
    scaled = Mul (size, model)
    resized = Div (scaled, short)
"""
KEEP_RATIO = """
    exact = Cast <to = 11> (size)
    exact_model = Cast <to = 11> (model)
    ratios = Div (exact, exact_model)
    ratio = {reduce} <keepdims = 1> (ratios)
    exact_resized = Div (exact, ratio)
    rounded = Round (exact_resized)
    whole = Cast <to = 7> (rounded)
    at_least_one = Constant <value_ints = [1]> ()
    resized = Max (whole, at_least_one)
"""
SQUASH = """
    resized = Identity (model)
"""
GRAPH = """
<ir_version: 8, opset_import: ["": {opset}]>
resizing (uint8[H, W, 3] {image}) => (uint8[1, {height}, {width}, 3] {pixels}) {{
    size = Shape <end = 2> ({image})
    model = Constant <value_ints = [{height}, {width}]> ()
    {resized}
    zeros = Constant <value_ints = [0, 0]> ()
    twos = Constant <value_ints = [2, 2]> ()
    larger = Sub (resized, model)
    surplus = Max (larger, zeros)
    half_surplus = Div (surplus, twos)
    odd = Mod (surplus, twos)
    odd_half = Mod (half_surplus, twos)
    up = Mul (odd, odd_half)
    start = Add (half_surplus, up)
    missing = Sub (surplus, larger)
    before = Div (missing, twos)
    first = Sub (start, before)
    {resampling}
    {padded}
    {pixels} = Unsqueeze (padded, axis_0)
}}
"""
WITHOUT_PADDING = """
    padded = Identity (resampled)
"""
PADDING = """
    rows_same = Equal (rows_wanted, rows_index)
    columns_same = Equal (columns_wanted, columns_index)
    rows_mask_shape = Constant <value_ints = [-1, 1, 1]> ()
    columns_mask_shape = Constant <value_ints = [-1, 1]> ()
    rows_all = Reshape (rows_same, rows_mask_shape)
    columns_all = Reshape (columns_same, columns_mask_shape)
    rows_count, columns_count = Split <axis = 0> (model, each)
    rows_inside = Slice (rows_all, axis_0, rows_count, axis_0)
    columns_inside = Slice (columns_all, axis_0, columns_count, axis_0)
    inside = And (rows_inside, columns_inside)
    fill = Constant <value = uint8 {{{fill}}}> ()
    padded = Where (inside, resampled, fill)
"""


def resizing_graph(preprocessing: Preprocessing, opset: int) -> onnx.ModelProto:
    """uint8 (H, W, 3) of any size to uint8 (1, H, W, 3) of the model's size, as one ONNX model."""
    height, width = preprocessing.size
    mode, padded = preprocessing.resize_mode, WITHOUT_PADDING
    if mode == "squash":
        resized = SQUASH
    elif mode == "longest":
        resized = KEEP_RATIO.format(reduce="ReduceMax")
        padded = PADDING.format(fill=preprocessing.fill_color)
    elif height == width:
        resized = SHORTEST_SQUARE
    else:
        resized = KEEP_RATIO.format(reduce="ReduceMin")
    text = GRAPH.format(
        opset=opset,
        image=IMAGE,
        pixels=INPUT,
        height=height,
        width=width,
        resized=resized,
        resampling=resampling_text(preprocessing.size, resampling(preprocessing), IMAGE),
        padded=padded,
    )
    model = parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def with_resizing(model: onnx.ModelProto, preprocessing: Preprocessing, opset: int) -> onnx.ModelProto:
    """A model that takes one whole picture, from one that takes resized ones."""
    resizing = resizing_graph(preprocessing, opset)
    resizing.ir_version = model.ir_version
    resizing = compose.add_prefix(resizing, "resizing/", rename_inputs=False, rename_outputs=False)
    return compose.merge_models(resizing, model, io_map=[(INPUT, INPUT)])


def compare_resizing(
    model: onnx.ModelProto,
    preprocessing: Preprocessing,
    resized: onnxruntime.InferenceSession,
    pictures: Iterable[Image.Image],
) -> Resizing:
    """Compares the resizing of a model from `with_resizing` with Pillow's.

    Args:
        model: takes whole pictures.
        preprocessing: of its encoder.
        resized: the same model without its resizing.
        pictures: RGB, any size.

    Raises:
        ParityError: more than one pixel in a thousand is off by more than one grey level.
    """
    inspected = onnx.ModelProto()
    inspected.CopyFrom(model)
    inspected.graph.output.append(onnx.ValueInfoProto(name=INPUT))
    session = open_on_one_thread(inspected.SerializeToString())
    near, total, largest, equal, count = 0, 0, 0, 0, 0
    for picture in pictures:
        ours, label = session.run([INPUT, "label"], {IMAGE: np.asarray(picture)})
        pillows = to_pixels(picture, preprocessing)[None]
        difference = np.abs(ours.astype(int) - pillows)
        near += int((difference <= NEAR).sum())
        total += difference.size
        largest = max(largest, int(difference.max()))
        equal += int(label[0] == resized.run(["label"], {INPUT: pillows})[0][0])
        count += 1
    if near < NEAR_SHARE * total:
        raise ParityError(
            f"resizing inside the graph differs from Pillow's by more than {NEAR} grey level on "
            f"{1 - near / total:.2%} of pixels (allowed {1 - NEAR_SHARE:.1%}); nothing was written"
        )
    return Resizing(count, near / total, largest, equal / count)
