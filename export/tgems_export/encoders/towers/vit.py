"""Image towers that can be cut behind a block, whatever library built them.

A tower is a stem, which turns pictures into tokens, and a chain of residual blocks of one width. This
module says what a stem and a block are made of, in one vocabulary for all of them; `read_tower` is
the only place that knows how open_clip and timm spell it. A block with a part that is not listed here is
refused, so that what a later version adds is not forgotten in silence. All of it works on torch's meta device
too, where a tower costs no memory.

B pictures, L tokens of which the first P are prefix tokens (class token, registers), D width of the
tower, H heads of width d, E width of the joint embedding.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import Attention as OpenClipAttention
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock, VisionTransformer
from timm.layers import Attention as TimmAttention
from timm.layers import AttentionRope, GELUTanh, Mlp, PatchEmbed, SwiGLU
from timm.layers.pos_embed_sincos import RotaryEmbeddingCat
from timm.models import eva
from timm.models import vision_transformer as vit
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import Tensor, nn

from tgems_edge.errors import EncoderError

__all__ = ["Attention", "Block", "Pool", "Rotary", "Stem", "Tower", "kind_of", "read_tower"]

Pool = Literal["cls", "mean"]

PYRAMID = "its stages shrink the picture, so its blocks are no chain of one width"
NOT_A_CHAIN = {
    "ModifiedResNet (open_clip)": PYRAMID,
    "ConvNeXt (timm)": PYRAMID,
    "FastVit (timm)": PYRAMID,
    "SwinTransformer (timm)": PYRAMID,
    "VisionTransformerRelPos (timm)": "its attention has relative positions, which the graph has not",
}

# Everything that a part of a tower may hold; what is behind the last block is the library's own affair.
_OF_TIMM = "cls_token reg_token pos_embed patch_embed pos_drop patch_drop norm_pre blocks rope"
_BEHIND = "norm attn_pool fc_norm head_drop head"
_ATTENTION = "qkv q_proj k_proj v_proj q_norm k_norm attn_drop norm proj proj_drop"
PARTS: dict[type[nn.Module], set[str]] = {
    kind: set(names.split())
    for kind, names in {
        VisionTransformer: "conv1 class_embedding positional_embedding patch_dropout ln_pre transformer "
        "ln_post proj attn_pool attn_pool_contrastive",
        ResidualAttentionBlock: "ln_1 attn ls_1 ln_2 mlp ls_2",
        CustomResidualAttentionBlock: "ln_1 attn ln_attn ls_1 ln_2 mlp ls_2",
        nn.MultiheadAttention: "in_proj_weight in_proj_bias out_proj",
        OpenClipAttention: "in_proj_weight in_proj_bias ln_q ln_k attn_drop head_scale ln_inner out_proj "
        "out_drop",
        vit.VisionTransformer: f"{_OF_TIMM} {_BEHIND}",
        eva.Eva: f"{_OF_TIMM} {_BEHIND}",
        vit.Block: "norm1 attn ls1 drop_path1 norm2 mlp ls2 drop_path2",
        eva.EvaBlock: "norm1 attn gamma_1 drop_path1 norm2 mlp gamma_2 drop_path2",
        eva.EvaBlockPostNorm: "norm1 attn drop_path1 norm2 mlp drop_path2",
        TimmAttention: _ATTENTION,
        AttentionRope: _ATTENTION,
        eva.EvaAttention: f"{_ATTENTION} q_bias v_bias",
        Mlp: "fc1 act drop1 norm fc2 drop2",
        SwiGLU: "fc1_g fc1_x act drop1 norm fc2 drop2",
    }.items()
}


@dataclass(frozen=True)
class Stem:
    """Pictures to tokens: unpadded convolutions, prefix tokens in front, positions added, maybe a norm."""

    convolutions: nn.Sequential  # float (B, 3, H, W) to (B, D, h, w), h w = L - P; the first has no padding
    prefix: Tensor  # (P, D), their positions added already
    positions: Tensor  # (L - P, D)
    norm: nn.LayerNorm | None


@dataclass(frozen=True)
class Rotary:
    """Turns each pair (x_j, x_{j + d/2}) of a query or key by an angle that depends on its token."""

    cos: Tensor  # (L, d/2); 1 for prefix tokens
    sin: Tensor  # (L, d/2); 0 for prefix tokens


@dataclass(frozen=True)
class Attention:
    """Multi-head attention; scaling of single heads is in `value`."""

    heads: int
    query: nn.Linear  # D to H d
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear  # H d to D
    query_norm: nn.LayerNorm | None = None  # over d
    key_norm: nn.LayerNorm | None = None
    rotary: Rotary | None = None
    norm: nn.LayerNorm | None = None  # over H d, before `out`


@dataclass(frozen=True)
class Block:
    """x + post_1(attention(pre_1(x))), then the same with the MLP; LayerScale is in what precedes it."""

    pre_1: nn.LayerNorm | None
    attention: Attention
    post_1: nn.LayerNorm | None
    pre_2: nn.LayerNorm | None
    gate: nn.Linear | None  # the hidden activation is activation(gate(x)) * expand(x), or
    expand: nn.Linear  # activation(expand(x)) without a gate
    activation: nn.Module
    norm: nn.LayerNorm | None  # of the hidden activation
    contract: nn.Linear
    post_2: nn.LayerNorm | None


class Tower(ABC):
    """An image tower that is a chain of residual blocks.

    `module` stays what the library built, with open_clip's own `forward_intermediates`: the reference
    that every graph is compared with.
    """

    def __init__(self, module: nn.Module, blocks: int, width: int, prefix: int, *, has_class_token: bool):
        """Of `blocks` blocks of width D, with P prefix tokens, the class token first."""
        self.module: Any = module
        self.blocks = blocks
        self.width = width
        self.prefix = prefix
        # What an exit may read: the class token, or the mean of the patch tokens.
        self.pools: tuple[Pool, ...] = ("cls", "mean") if has_class_token else ("mean",)

    @abstractmethod
    def stem(self) -> Stem:
        """What is in front of the first block."""

    @abstractmethod
    def block(self, index: int) -> Block:
        """What a block is made of, counted from 0."""


def read_tower(module: nn.Module) -> Tower:
    """The tower in an image encoder of open_clip.

    Raises:
        EncoderError: it is no chain of residual blocks, or has a part that cannot be cut out of it.
    """
    tower: Tower
    if isinstance(module, VisionTransformer):
        tower = _OpenClipTower(module)
    elif isinstance(module, TimmModel) and type(module.trunk) in (vit.VisionTransformer, eva.Eva):
        tower = _TimmTower(module)
    else:
        why = NOT_A_CHAIN.get(kind_of(module), "not one of the ViTs that can be cut")
        raise EncoderError(f"its image tower is a {kind_of(module)}: {why}")
    _known(module.trunk if isinstance(module, TimmModel) else module)
    tower.stem()
    for index in range(tower.blocks):
        tower.block(index)
    return tower


def kind_of(module: nn.Module) -> str:
    """What kind of network an image encoder of open_clip is, by the name its library gives it."""
    if isinstance(module, TimmModel):
        return f"{type(module.trunk).__name__} (timm)"
    return f"{type(module).__name__} (open_clip)"


class _OpenClipTower(Tower):
    """open_clip's own ViT: OpenAI, LAION, DataComp, MetaCLIP, CLIPA, and the image towers of CoCa."""

    def __init__(self, module: VisionTransformer):
        blocks = module.transformer.resblocks
        super().__init__(module, len(blocks), int(module.conv1.out_channels), 1, has_class_token=True)

    def stem(self) -> Stem:
        positions = self.module.positional_embedding.detach()
        return Stem(
            convolutions=nn.Sequential(self.module.conv1),
            prefix=positions[:1] + self.module.class_embedding.detach(),
            positions=positions[1:],
            norm=_norm(self.module.ln_pre),
        )

    def block(self, index: int) -> Block:
        block = _known(self.module.transformer.resblocks[index])
        if type(block) is ResidualAttentionBlock:
            attention, post_1, norm = _joint_attention(_known(block.attn)), None, None
        else:
            attention = _custom_attention(_known(block.attn))
            post_1, norm = _norm(block.ln_attn), _norm(block.mlp.ln)
        return _scaled_block(
            Block(
                pre_1=_norm(block.ln_1),
                attention=attention,
                post_1=post_1,
                pre_2=_norm(block.ln_2),
                gate=None,
                expand=block.mlp.c_fc,
                activation=block.mlp.gelu,
                norm=norm,
                contract=block.mlp.c_proj,
                post_2=None,
            ),
            getattr(block.ls_1, "gamma", None),
            getattr(block.ls_2, "gamma", None),
        )


