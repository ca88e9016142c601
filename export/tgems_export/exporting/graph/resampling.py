"""Pillow's resampling inside a graph, as matrix products, which every runtime computes alike.

ONNX has `Resize` for it, but OpenVINO's own reader of ONNX files (2026.4) leaves its `antialias` out: 44 % of
the pixels of photographs are then off by more than one grey level. The products also take less time, and
more memory (benchmarks/results/resizing.md).

Along one axis, output i of n is the sum over the inputs j of m of weights[j, i] * input[j], where

    weights[j, i] = kernel(|j + 0.5 - centre[i]| / max(m / n, 1)), divided by their sum over j
    centre[i] = (i + 0.5) * m / n

and the kernel is 0 from `radius` on. So a matrix of weights is 0 beside a band, and outputs are computed in
blocks of neighbours, each from those inputs only that its part of the band covers. As in Pillow, columns come
first, and what they give is rounded to grey levels.

Distances are integers, in units of 1 / (2 n) inputs, up to the argument of the kernel: in floats, a runtime
that computes in half precision unasked would shift the picture.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["resampling_text"]

# Outputs of a block. Fewer waste less on zeros beside the band, but overlap more and are more operators.
BLOCK = 16

CONSTANTS = """
    zero = Constant <value_float = 0.0> ()
    half = Constant <value_float = 0.5> ()
    white = Constant <value_float = 255.0> ()
    radius = Constant <value_ints = [{radius}]> ()
    first_of_all = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    axis_0 = Constant <value_ints = [0]> ()
    axis_1 = Constant <value_ints = [1]> ()
    axes_01 = Constant <value_ints = [0, 1]> ()
    twice = Constant <value_ints = [2]> ()
    flat = Constant <value_ints = [-1]> ()
    lasts = Sub (resized, axis_1)
    each = Constant <value_ints = [1, 1]> ()
    rows_inputs, columns_inputs = Split <axis = 0> (size, each)
    rows_outputs, columns_outputs = Split <axis = 0> (resized, each)
    rows_last, columns_last = Split <axis = 0> (lasts, each)
    rows_first, columns_first = Split <axis = 0> (first, each)
"""
# Indices, [blocks, outputs of one], of the outputs that are wanted. Those outside of the resized picture
# become its border: every block is as large as the others, and `longest` leaves room at the sides.
# A block reads `length` inputs, from `start` up to `end`, both [blocks]; division rounds towards 0.
WEIGHTS = """
    {axis}_counted = Constant <value = int64[{blocks}, {block}] {{{counted}}}> ()
    {axis}_wanted = Add ({axis}_counted, {axis}_first)
    {axis}_from_0 = Max ({axis}_wanted, axis_0)
    {axis}_index = Min ({axis}_from_0, {axis}_last)
    {axis}_index_twice = Mul ({axis}_index, twice)
    {axis}_index_odd = Add ({axis}_index_twice, axis_1)
    {axis}_centre = Mul ({axis}_index_odd, {axis}_inputs)

    {axis}_larger = Max ({axis}_inputs, {axis}_outputs)
    {axis}_reach = Mul ({axis}_larger, twice)
    {axis}_support = Mul ({axis}_reach, radius)
    {axis}_spacing = Mul ({axis}_outputs, twice)

    {axis}_steps = Constant <value_ints = [{steps}]> ()
    {axis}_between = Mul ({axis}_inputs, {axis}_steps)
    {axis}_covered = Add ({axis}_between, {axis}_support)
    {axis}_covered_inputs = Div ({axis}_covered, {axis}_outputs)
    {axis}_enough = Add ({axis}_covered_inputs, twice)
    {axis}_length = Min ({axis}_enough, {axis}_inputs)
    {axis}_latest = Sub ({axis}_inputs, {axis}_length)
    {axis}_centre_0 = Slice ({axis}_centre, axis_0, axis_1, axis_1)
    {axis}_earliest = Sub ({axis}_centre_0, {axis}_support)
    {axis}_earliest_input = Div ({axis}_earliest, {axis}_spacing)
    {axis}_bounded = Max ({axis}_earliest_input, axis_0)
    {axis}_upright = Min ({axis}_bounded, {axis}_latest)
    {axis}_start = Squeeze ({axis}_upright, axis_1)
    {axis}_end = Add ({axis}_start, {axis}_length)

    {axis}_start_at = Mul ({axis}_upright, {axis}_spacing)
    {axis}_start_from_centre = Sub ({axis}_start_at, {axis}_centre)
    {axis}_offset = Reshape ({axis}_start_from_centre, flat)
    {axis}_scalar_length = Squeeze ({axis}_length)
    {axis}_places = Range (first_of_all, {axis}_scalar_length, step)
    {axis}_place = Unsqueeze ({axis}_places, axis_1)
    {axis}_place_twice = Mul ({axis}_place, twice)
    {axis}_place_odd = Add ({axis}_place_twice, axis_1)
    {axis}_place_at = Mul ({axis}_place_odd, {axis}_outputs)
    {axis}_apart = Add ({axis}_place_at, {axis}_offset)
    {axis}_distance = Abs ({axis}_apart)
    {axis}_near = Min ({axis}_distance, {axis}_support)
    {axis}_to_end = Sub ({axis}_support, {axis}_near)
    {axis}_float_to_end = Cast <to = 1> ({axis}_to_end)
    {axis}_float_reach = Cast <to = 1> ({axis}_reach)
    {axis}_u = Div ({axis}_float_to_end, {axis}_float_reach)
    {kernel}
    {axis}_sum = ReduceSum <keepdims = 1> ({axis}_kernel, axis_0)
    {axis}_weights = Div ({axis}_kernel, {axis}_sum)
    {axis}_widths = Constant <value_ints = {widths}> ()
    {axis}_singles = Constant <value_ints = {singles}> ()
    {weights} = Split <axis = 1> ({axis}_weights, {axis}_widths)
