"""Floating-point operations of one picture, counted from shapes.

Products of matrices and convolutions are counted, a multiply-add as two operations; they are nearly all of
the work. The count is a formula of the sizes of weights and states, so it is the same under every version of
torch.

L tokens, Q of them queries.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["count_attention", "count_convolutions", "count_linears", "count_operations"]


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


def count_operations(module: nn.Module, state: Tensor) -> tuple[int, Tensor]:
    """Count the operations of any module by running it without numbers.

    Args:
        module: in the form in which a library wrote it.
        state: its input, on torch's meta device.

    Returns:
        The operations, and the output on the meta device.
    """
    outline = copy.deepcopy(module).to("meta").eval()
    with torch.no_grad(), _Counting() as counting:
        output = outline(state)
    return counting.total, output


class _Counting(TorchFunctionMode):
    """Sums up the operations of the functions that a library calls, from the shapes they are called with."""

    total = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        result = func(*args, **options)
        if func in (functional.conv2d, torch.conv2d, functional.linear):
            weight = args[1] if len(args) > 1 else options["weight"]
            self.total += 2 * result.numel() * weight[0].numel()
        elif func in _PRODUCTS:
            self.total += 2 * result.numel() * args[0].shape[-1]
        elif func is functional.scaled_dot_product_attention:
            self.total += 2 * (args[0].numel() + result.numel()) * args[1].shape[-2]
        elif func is functional.multi_head_attention_forward:
            self.total += _count_multi_head(*args, **options)
        return result


_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)


def _count_multi_head(*args: Any, **options: Any) -> int:
    """Count one call of torch's multi-head attention, whose projections may lie in one weight."""
    given = inspect.signature(functional.multi_head_attention_forward).bind(*args, **options).arguments
    queries, keys = len(given["query"]), len(given["key"])
    if given.get("use_separate_proj_weight"):
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        query, key, value = (given[name] for name in names)
    else:
        query, key, value = given["in_proj_weight"].chunk(3)
    projections = queries * (query.numel() + given["out_proj_weight"].numel())
    projections += keys * (key.numel() + value.numel())
    return 2 * projections + count_attention(queries, keys, len(query))