def _joint_attention(attention: nn.MultiheadAttention) -> Attention:
    query, key, value = _thirds(attention.in_proj_weight, attention.in_proj_bias)
    return Attention(attention.num_heads, query, key, value, attention.out_proj)


def _custom_attention(attention: Any) -> Attention:
    query, key, value = _thirds(attention.in_proj_weight, attention.in_proj_bias)
    if attention.head_scale is not None:
        value = _scaled(value, attention.head_scale.detach().flatten().repeat_interleave(attention.head_dim))
    return Attention(
        heads=attention.num_heads,
        query=query,
        key=key,
        value=value,
        out=attention.out_proj,
        query_norm=_norm(attention.ln_q),
        key_norm=_norm(attention.ln_k),
        norm=_norm(attention.ln_inner),
    )


class _TimmTower(Tower):
    """timm's ViT and EVA inside open_clip's adapter: SigLIP, SigLIP 2, MobileCLIP-B, EVA01, EVA02, PE."""

    def __init__(self, module: TimmModel):
        trunk = module.trunk
        has_class_token = trunk.cls_token is not None
        super().__init__(
            module,
            len(trunk.blocks),
            trunk.embed_dim,
            trunk.num_prefix_tokens,
            has_class_token=has_class_token,
        )
        self.trunk: Any = trunk

    def stem(self) -> Stem:
        trunk = self.trunk
        tokens = [token[0].detach() for token in (trunk.cls_token, trunk.reg_token) if token is not None]
        zeros = next(trunk.parameters()).new_zeros
        prefix = torch.cat(tokens) if tokens else zeros(0, self.width)
        grid = trunk.patch_embed.num_patches
        if trunk.pos_embed is None:
            positions = zeros(grid, self.width)
        elif trunk.no_embed_class:
            positions = trunk.pos_embed[0].detach()
        else:
            of_prefix, positions = trunk.pos_embed[0].detach().split([self.prefix, grid])
            prefix = prefix + of_prefix
        return Stem(_convolutions(trunk.patch_embed), prefix, positions, _norm(trunk.norm_pre))

    def block(self, index: int) -> Block:
        block = _known(self.trunk.blocks[index])
        mlp = _known(block.mlp)
        if type(block) is vit.Block:
            scales = getattr(block.ls1, "gamma", None), getattr(block.ls2, "gamma", None)
        else:
            scales = getattr(block, "gamma_1", None), getattr(block, "gamma_2", None)
        before, after = (_norm(block.norm1), _norm(block.norm2)), (None, None)
        if type(block) is eva.EvaBlockPostNorm:
            before, after = after, before
        gate, expand = (None, mlp.fc1) if type(mlp) is Mlp else (mlp.fc1_g, mlp.fc1_x)
        return _scaled_block(
            Block(
                pre_1=before[0],
                attention=self._attention(_known(block.attn)),
                post_1=after[0],
                pre_2=before[1],
                gate=gate,
                expand=expand,
                activation=nn.GELU("tanh") if type(mlp.act) is GELUTanh else mlp.act,
                norm=_norm(mlp.norm),
                contract=mlp.fc2,
                post_2=after[1],
            ),
            *scales,
        )

    def _attention(self, attention: Any) -> Attention:
        if attention.qkv is None:
            query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        elif getattr(attention, "q_bias", None) is not None:
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
            query, key, value = _thirds(attention.qkv.weight, bias)
        else:
            query, key, value = _thirds(attention.qkv.weight, attention.qkv.bias)
        if key.out_features != query.out_features:
            raise EncoderError("its heads share keys and values")
        norms = _norm(attention.q_norm), _norm(attention.k_norm)
        rotary = None
        if getattr(self.trunk, "rope", None) is not None:
            rotary = self._rotary(half=attention.rotate_half)
            if not attention.rotate_half:
                query, key = (_pairs_apart(linear, attention.num_heads) for linear in (query, key))
                if any(norms):
                    raise EncoderError("it turns neighbouring entries of normalised queries")
        return Attention(
            heads=attention.num_heads,
            query=query,
            key=key,
            value=value,
            out=attention.proj,
            query_norm=norms[0],
            key_norm=norms[1],
            rotary=rotary,
            norm=_norm(attention.norm),
        )

    def _rotary(self, *, half: bool) -> Rotary:
        if type(self.trunk.rope) is not RotaryEmbeddingCat:
            raise EncoderError(f"its positions are a {type(self.trunk.rope).__name__}")
        sin, cos = self.trunk.rope.get_embed().detach().chunk(2, -1)  # (L - P, d), each angle twice
        distinct = slice(sin.shape[1] // 2) if half else slice(None, None, 2)
        sin, cos = sin[:, distinct], cos[:, distinct]
        still = sin.new_zeros(self.prefix, sin.shape[1])
        return Rotary(cos=torch.cat([still + 1, cos]), sin=torch.cat([still, sin]))


def _known(part: Any) -> Any:
    """A part of a tower, if all that it holds is listed in `PARTS`."""
    kind = type(part)
    if kind not in PARTS:
        raise EncoderError(f"it has a {kind.__name__}, which cannot be cut out of it")
    held = {name for name, _ in (*part.named_children(), *part.named_parameters(recurse=False))}
    if unknown := sorted(held - PARTS[kind]):
        raise EncoderError(f"its {kind.__name__} has {unknown[0]}, which the graph has not")
    return part


def _convolutions(embed: Any) -> nn.Sequential:
    """The convolutions of a patch embedding, if it is nothing else and the first of them has no padding."""
    if type(embed) is PatchEmbed and isinstance(embed.norm, nn.Identity) and not embed.dynamic_img_pad:
        return nn.Sequential(embed.proj)
    if type(embed) is HybridEmbed and type(embed.backbone) is ConvStem:
        first = embed.backbone[0].conv
        if isinstance(embed.proj, nn.Identity) and first.padding == (0, 0):
            return nn.Sequential(*embed.backbone)
    raise EncoderError("it is a hybrid: convolutional stages come before its residual blocks")


def _norm(module: nn.Module) -> nn.LayerNorm | None:
    if isinstance(module, nn.Identity):
        return None
    if isinstance(module, nn.LayerNorm) and module.weight is not None and module.bias is not None:
        return module
    raise EncoderError(f"it normalises with a {type(module).__name__}")


def _thirds(weight: Tensor, bias: Tensor | None) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Query, key and value from their joint product, (3 H d, D)."""
    biases = (None, None, None) if bias is None else bias.detach().chunk(3)
    query, key, value = (_linear(w, b) for w, b in zip(weight.detach().chunk(3), biases, strict=True))
    return query, key, value


def _pairs_apart(linear: nn.Linear, heads: int) -> nn.Linear:
    """Moves the pairs (x_2j, x_2j+1) of every head to (x_j, x_j+d/2); done to both, q k is the same."""
    order = torch.arange(linear.out_features).view(heads, -1, 2).transpose(1, 2).flatten()
    return _linear(
        linear.weight.detach()[order], None if linear.bias is None else linear.bias.detach()[order]
    )


def _scaled_block(block: Block, scale_1: Tensor | None, scale_2: Tensor | None) -> Block:
    """The block with its LayerScales (D,) put into what precedes them: a norm, or a linear map."""
    if scale_1 is not None and block.post_1:
        block = replace(block, post_1=_scaled_norm(block.post_1, scale_1.detach()))
    elif scale_1 is not None:
        attention = replace(block.attention, out=_scaled(block.attention.out, scale_1.detach()))
        block = replace(block, attention=attention)
    if scale_2 is not None:
        block = replace(block, contract=_scaled(block.contract, scale_2.detach()))
    return block


def _scaled(linear: nn.Linear, scale: Tensor) -> nn.Linear:
    """A linear map whose outputs are multiplied by `scale`."""
    bias = None if linear.bias is None else linear.bias.detach() * scale
    return _linear(linear.weight.detach() * scale[:, None], bias)


def _scaled_norm(norm: nn.LayerNorm, scale: Tensor) -> nn.LayerNorm:
    """A norm whose outputs are multiplied by `scale`."""
    scaled = copy.deepcopy(norm)
    scaled.weight = nn.Parameter(norm.weight.detach() * scale)
    scaled.bias = nn.Parameter(norm.bias.detach() * scale)
    return scaled


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear
