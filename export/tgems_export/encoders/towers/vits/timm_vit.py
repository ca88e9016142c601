"""timm's ViT and EVA inside open_clip's adapter: SigLIP, SigLIP 2, MobileCLIP-B, EVA01, EVA02, PE."""

from __future__ import annotations

import copy
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from timm.layers import Attention as TimmAttention
from timm.layers import AttentionRope, GELUTanh, Mlp, PatchEmbed, SwiGLU
from timm.layers.pos_embed_sincos import RotaryEmbeddingCat
from timm.models import eva
from timm.models import vision_transformer as vit
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import Tensor, nn

from tgems_edge.errors import EncoderError
from tgems_export.encoders.towers.vits.parts import (
    Attention,
    Block,
    Rotary,
    Stem,
    known,
    norm,
    pairs_apart,
    scaled_block,
    thirds,
)
from tgems_export.encoders.towers.vits.vit import ViT

__all__ = ["TimmViT"]

STEM = "cls_token reg_token pos_embed patch_embed norm_pre rope"
_TRUNK = f"{STEM} pos_drop patch_drop blocks norm attn_pool fc_norm head_drop head"
_ATTENTION = "qkv q_proj k_proj v_proj q_norm k_norm attn_drop norm proj proj_drop"
# Everything that a part may hold; what is behind the last block is the library's own affair.
PARTS: dict[type[nn.Module], set[str]] = {
    kind: set(names.split())
    for kind, names in {
        vit.VisionTransformer: _TRUNK,
        eva.Eva: _TRUNK,
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


class TimmViT(ViT):
    """timm's ViT and EVA inside open_clip's adapter: SigLIP, SigLIP 2, MobileCLIP-B, EVA01, EVA02, PE."""

    def __init__(self, module: TimmModel):
        """Raises EncoderError for a part that cannot be cut out of it."""
        trunk = known(module.trunk, PARTS)
        self.trunk: Any = trunk
        has_class_token = trunk.cls_token is not None
        super().__init__(
            module,
            trunk.blocks,
            trunk.embed_dim,
            trunk.num_prefix_tokens,
            has_class_token=has_class_token,
        )

    def describe_stem(self) -> Stem:
        """See `ViT`."""
        trunk = self.trunk
        tokens = [token[0].detach() for token in (trunk.cls_token, trunk.reg_token) if token is not None]
        zeros = next(trunk.parameters()).new_zeros
        prefix = torch.cat(tokens) if tokens else zeros(0, trunk.embed_dim)
        grid = trunk.patch_embed.num_patches
        if trunk.pos_embed is None:
            positions = zeros(grid, trunk.embed_dim)
        elif trunk.no_embed_class:
            positions = trunk.pos_embed[0].detach()
        else:
            of_prefix, positions = trunk.pos_embed[0].detach().split([self.prefix, grid])
            prefix = prefix + of_prefix
        return Stem(_convolutions(trunk.patch_embed), prefix, positions, norm(trunk.norm_pre))

    def describe_block(self, index: int) -> Block:
        """See `ViT`."""
        block = known(self.trunk.blocks[index], PARTS)
        mlp = known(block.mlp, PARTS)
        if type(block) is vit.Block:
            scales = getattr(block.ls1, "gamma", None), getattr(block.ls2, "gamma", None)
        else:
            scales = getattr(block, "gamma_1", None), getattr(block, "gamma_2", None)
        before, after = (norm(block.norm1), norm(block.norm2)), (None, None)
        if type(block) is eva.EvaBlockPostNorm:
            before, after = after, before
        gate, expand = (None, mlp.fc1) if type(mlp) is Mlp else (mlp.fc1_g, mlp.fc1_x)
        return scaled_block(
            Block(
                pre_1=before[0],
                attention=self._attention(known(block.attn, PARTS)),
                post_1=after[0],
                pre_2=before[1],
                gate=gate,
                expand=expand,
                activation=nn.GELU("tanh") if type(mlp.act) is GELUTanh else mlp.act,
                norm=norm(mlp.norm),
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
            query, key, value = thirds(attention.qkv.weight, bias)
        else:
            query, key, value = thirds(attention.qkv.weight, attention.qkv.bias)
        if key.out_features != query.out_features:
            raise EncoderError("its heads share keys and values")
        norms = norm(attention.q_norm), norm(attention.k_norm)
        rotary = None
        if getattr(self.trunk, "rope", None) is not None:
            rotary = self._rotary(half=attention.rotate_half)
            if not attention.rotate_half:
                query, key = (pairs_apart(linear, attention.num_heads) for linear in (query, key))
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
            norm=norm(attention.norm),
        )

    def _rotary(self, *, half: bool) -> Rotary:
        if type(self.trunk.rope) is not RotaryEmbeddingCat:
            raise EncoderError(f"its positions are a {type(self.trunk.rope).__name__}")
        sin, cos = self.trunk.rope.get_embed().detach().chunk(2, -1)  # (L - P, d), each angle twice
        distinct = slice(sin.shape[1] // 2) if half else slice(None, None, 2)
        sin, cos = sin[:, distinct], cos[:, distinct]
        still = sin.new_zeros(self.prefix, sin.shape[1])
        return Rotary(cos=torch.cat([still + 1, cos]), sin=torch.cat([still, sin]))

    def count_stem_parameters(self) -> int:
        """See `ViT`."""
        held = set(STEM.split())
        named = self.trunk.named_parameters()
        return sum(parameter.numel() for name, parameter in named if name.split(".")[0] in held)

    def embed(self) -> nn.Module:
        """See `ViT`."""
        return _Embed(self.module)


class _Embed(nn.Module):
    """Pooling and projection, tokens (B, L, D) to (B, E)."""

    def __init__(self, module: TimmModel):
        super().__init__()
        # Without its stem and its blocks, which the graph has in its own form.
        self.trunk = copy.copy(module.trunk)
        self.trunk._modules = dict(module.trunk._modules)
        self.trunk.patch_embed = self.trunk.blocks = nn.Identity()
        self.head = module.head

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.trunk.forward_head(self.trunk.norm(tokens)))


def _convolutions(embed: Any) -> nn.Sequential:
    """The convolutions of a patch embedding, if it is nothing else and the first of them has no padding."""
    if type(embed) is PatchEmbed and isinstance(embed.norm, nn.Identity) and not embed.dynamic_img_pad:
        return nn.Sequential(embed.proj)
    if type(embed) is HybridEmbed and type(embed.backbone) is ConvStem:
        first = embed.backbone[0].conv
        if isinstance(embed.proj, nn.Identity) and first.padding == (0, 0):
            return nn.Sequential(*embed.backbone)
    raise EncoderError("it is a hybrid: convolutional stages come before its residual blocks")
