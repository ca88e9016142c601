"""One exit as a graph, from uint8 pixels to class-rates, and as ONNX.

The trained parts stay as they are; here their weights are put into modules that say the same thing
(`blocks`), the Jumper's normalisation is folded into its linear map, and the classes are one product: with
the tables of their Gaussians (`tgems_edge.maths.rates`), or with their embeddings.

With fp16 the blocks compute in half precision, which is nearly all of the work; the patch embedding, whose
folded weights are too small for it, and the rates, which square and cancel, stay in fp32.

B pictures, D width, E width of the joint embedding, C classes, K the width in which a head compares.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
import onnxsim
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from tgems_edge.errors import InputError
from tgems_edge.maths.rates import rate_tables
from tgems_edge.model_file.gate import INPUT, OUTPUTS
from tgems_export.blocks import Embedding, ExitBlock, Gelu, ResidualBlock, make_linear
from tgems_export.encoder import Encoder
from tgems_export.head import ExitHead, Head, SsaHead
from tgems_export.operations import count_linears
from tgems_export.towers import Pool

__all__ = [
    "ExitGraph",
    "Precision",
    "SsaReadout",
    "TGemReadout",
    "make_readout",
    "set_constant",
    "set_temperature",
    "to_onnx",
]

IR_VERSION = 8  # onnxruntime 1.17 and later load it
OPSETS = range(18, 24)
SIZE_LIMIT = 2**31 - 2**24  # bytes of weights: a protobuf, and so a model in one file, ends at 2 GB

POSTERIOR_SCALE = "posterior_scale"  # -K / T, with T = 1 until it is calibrated

Precision = Literal["fp32", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}


class TGemReadout(nn.Module):
    """A Jumper and the tables of its classes, from activations (B, D) to class-rates (B, C)."""

    def __init__(self, head: Head, text: Tensor):
        """For classes with text embeddings (C, E)."""
        super().__init__()
        a, b, c = rate_tables(*(moment.double() for moment in head.tgem(text)), log2=torch.log2)
        self.jumper = make_linear(*head.jumper.folded())
        self.tables = make_linear(torch.cat([a, b], 1).float(), c.float())

    def forward(self, activation: Tensor) -> Tensor:
        """[z*z, z] @ [a, b]^T + c."""
        z = self.jumper(activation)
        return self.tables(torch.cat([z * z, z], 1))


class SsaReadout(nn.Module):
    """The MLP of an SSA head and the directions of its classes, from activations (B, D) to rates (B, C)."""

    def __init__(self, head: SsaHead, text: Tensor):
        """For classes with text embeddings (C, E)."""
        super().__init__()
        hidden, out = (make_linear(m.weight.clone(), m.bias.clone()) for m in (head.hidden, head.out))
        self.embed = nn.Sequential(copy.deepcopy(head.norm), hidden, Gelu(), out)
        self.tables = make_linear(-nn.functional.normalize(text, dim=1), None)

    def forward(self, activation: Tensor) -> Tensor:
        """Minus the cosines."""
        embedding = self.embed(activation)
        return self.tables(embedding / embedding.norm(dim=1, keepdim=True))


def make_readout(head: ExitHead, text: Tensor) -> nn.Module:
    """What a head of either kind says of the classes of text embeddings (C, E), as the graph has it."""
    if isinstance(head, SsaHead):
        return SsaReadout(head, text)
    if isinstance(head, Head):
        return TGemReadout(head, text)
    raise TypeError(f"no readout for a {type(head).__name__}")


class ExitGraph(nn.Module):
    """Block `layer` of an image tower, a head and class tables, from pixels to decision."""

    def __init__(
        self,
        encoder: Encoder,
        layer: int,
        pool: Pool,
        head: ExitHead,
        text: Tensor,
        precision: Precision = "fp32",
    ):
        """For classes with text embeddings (C, E)."""
        super().__init__()
        self.dtype = DTYPES[precision]
        tower = encoder.tower
        self.embedding = Embedding(tower.stem(), encoder.preprocessing)
        self.blocks = nn.Sequential(*(ResidualBlock(tower.block(i)) for i in range(layer - 1))).to(self.dtype)
        self.last = ExitBlock(tower.block(layer - 1), pool, tower.prefix).to(self.dtype)
        self.readout = make_readout(head, text)
        # A tensor, so that it has a name in the file: the temperature is fitted on what the file says.
        self.register_buffer(POSTERIOR_SCALE, torch.tensor(-float(head.k)))
        self.layer = layer
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """uint8 (B, H, W, 3) to rates (B, C), probabilities (B, C), label (B,), exit_layer (B,)."""
        activation = self.last(self.blocks(self.embedding(pixels).to(self.dtype))).float()
        rates = self.readout(activation)
        label = rates.argmin(1)
        probabilities = torch.softmax(self.get_buffer(POSTERIOR_SCALE) * rates, 1)
        return rates, probabilities, label, torch.full_like(label, self.layer)

    def operations(self, size: tuple[int, int]) -> int:
        """Floating-point operations of one picture (H, W); see `operations`."""
        tokens = len(self.embedding.offset)
        blocks = sum(block.operations(tokens) for block in (*self.blocks, self.last))
        return self.embedding.operations(size) + blocks + count_linears(1, self.readout)


def to_onnx(
    graph: nn.Module, size: tuple[int, int], opset: int, outputs: Sequence[str] = OUTPUTS
) -> onnx.ModelProto:
    """The graph as a simplified and checked ONNX model, any batch, without metadata.

    Args:
        graph: an `ExitGraph`, or another that takes what it takes.
        size: (H, W) of its input.
        opset: ONNX operator set.
        outputs: names of what it returns.

    Raises:
        InputError: an opset that cannot be written, or a graph of 2 GB and more.
    """
    if opset not in OPSETS:
        raise InputError(f"--opset {opset}: choose from {OPSETS.start} to {OPSETS.stop - 1}")
    weights = sum(p.numel() * p.element_size() for p in graph.parameters())
    if weights >= SIZE_LIMIT:
        raise InputError(
            f"{weights / 1e9:.1f} GB of weights, and one file holds less than 2; give an earlier --layer, "
            "or --precision fp16"
        )
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=list(outputs),
        dynamic_shapes={INPUT: {0: torch.export.Dim("B")}},
        verbose=False,
    )
    if program is None:
        raise InputError("torch.onnx exported nothing; please report this model")
    model, valid = onnxsim.simplify(program.model_proto)
    if not valid:
        raise InputError("onnxsim changed what the graph computes; please report this model")
    return model


def set_temperature(model: onnx.ModelProto, k: int, temperature: float, layer: int | None = None) -> None:
    """Writes -K / T into the graph, so that its probabilities are those of the temperature T.

    Args:
        model: what `to_onnx` made.
        k: K of the head.
        temperature: T.
        layer: which exit's, where the graph has several.
    """
    name = POSTERIOR_SCALE if layer is None else f"{POSTERIOR_SCALE}_{layer}"
    set_constant(model, name, -k / temperature)


def set_constant(model: onnx.ModelProto, name: str, value: ArrayLike) -> None:
    """Writes another value, in fp32, into a constant that has a name in the graph."""
    (constant,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    constant.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