"""
# Twice Keys' cubic with a = -0.5, in u = 2 - t, x = 1 - t and v = max(x, 0): u²x + v²(2 - 4v)
CUBIC = """
    {axis}_to_1 = Sub ({axis}_reach, {axis}_near)
    {axis}_float_to_1 = Cast <to = 1> ({axis}_to_1)
    {axis}_x = Div ({axis}_float_to_1, {axis}_float_reach)
    {axis}_u_squared = Mul ({axis}_u, {axis}_u)
    {axis}_outer = Mul ({axis}_u_squared, {axis}_x)
    {axis}_v = Relu ({axis}_x)
    {axis}_v_squared = Mul ({axis}_v, {axis}_v)
    {axis}_two = Constant <value_float = 2.0> ()
    {axis}_four = Constant <value_float = 4.0> ()
    {axis}_v_times_4 = Mul ({axis}_v, {axis}_four)
    {axis}_v_less = Sub ({axis}_two, {axis}_v_times_4)
    {axis}_inner = Mul ({axis}_v_squared, {axis}_v_less)
    {axis}_kernel = Add ({axis}_outer, {axis}_inner)
"""
LINEAR = """
    {axis}_kernel = Identity ({axis}_u)
"""
# Only rows from `top` to `bottom` are resampled: those that rows will be made of.
BEFORE_COLUMNS = """
    last_rows = Constant <value_ints = [{last}]> ()
    top = Gather (rows_start, axis_0)
    bottom = Gather (rows_end, last_rows)
    {starts} = Split <axis = 0> (columns_start, columns_singles)
    {ends} = Split <axis = 0> (columns_end, columns_singles)
"""
# Casting to uint8 rounds down; half a grey level is added before.
COLUMNS = """
    corner_{n} = Concat <axis = 0> (top, columns_start_{n})
    opposite_{n} = Concat <axis = 0> (bottom, columns_end_{n})
    read_{n} = Slice ({image}, corner_{n}, opposite_{n}, axes_01)
    by_colour_{n} = Transpose <perm = [0, 2, 1]> (read_{n})
    levels_{n} = Cast <to = 1> (by_colour_{n})
    weighted_{n} = MatMul (levels_{n}, columns_weights_{n})
    with_half_{n} = Add (weighted_{n}, half)
    bounded_{n} = Clip (with_half_{n}, zero, white)
    narrow_{n} = Cast <to = 2> (bounded_{n})
