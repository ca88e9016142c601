"""One exit as a graph: from uint8 pixels to class-rates, rewired for ONNX and nothing else.

The trained parts stay as they are; here their weights are put into modules that say the same thing in
the form a runtime likes. Everything is exact up to rounding, and `parity` checks it:

- scaling and normalisation are folded into the patch embedding, which has no padding;
- the class token's embedding is added along with its position, after one zero row of padding;
- query, key and value are one product, and the 1/sqrt(d) of attention is in the query's weights;
- behind the last block only the rows that the exit reads are computed: for the CLS token, keys and
  values of all tokens, but query, output projection and MLP of one;
- the Jumper's normalisation is folded into its linear map, and the class Gaussians are one product
  (`tgems_edge.rates`).

With fp16 the blocks compute in half precision, which is nearly all of the work; the patch embedding, whose
folded weights are too small for it, and the rates, which square and cancel, stay in fp32.

L tokens, D width, H heads, d = D/H; B pictures, C classes, K the Jumper's width.
"""

from __future__ import annotations

from typing import Literal

import onnx
import onnxsim
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from tgems_edge.errors import InputError
from tgems_edge.rates import rate_tables
from tgems_edge.session import INPUT, OUTPUTS
from tgems_export.encoder import Encoder, Pool
from tgems_export.head import Head

__all__ = ["ExitGraph", "Precision", "to_onnx"]

IR_VERSION = 8  # onnxruntime 1.17 and later load it
OPSETS = range(18, 24)
SIZE_LIMIT = 2**31  # of a protobuf, and so of a model in one file

Precision = Literal["fp32", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}


class ExitGraph(nn.Module):
    """Block `layer` of an image tower, a head and class tables, from pixels to decision."""

    def __init__(
        self,
        encoder: Encoder,
        layer: int,
        pool: Pool,
        head: Head,
        text: Tensor,
        temperature: float = 1.0,
        precision: Precision = "fp32",
    ):
        """For classes with text embeddings (C, E)."""
        super().__init__()
        self.dtype = DTYPES[precision]
        tower = encoder.tower
        blocks = tower.transformer.resblocks[:layer]
        self.embedding = _Embedding(encoder)
        self.blocks = nn.Sequential(*(_Block(block) for block in blocks[:-1])).to(self.dtype)
        self.last = _Block(blocks[-1], only_first=pool == "cls").to(self.dtype)
        self.pool = pool
        self.jumper = _linear(*head.jumper.folded())
        self.rates = _Rates(*head.tgem(text))
        self.inverse_temperature = self.jumper.out_features / temperature
        self.layer = layer
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """uint8 (B, H, W, 3) to rates (B, C), probabilities (B, C), label (B,), exit_layer (B,)."""
        tokens = self.last(self.blocks(self.embedding(pixels).to(self.dtype))).float()
        activation = tokens[:, 0] if self.pool == "cls" else tokens[:, 1:].mean(1)
        rates = self.rates(self.jumper(activation))
        label = rates.argmin(1)
        probabilities = torch.softmax(-self.inverse_temperature * rates, 1)
        return rates, probabilities, label, torch.full_like(label, self.layer)


class _Embedding(nn.Module):
    """uint8 (B, H, W, 3) to tokens (B, L, D), the first of them the CLS token."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        tower, preprocessing = encoder.tower, encoder.preprocessing
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64).view(1, 3, 1, 1)
        std = torch.tensor(preprocessing.std, dtype=torch.float64).view(1, 3, 1, 1)
        weight = tower.conv1.weight.double().cpu() / std
        self.patches = nn.Conv2d(3, encoder.width, tower.conv1.kernel_size, tower.conv1.stride)
        self.patches.weight = nn.Parameter((weight / 255).float())
        self.patches.bias = nn.Parameter(-(weight * mean).sum((1, 2, 3)).float())
        offset = tower.positional_embedding.detach().float().cpu().clone()
        offset[0] += tower.class_embedding.cpu()
        self.offset = nn.Parameter(offset)
        self.norm = _copy_norm(tower.ln_pre) if isinstance(tower.ln_pre, nn.LayerNorm) else nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patches(pixels.float().permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        return self.norm(nn.functional.pad(patches, (0, 0, 1, 0)) + self.offset)


class _Block(nn.Module):
    """One residual block, (B, L, D) to (B, L, D), or to (B, 1, D) with `only_first`."""

    def __init__(self, block: ResidualAttentionBlock, *, only_first: bool = False):
        super().__init__()
        self.only_first = only_first
        self.norm_1, self.norm_2 = _copy_norm(block.ln_1), _copy_norm(block.ln_2)
        self.attention = _Attention(block.attn, block.ls_1)
        self.expand = _linear(block.mlp.c_fc.weight, block.mlp.c_fc.bias)
        self.activation = block.mlp.gelu
        self.contract = _scaled(block.mlp.c_proj.weight, block.mlp.c_proj.bias, block.ls_2)

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm_1(tokens)
        if self.only_first:
            tokens = tokens[:, :1] + self.attention(normed[:, :1], normed)
        else:
            tokens = tokens + self.attention(normed, normed)
        return tokens + self.contract(self.activation(self.expand(self.norm_2(tokens))))


class _Attention(nn.Module):
    """Multi-head attention of queries (B, Q, D) to tokens (B, L, D)."""

    def __init__(self, attention: nn.MultiheadAttention, layer_scale: nn.Module):
        super().__init__()
        self.heads = attention.num_heads
        self.width = attention.embed_dim
        query, key, value = attention.in_proj_weight.detach().chunk(3)
        query_bias, key_bias, value_bias = attention.in_proj_bias.detach().chunk(3)
        scale = (self.width // self.heads) ** -0.5
        self.query = _linear(query * scale, query_bias * scale)
        self.key_value = _linear(torch.cat([key, value]), torch.cat([key_bias, value_bias]))
        self.out = _scaled(attention.out_proj.weight, attention.out_proj.bias, layer_scale)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        query = self._split(self.query(queries), queries.shape[1], 1)[0]  # (B, H, Q, d)
        key, value = self._split(self.key_value(tokens), tokens.shape[1], 2)  # (B, H, L, d) each
        mixed = torch.softmax(query @ key.transpose(2, 3), -1) @ value  # (B, H, Q, d)
        return self.out(mixed.transpose(1, 2).reshape(-1, queries.shape[1], self.width))

    def _split(self, joined: Tensor, length: int, parts: int) -> tuple[Tensor, ...]:
        """(B, L, parts D) to `parts` tensors of (B, H, L, d)."""
        shape = (-1, length, parts * self.heads, self.width // self.heads)
        return joined.reshape(shape).transpose(1, 2).split(self.heads, dim=1)


class _Rates(nn.Module):
    """z (B, K) to class-rates (B, C): [z*z, z] @ [a, b]^T + c."""

    def __init__(self, mu: Tensor, variance: Tensor):
        super().__init__()
        a, b, c = rate_tables(mu.double(), variance.double(), log2=torch.log2)
        self.tables = _linear(torch.cat([a, b], 1).float(), c.float())

    def forward(self, z: Tensor) -> Tensor:
        return self.tables(torch.cat([z * z, z], 1))


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight.detach().float().cpu())
    linear.bias = nn.Parameter(bias.detach().float().cpu())
    return linear


def _scaled(weight: Tensor, bias: Tensor, layer_scale: nn.Module) -> nn.Linear:
    """A linear map with the LayerScale behind it folded in."""
    gamma = getattr(layer_scale, "gamma", torch.ones(len(bias), device=bias.device)).detach()
    return _linear(weight * gamma[:, None], bias * gamma)


def _copy_norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    copy = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    copy.weight = nn.Parameter(norm.weight.detach().float().cpu())
    copy.bias = nn.Parameter(norm.bias.detach().float().cpu())
    return copy


def to_onnx(graph: ExitGraph, size: tuple[int, int], opset: int) -> onnx.ModelProto:
    """The graph as a simplified and checked ONNX model, any batch, without metadata.

    Args:
        graph: see `ExitGraph`.
        size: (H, W) of its input.
        opset: ONNX operator set.

    Raises:
        InputError: an opset that cannot be written, or a graph of 2 GB and more.
    """
    if opset not in OPSETS:
        raise InputError(f"--opset {opset}: choose from {OPSETS.start} to {OPSETS.stop - 1}")
    weights = sum(p.numel() * p.element_size() for p in graph.parameters())
    if weights >= SIZE_LIMIT:
        raise InputError(
            f"{weights / 1e9:.1f} GB of weights, more than the 2 of one file; use an earlier layer"
        )
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=OUTPUTS,
        dynamic_shapes={INPUT: {0: torch.export.Dim("B")}},
        verbose=False,
    )
    if program is None:
        raise InputError("torch.onnx exported nothing; please report this model")
    model, valid = onnxsim.simplify(program.model_proto)
    if not valid:
        raise InputError("onnxsim changed what the graph computes; please report this model")
    return model
