"""The parts of an image tower, rewired for ONNX: the same numbers in the form a runtime likes.

Everything is exact up to rounding, and `parity` checks it:

- scaling and normalisation are folded into the first convolution, which has no padding; a convolution
  that moves by its own size is one product;
- class token and registers are added along with the positions, after as many zero rows;
- queries, keys and values are one product, and the 1/sqrt(d) of attention is in the query's weights;
- in the last block only what the exit reads is computed: for the class token, query, output projection and
  MLP of one token, and without rotary positions neither keys nor values; for the mean of the patch
  tokens, that mean before the last product of the MLP;
- tokens come first and pictures second, so that heads need no transposition: a product of onnxruntime's
  takes its batch from the middle;
- GELU is spelled as onnxruntime fuses it; patches and hidden activations are no multiple of 4 KiB long.

What a part does to one picture is counted beside it, zeros that were added included (`operations`).

B pictures; L tokens, Q of them queries, P prefix tokens; D width, H heads of width d.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from tgems_edge.model_file.card import Preprocessing
from tgems_export.encoders.towers.base import Pool
from tgems_export.encoders.towers.layers import Gelu, make_linear
from tgems_export.encoders.towers.operations import count_attention, count_convolutions, count_linears
from tgems_export.encoders.towers.vits.parts import Attention, Block, Rotary, Stem

__all__ = ["Embedding", "ExitBlock", "ResidualBlock"]

ALL, CLASS_TOKEN = slice(None), slice(1)  # of the tokens


class Embedding(nn.Module):
    """uint8 (B, H, W, 3) to tokens (L, B, D)."""

    def __init__(self, stem: Stem, preprocessing: Preprocessing):
        """Scales and normalises pixels as the encoder's preprocessing says."""
        super().__init__()
        convolutions = _normalising(stem.convolutions, preprocessing)
        prefix = len(stem.prefix)
        offset = torch.cat([stem.prefix, stem.positions]).float().cpu().unsqueeze(1)  # (L, 1, D)
        self.tokens: _Convolved | _Patches = _Convolved(convolutions, prefix)
        if _is_one_product(convolutions):
            self.tokens = _Patches(convolutions[0], prefix)
            offset[prefix:] += convolutions[0].get_parameter("bias")
        self.offset = nn.Parameter(offset)
        self.norm = _norm(stem.norm)

    def forward(self, pixels: Tensor) -> Tensor:
        """See above."""
        return self.norm(self.tokens(pixels) + self.offset)

    def operations(self, size: tuple[int, int]) -> int:
        """Count the operations of one picture (H, W)."""
        return self.tokens.operations(size)


def _is_one_product(convolutions: nn.Sequential) -> bool:
    """Whether it is one convolution that moves by its own size."""
    first = convolutions[0]
    return len(convolutions) == 1 and isinstance(first, nn.Conv2d) and first.kernel_size == first.stride


class _Patches(nn.Module):
    """A convolution that moves by its own size, as one product of (L, B, p p 3) patches, and no bias."""

    def __init__(self, convolution: Any, prefix: int):
        super().__init__()
        self.size = convolution.kernel_size
        self.prefix = prefix
        weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)  # (D, p p 3)
        self.padding = (0, _padding(weight.shape[1]), 0, 0, prefix, 0)
        weight = nn.functional.pad(weight, self.padding[:2]).contiguous()
        self.product = make_linear(weight, None)

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = self.size
        rows, columns = pixels.shape[1] // height, pixels.shape[2] // width
        whole = pixels[:, : rows * height, : columns * width]
        patches = whole.reshape(-1, rows, height, columns, width * 3).permute(1, 3, 0, 2, 4)
        patches = patches.reshape(rows * columns, -1, height * width * 3)  # (L - P, B, p p 3)
        patches = nn.functional.pad(patches, self.padding).flatten(0, 1)
        return self.product(patches.float()).unflatten(0, (self.prefix + rows * columns, -1))

    def operations(self, size: tuple[int, int]) -> int:
        patches = (size[0] // self.size[0]) * (size[1] // self.size[1])
        return count_linears(self.prefix + patches, self.product)


class _Convolved(nn.Module):
    """A stem of several convolutions, with zeros for the prefix tokens."""

    def __init__(self, convolutions: nn.Sequential, prefix: int):
        super().__init__()
        self.convolutions = convolutions
        self.prefix = prefix

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.convolutions(pixels.float().permute(0, 3, 1, 2)).flatten(2)  # (B, D, L - P)
        return nn.functional.pad(patches.permute(2, 0, 1), (0, 0, 0, 0, self.prefix, 0))

    def operations(self, size: tuple[int, int]) -> int:
        return count_convolutions(self.convolutions, size)


class _Attention(nn.Module):
    """Multi-head attention of the tokens that are read, Q of them, to all tokens."""

    def __init__(self, attention: Attention, read: slice):
        super().__init__()
        self.read = read
        self.heads = attention.heads
        self.width = attention.query.out_features  # H d
        query, self.query_norm = _scaled_query(attention)
        every = read == ALL  # then queries, keys and values are one product
        self.query = None if every else query
        self.joint = _stacked(*([query] if every else []), attention.key, attention.value)
        self.key_norm = _norm(attention.key_norm)
        self.rotary = None if attention.rotary is None else _Rotary(attention.rotary)
        self.norm = _norm(attention.norm)
        self.out = _linear(attention.out)

    def forward(self, tokens: Tensor) -> Tensor:
        """(L, B, D) to (Q, B, D)."""
        *query, key, value = self.joint(tokens).split(self.width, dim=-1)
        query = query[0] if self.query is None else self.query(tokens[self.read])
        query = self.query_norm(self._heads(query))  # (Q, B H, d)
        key, value = self.key_norm(self._heads(key)), self._heads(value)  # (L, B H, d)
        if self.rotary is not None:
            query, key = self.rotary(query, self.read), self.rotary(key, ALL)
        weights = torch.softmax(query.transpose(0, 1) @ key.permute(1, 2, 0), -1)  # (B H, Q, L)
        mixed = (weights @ value.transpose(0, 1)).transpose(0, 1)  # (Q, B H, d)
        return self.out(self.norm(mixed.reshape(len(mixed), -1, self.width)))

    def operations(self, tokens: int) -> int:
        queries = _length(self.read, tokens)
        projected = count_linears(tokens, self.joint) + count_linears(queries, self.out)
        if self.query is not None:
            projected += count_linears(queries, self.query)
        return projected + count_attention(queries, tokens, self.width)

    def _heads(self, joined: Tensor) -> Tensor:
        """(L, B, H d) to (L, B H, d)."""
        return joined.reshape(len(joined), -1, self.width // self.heads)


class _ClassAttention(nn.Module):
    """Multi-head attention of the class token alone, without keys and values.

    q . (W_k x + b_k) = (q W_k) . x + q . b_k, of which softmax does not see the last; and the mix of the
    values is W_v times the mix of the tokens, plus b_v, because the weights of a mix add up to 1. So H rows,
    one a head, go through both maps instead of L. A row is zero but for the entries of its head, and of what
    comes out only those count: the zeros cost less than a product for each head, and can be INT8.
    """

    own: Tensor

    def __init__(self, attention: Attention):
        super().__init__()
        self.query, self.query_norm = _scaled_query(attention)
        key = _linear(attention.key).weight.T.contiguous()  # (D, H d)
        self.key = make_linear(key, None)
        self.value = _linear(attention.value)
        depth = key.shape[1] // attention.heads  # d
        self.register_buffer("own", torch.eye(attention.heads).repeat_interleave(depth, 1))  # (H, H d)
        self.norm = _norm(attention.norm)
        self.out = _linear(attention.out)

    def forward(self, tokens: Tensor) -> Tensor:
        """(L, B, D) to (1, B, D)."""
        heads, width = self.own.shape  # H, H d
        query = self.query(tokens[0]).unflatten(1, (heads, -1))  # (B, H, d)
        query = self.query_norm(query).reshape(-1, 1, width)
        query = self.key((query * self.own).flatten(0, 1)).unflatten(0, (-1, heads))  # (B, H, D)
        tokens = tokens.transpose(0, 1)  # (B, L, D)
        weights = torch.softmax(query @ tokens.transpose(1, 2), -1)  # (B, H, L)
        mixed = self.value((weights @ tokens).flatten(0, 1)).unflatten(0, (-1, heads))  # (B, H, H d)
        mixed = (mixed * self.own).sum(1)  # (B, H d)
        return self.out(self.norm(mixed)).unsqueeze(0)

    def operations(self, tokens: int) -> int:
        heads = len(self.own)
        projected = count_linears(1, self.query) + count_linears(1, self.out)
        projected += count_linears(heads, self.key) + count_linears(heads, self.value)
        return projected + count_attention(heads, tokens, self.query.in_features)


def _attention(attention: Attention, read: slice) -> _Attention | _ClassAttention:
    if read == CLASS_TOKEN and attention.rotary is None and attention.key_norm is None:
        return _ClassAttention(attention)
    return _Attention(attention, read)


def _scaled_query(attention: Attention) -> tuple[nn.Linear, nn.Module]:
    """The map to queries and its norm, the later of which divides by sqrt(d) as well."""
    query, norm = _linear(attention.query), _norm(attention.query_norm)
    for parameter in (query if attention.query_norm is None else norm).parameters():
        parameter.data.mul_((attention.query.out_features // attention.heads) ** -0.5)
    return query, norm


class _Rotary(nn.Module):
    """Turns the pairs of queries or keys (Q, B H, d) by the angles of their tokens."""

    def __init__(self, rotary: Rotary):
        super().__init__()
        cos, sin = rotary.cos.float().cpu(), rotary.sin.float().cpu()
        self.cos = nn.Parameter(torch.cat([cos, cos], 1).unsqueeze(1))  # (L, 1, d)
        self.sin = nn.Parameter(torch.cat([-sin, sin], 1).unsqueeze(1))

    def forward(self, entries: Tensor, read: slice) -> Tensor:
        first, second = entries.chunk(2, dim=-1)
        return entries * self.cos[read] + torch.cat([second, first], -1) * self.sin[read]


class _TanhGelu(nn.Module):
    """GELU's approximation, x/2 (1 + tanh u) = x sigmoid(2u), which takes fewer passes over the memory."""

    def forward(self, tokens: Tensor) -> Tensor:
        slope = 2 * math.sqrt(2 / math.pi)
        return tokens * torch.sigmoid(tokens * (slope * 0.044715 * tokens * tokens + slope))


def _activation(activation: nn.Module) -> nn.Module:
    if isinstance(activation, nn.GELU):
        return Gelu() if activation.approximate == "none" else _TanhGelu()
    return activation


class _Hidden(nn.Module):
    """The hidden activation of an MLP, gated or not, `padding` zeros wider than it was trained."""

    def __init__(self, block: Block, padding: int):
        super().__init__()
        self.gate = None if block.gate is None else _linear(block.gate, more_outputs=padding)
        self.expand = _linear(block.expand, more_outputs=padding)
        self.activation = _activation(block.activation)
        self.norm = _norm(block.norm)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.gate is None:
            return self.norm(self.activation(self.expand(tokens)))
        return self.norm(self.activation(self.gate(tokens)) * self.expand(tokens))


class ResidualBlock(nn.Module):
    """One residual block, (L, B, D) to (Q, B, D), for the Q tokens that are read."""

    def __init__(self, block: Block, read: slice = ALL):
        """Reads the tokens of a slice."""
        super().__init__()
        self.read = read
        self.pre_1, self.post_1 = _norm(block.pre_1), _norm(block.post_1)
        self.pre_2, self.post_2 = _norm(block.pre_2), _norm(block.post_2)
        self.attention = _attention(block.attention, read)
        padding = 0 if block.norm else _padding(block.expand.out_features)
        self.hidden = _Hidden(block, padding)
        self.contract = _linear(block.contract, more_inputs=padding)

    def forward(self, tokens: Tensor) -> Tensor:
        """See above."""
        tokens = self.attend(tokens)
        return tokens + self.post_2(self.contract(self.hidden(self.pre_2(tokens))))

    def attend(self, tokens: Tensor) -> Tensor:
        """The first half of the block, (L, B, D) to (Q, B, D)."""
        return tokens[self.read] + self.post_1(self.attention(self.pre_1(tokens)))

    def operations(self, tokens: int) -> int:
        """Count the operations of one picture's L tokens."""
        return self._operations(tokens, contracted=_length(self.read, tokens))

    def _operations(self, tokens: int, contracted: int) -> int:
        """Count with so many rows in the last product of the MLP."""
        hidden = count_linears(_length(self.read, tokens), self.hidden)
        return self.attention.operations(tokens) + hidden + count_linears(contracted, self.contract)


class ExitBlock(ResidualBlock):
    """The block in front of the exit, (L, B, D) to the activation (B, D) that the exit reads."""

    def __init__(self, block: Block, pool: Pool, prefix: int):
        """Build the block for a tower with P = `prefix` prefix tokens."""
        super().__init__(block, CLASS_TOKEN if pool == "cls" else slice(prefix, None))
        self.mean_of_hidden = block.post_2 is None  # the mean of a linear map is the map of the mean

    def forward(self, tokens: Tensor) -> Tensor:
        """See above."""
        if self.read == CLASS_TOKEN:
            return super().forward(tokens)[0]
        if not self.mean_of_hidden:
            return super().forward(tokens).mean(0)
        tokens = self.attend(tokens)
        return tokens.mean(0) + self.contract(self.hidden(self.pre_2(tokens)).mean(0))

    def operations(self, tokens: int) -> int:
        """Count the operations of one picture's L tokens."""
        return self._operations(tokens, 1) if self.mean_of_hidden else super().operations(tokens)


def _length(read: slice, tokens: int) -> int:
    """Count the tokens that a slice reads."""
    return len(range(tokens)[read])


def _normalising(convolutions: nn.Sequential, preprocessing: Preprocessing) -> nn.Sequential:
    """Convolutions of which the first, which has no padding, scales and normalises as well."""
    folded = copy.deepcopy(convolutions).float().cpu()
    first = next(module for module in folded.modules() if isinstance(module, nn.Conv2d))
    mean = torch.tensor(preprocessing.mean, dtype=torch.float64).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, dtype=torch.float64).view(1, 3, 1, 1)
    weight = first.weight.detach().double() / std
    bias = torch.zeros(len(weight)) if first.bias is None else first.bias.detach()
    first.weight = nn.Parameter((weight / 255).float())
    first.bias = nn.Parameter((bias - (weight * mean).sum((1, 2, 3))).float())
    return folded.requires_grad_(False)


def _padding(width: int) -> int:
    """Return how many zeros to add to rows of `width` floats.

    Rows that lie a multiple of 4 KiB apart fall into the same few sets of the first-level cache, and a
    product waits for them; benchmarks/rewritings.py says how long.
    """
    return 16 if width % 1024 == 0 else 0


def _stacked(*linears: nn.Linear) -> nn.Linear:
    """Several linear maps of the same input as one."""
    copies = [_linear(linear) for linear in linears]
    weight, bias = torch.cat([one.weight for one in copies]), torch.cat([one.bias for one in copies])
    return make_linear(weight, bias)


def _linear(linear: nn.Linear, *, more_inputs: int = 0, more_outputs: int = 0) -> nn.Linear:
    """A copy of a linear map, in fp32 and with a bias, with zeros for additional inputs and outputs."""
    weight = nn.functional.pad(linear.weight.detach().float().cpu(), (0, more_inputs, 0, more_outputs))
    bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach().float().cpu()
    return make_linear(weight.clone(), nn.functional.pad(bias, (0, more_outputs)).clone())


def _norm(norm: nn.LayerNorm | None) -> nn.Module:
    """A plain copy: the libraries' own norms cast, which would end up in the graph."""
    if norm is None:
        return nn.Identity()
    plain = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    plain.weight.data.copy_(norm.weight)
    plain.bias.data.copy_(norm.bias)
    return plain
