"""Floating-point operations of one picture, counted from shapes.

Counted are products of matrices and convolutions, of which a multiply-add is two operations; they are
nearly all of the work. The count is a formula of the sizes of weights and tokens, so it is the same under
every version of torch.

L tokens, Q of them queries.
"""

from __future__ import annotations

from torch import nn

__all__ = ["count_attention", "count_convolutions", "count_linears"]


def count_linears(rows: int, module: nn.Module) -> int:
    """All linear maps of a module, each applied to this many rows."""
    return sum(2 * rows * m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def count_attention(queries: int, tokens: int, width: int) -> int:
    """Scores of Q queries with L keys and the mix of L values, all heads together `width` wide."""
    return 2 * 2 * queries * tokens * width


def count_convolutions(convolutions: nn.Module, size: tuple[int, int]) -> int:
    """A chain of convolutions on a picture of this size (H, W)."""
    total, (height, width) = 0, size
    for module in convolutions.modules():
        if isinstance(module, nn.Conv2d):
            height, width = _convolved(module, 0, height), _convolved(module, 1, width)
            total += 2 * height * width * module.weight.numel()
    return total


def _convolved(module: nn.Conv2d, axis: int, length: int) -> int:
    """The length of an axis behind a convolution."""
    reach = module.dilation[axis] * (module.kernel_size[axis] - 1)
    return (length + 2 * int(module.padding[axis]) - reach - 1) // module.stride[axis] + 1