"""
BEFORE_ROWS = """
    narrow = Concat <axis = 2> ({narrow})
    one_line_each = Constant <value_ints = [-1, {line}]> ()
    lines = Reshape (narrow, one_line_each)
    lines_start = Sub (rows_start, top)
    lines_end = Sub (rows_end, top)
    {starts} = Split <axis = 0> (lines_start, rows_singles)
    {ends} = Split <axis = 0> (lines_end, rows_singles)
"""
ROWS = """
    taken_{n} = Slice (lines, lines_start_{n}, lines_end_{n}, axis_0)
    taken_levels_{n} = Cast <to = 1> (taken_{n})
    low_{n} = Gemm <transA = 1> (rows_weights_{n}, taken_levels_{n}, half)
"""
AFTER_ROWS = """
    low = Concat <axis = 0> ({low})
    low_levels = Clip (low, zero, white)
    low_pixels = Cast <to = 2> (low_levels)
    lines_by_colour = Constant <value_ints = [{height}, 3, {width}]> ()
    all_by_colour = Reshape (low_pixels, lines_by_colour)
    axes_02 = Constant <value_ints = [0, 2]> ()
    wanted_by_colour = Slice (all_by_colour, zeros, model, axes_02)
    resampled = Transpose <perm = [0, 2, 1]> (wanted_by_colour)
"""


def resampling_text(size: tuple[int, int], interpolation: Literal["bicubic", "bilinear"], image: str) -> str:
    """Lines of a graph that resamples a picture, equal to Pillow's but for pixels at the edge of rounding.

    They read, all int64[2] of height and width: `size` of the picture, `resized`, that of the resized one,
    `first`, where in it the wanted part begins, `model`, that part's size, and `zeros`. They make
    `resampled`, uint8 [h, w, 3], and `rows_wanted` and `rows_index` (`columns_` likewise): indices in the
    resized picture, [blocks, outputs of one], before and after those outside became its border.

    Args:
        size: (h, w) of the wanted part.
        interpolation: Pillow's filter.
        image: name of the picture in the graph, uint8 [H, W, 3].
    """
    cubic = interpolation == "bicubic"
    kernel = CUBIC if cubic else LINEAR
    (row_blocks, row_block), (column_blocks, column_block) = map(_divide, size)
    parts = [
        CONSTANTS.format(radius=2 if cubic else 1),
        _weights("rows", row_blocks, row_block, kernel),
        _weights("columns", column_blocks, column_block, kernel),
        BEFORE_COLUMNS.format(
            last=row_blocks - 1,
            starts=_numbered("columns_start", column_blocks),
            ends=_numbered("columns_end", column_blocks),
        ),
        *(COLUMNS.format(n=n, image=image) for n in range(column_blocks)),
        BEFORE_ROWS.format(
            narrow=_numbered("narrow", column_blocks),
            line=3 * column_blocks * column_block,
            starts=_numbered("lines_start", row_blocks),
            ends=_numbered("lines_end", row_blocks),
        ),
        *(ROWS.format(n=n) for n in range(row_blocks)),
        AFTER_ROWS.format(
            low=_numbered("low", row_blocks),
            height=row_blocks * row_block,
            width=column_blocks * column_block,
        ),
    ]
    return "".join(parts)


def _weights(axis: str, blocks: int, block: int, kernel: str) -> str:
    return WEIGHTS.format(
        axis=axis,
        blocks=blocks,
        block=block,
        counted=", ".join(map(str, range(blocks * block))),
        steps=block - 1,
        kernel=kernel.format(axis=axis),
        widths=[block] * blocks,
        singles=[1] * blocks,
        weights=_numbered(f"{axis}_weights", blocks),
    )


def _divide(outputs: int) -> tuple[int, int]:
    """Number of blocks and outputs of each; the last may have some that nobody wants."""
    blocks = -(-outputs // BLOCK)
    return blocks, -(-outputs // blocks)


def _numbered(name: str, count: int) -> str:
    return ", ".join(f"{name}_{n}" for n in range(count))
