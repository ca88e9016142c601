"""Pillow's resampling inside a graph, as matrix products that every runtime computes alike.

ONNX has `Resize` for it, but not all readers honour its `antialias`: OpenVINO's own (2026.4) leaves it out,
and 44 % of the pixels of photographs are then off by more than one grey level.

Along one axis, output i of n is the sum over inputs j of m of weights[j, i] * input[j], where

    weights[j, i] = kernel((j + 0.5 - centre[i]) / reach), divided by the sum over j
    centre[i] = (i + 0.5) * scale,  scale = m / n,  reach = max(scale, 1)

and the kernel is 0 from `radius` on. So of a matrix of weights only a band is not 0. Outputs are computed in
blocks of neighbours, each from the L inputs that its part of the band covers: L is the same for all blocks
and known only when the picture is. As in Pillow, columns come first, and what they give is rounded.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["resampling_text"]

# Outputs of a block. Fewer waste less on zeros beside the band, but overlap more and are more operators.
BLOCK = 32

CONSTANTS = """
    zero = Constant <value_float = 0.0> ()
    half = Constant <value_float = 0.5> ()
    one = Constant <value_float = 1.0> ()
    two = Constant <value_float = 2.0> ()
    four = Constant <value_float = 4.0> ()
    white = Constant <value_float = 255.0> ()
    radius = Constant <value_float = {radius}> ()
    flat = Constant <value_ints = [-1]> ()
    axis_0 = Constant <value_ints = [0]> ()
    axis_1 = Constant <value_ints = [1]> ()
    axes_01 = Constant <value_ints = [0, 1]> ()
    each_axis = Constant <value_ints = [1, 1]> ()
    float_size = Cast <to = 1> (size)
    float_resized = Cast <to = 1> (resized)
    float_first = Cast <to = 1> (first)
    scales = Div (float_size, float_resized)
    reaches = Max (scales, one)
    lasts = Sub (float_resized, one)
    rows_size, columns_size = Split <axis = 0> (size, each_axis)
    rows_scale, columns_scale = Split <axis = 0> (scales, each_axis)
    rows_reach, columns_reach = Split <axis = 0> (reaches, each_axis)
    rows_first, columns_first = Split <axis = 0> (float_first, each_axis)
    rows_last, columns_last = Split <axis = 0> (lasts, each_axis)
"""
# Indices, [blocks, outputs of one], of the outputs that are wanted. Those outside of the resized picture
# become its border: every block is as large as the others, and `longest` leaves room at the sides.
# A block reads from `start` up to `end`, [blocks].
WEIGHTS = """
    {axis}_counted = Constant <value = float[{blocks}, {block}] {{{counted}}}> ()
    {axis}_wanted = Add ({axis}_counted, {axis}_first)
    {axis}_from_first = Max ({axis}_wanted, zero)
    {axis}_index = Min ({axis}_from_first, {axis}_last)
    {axis}_middle = Add ({axis}_index, half)
    {axis}_centre = Mul ({axis}_middle, {axis}_scale)

    {axis}_support = Mul ({axis}_reach, radius)
    {axis}_both_sides = Mul ({axis}_support, two)
    {axis}_steps = Constant <value_float = {steps}> ()
    {axis}_distance = Mul ({axis}_scale, {axis}_steps)
    {axis}_covered = Add ({axis}_distance, {axis}_both_sides)
    {axis}_rounded_up = Ceil ({axis}_covered)
    {axis}_whole = Cast <to = 7> ({axis}_rounded_up)
    {axis}_enough = Add ({axis}_whole, axis_1)
    {axis}_length = Min ({axis}_enough, {axis}_size)
    {axis}_latest = Sub ({axis}_size, {axis}_length)
    {axis}_centres_0 = Slice ({axis}_centre, axis_0, axis_1, axis_1)
    {axis}_earliest = Sub ({axis}_centres_0, {axis}_support)
    {axis}_rounded_down = Floor ({axis}_earliest)
    {axis}_unbounded = Cast <to = 7> ({axis}_rounded_down)
    {axis}_bounded = Max ({axis}_unbounded, axis_0)
    {axis}_column = Min ({axis}_bounded, {axis}_latest)
    {axis}_start = Squeeze ({axis}_column, axis_1)
    {axis}_end = Add ({axis}_start, {axis}_length)

    {axis}_float_start = Cast <to = 1> ({axis}_column)
    {axis}_to_start = Sub ({axis}_float_start, {axis}_centre)
    {axis}_to_middle = Add ({axis}_to_start, half)
    {axis}_offset = Reshape ({axis}_to_middle, flat)
    {axis}_scalar_length = Squeeze ({axis}_length)
    {axis}_float_length = Cast <to = 1> ({axis}_scalar_length)
    {axis}_inputs = Range (zero, {axis}_float_length, one)
    {axis}_input = Unsqueeze ({axis}_inputs, axis_1)
    {axis}_apart = Add ({axis}_input, {axis}_offset)
    {axis}_relative = Div ({axis}_apart, {axis}_reach)
    {axis}_t = Abs ({axis}_relative)
    {kernel}
    {axis}_sum = ReduceSum <keepdims = 1> ({axis}_kernel, axis_0)
    {axis}_weights = Div ({axis}_kernel, {axis}_sum)
    {axis}_widths = Constant <value_ints = {widths}> ()
    {axis}_singles = Constant <value_ints = {singles}> ()
    {weights} = Split <axis = 1> ({axis}_weights, {axis}_widths)
"""
# Twice Keys' cubic with a = -0.5, in u = max(2 - t, 0) and v = max(1 - t, 0): u²(u - 1) + v²(2 - 4v)
CUBIC = """
    {axis}_below_2 = Sub (two, {axis}_t)
    {axis}_u = Relu ({axis}_below_2)
    {axis}_u_squared = Mul ({axis}_u, {axis}_u)
    {axis}_u_less = Sub ({axis}_u, one)
    {axis}_outer = Mul ({axis}_u_squared, {axis}_u_less)
    {axis}_below_1 = Sub (one, {axis}_t)
    {axis}_v = Relu ({axis}_below_1)
    {axis}_v_squared = Mul ({axis}_v, {axis}_v)
    {axis}_v_times_4 = Mul ({axis}_v, four)
    {axis}_v_less = Sub (two, {axis}_v_times_4)
    {axis}_inner = Mul ({axis}_v_squared, {axis}_v_less)
    {axis}_kernel = Add ({axis}_outer, {axis}_inner)
"""
LINEAR = """
    {axis}_below_1 = Sub (one, {axis}_t)
    {axis}_kernel = Relu ({axis}_below_1)
"""
# Only rows from `top` to `bottom` are resampled: those that rows will be made of.
BEFORE_COLUMNS = """
    last_rows = Constant <value_ints = [{last}]> ()
    top = Gather (rows_start, axis_0)
    bottom = Gather (rows_end, last_rows)
    {starts} = Split <axis = 0> (columns_start, columns_singles)
    {ends} = Split <axis = 0> (columns_end, columns_singles)
"""
COLUMNS = """
    corner_{n} = Concat <axis = 0> (top, columns_start_{n})
    opposite_{n} = Concat <axis = 0> (bottom, columns_end_{n})
    read_{n} = Slice ({image}, corner_{n}, opposite_{n}, axes_01)
    by_colour_{n} = Transpose <perm = [0, 2, 1]> (read_{n})
    levels_{n} = Cast <to = 1> (by_colour_{n})
    narrow_{n} = MatMul (levels_{n}, columns_weights_{n})
"""
BEFORE_ROWS = """
    narrow = Concat <axis = 2> ({narrow})
    narrow_and_half = Add (narrow, half)
    narrow_whole = Floor (narrow_and_half)
    narrow_levels = Clip (narrow_whole, zero, white)
    one_line_each = Constant <value_ints = [-1, {line}]> ()
    lines = Reshape (narrow_levels, one_line_each)
    lines_start = Sub (rows_start, top)
    lines_end = Sub (rows_end, top)
    {starts} = Split <axis = 0> (lines_start, rows_singles)
    {ends} = Split <axis = 0> (lines_end, rows_singles)
"""
ROWS = """
    taken_{n} = Slice (lines, lines_start_{n}, lines_end_{n}, axis_0)
    low_{n} = Gemm <transA = 1> (rows_weights_{n}, taken_{n}, half)
"""
# Casting rounds down; half a grey level is there already.
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
        CONSTANTS.format(radius=2.0 if cubic else 1.0),
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
        counted=", ".join(f"{i}.0" for i in range(blocks * block)),
        steps=f"{block - 1}.0",
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
