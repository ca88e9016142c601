"""open_clip's own ViT: OpenAI, LAION, DataComp, MetaCLIP, CLIPA, and the image towers of CoCa."""

from __future__ import annotations

import copy
from typing import Any

from open_clip.transformer import Attention as OpenClipAttention
from open_clip.transformer import (
    CustomResidualAttentionBlock,
    ResidualAttentionBlock,
    VisionTransformer,
)
from torch import Tensor, nn

from tgems_export.encoders.towers.vits.parts import (
    Attention,
    Block,
    Stem,
    known,
    norm,
    scaled,
    scaled_block,
    thirds,
)
from tgems_export.encoders.towers.vits.vit import ViT

__all__ = ["OpenClipViT"]

STEM = "conv1 class_embedding positional_embedding ln_pre"
# Everything that a part may hold; what is behind the last block is the library's own affair.
PARTS: dict[type[nn.Module], set[str]] = {
    kind: set(names.split())
    for kind, names in {
        VisionTransformer: f"{STEM} patch_dropout transformer ln_post proj attn_pool attn_pool_contrastive",
        ResidualAttentionBlock: "ln_1 attn ls_1 ln_2 mlp ls_2",
        CustomResidualAttentionBlock: "ln_1 attn ln_attn ls_1 ln_2 mlp ls_2",
        nn.MultiheadAttention: "in_proj_weight in_proj_bias out_proj",
        OpenClipAttention: "in_proj_weight in_proj_bias ln_q ln_k attn_drop head_scale ln_inner out_proj "
        "out_drop",
    }.items()
}


class OpenClipViT(ViT):
    """open_clip's own ViT: OpenAI, LAION, DataComp, MetaCLIP, CLIPA, and the image towers of CoCa."""

    def __init__(self, module: VisionTransformer):
        """Raises EncoderError for a part that cannot be cut out of it."""
        blocks = module.transformer.resblocks
        known(module, PARTS)
        super().__init__(module, blocks, int(module.conv1.out_channels), 1, has_class_token=True)

    def describe_stem(self) -> Stem:
        """See `ViT`."""
        positions = self.module.positional_embedding.detach()
        return Stem(
            convolutions=nn.Sequential(self.module.conv1),
            prefix=positions[:1] + self.module.class_embedding.detach(),
            positions=positions[1:],
            norm=norm(self.module.ln_pre),
        )

    def describe_block(self, index: int) -> Block:
        """See `ViT`."""
        block = known(self.module.transformer.resblocks[index], PARTS)
        if type(block) is ResidualAttentionBlock:
            attention, post_1, hidden_norm = _joint_attention(known(block.attn, PARTS)), None, None
        else:
            attention = _custom_attention(known(block.attn, PARTS))
            post_1, hidden_norm = norm(block.ln_attn), norm(block.mlp.ln)
        return scaled_block(
            Block(
                pre_1=norm(block.ln_1),
                attention=attention,
                post_1=post_1,
                pre_2=norm(block.ln_2),
                gate=None,
                expand=block.mlp.c_fc,
                activation=block.mlp.gelu,
                norm=hidden_norm,
                contract=block.mlp.c_proj,
                post_2=None,
            ),
            getattr(block.ls_1, "gamma", None),
            getattr(block.ls_2, "gamma", None),
        )

    def count_stem_parameters(self) -> int:
        """See `ViT`."""
        held = set(STEM.split())
        named = self.module.named_parameters()
        return sum(parameter.numel() for name, parameter in named if name.split(".")[0] in held)

    def embed(self) -> nn.Module:
        """See `ViT`."""
        return _Embed(self.module)


class _Embed(nn.Module):
    """Pooling and projection, tokens (B, L, D) to (B, E)."""

    def __init__(self, module: VisionTransformer):
        super().__init__()
        # Without its stem and its blocks, which the graph has in its own form.
        self.library = copy.copy(module)
        self.library._modules = dict(module._modules)
        self.library.conv1 = self.library.transformer = nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        pooled, _ = self.library._pool(tokens)
        return pooled if self.library.proj is None else pooled @ self.library.proj


def _joint_attention(attention: nn.MultiheadAttention) -> Attention:
    query, key, value = thirds(attention.in_proj_weight, attention.in_proj_bias)
    return Attention(attention.num_heads, query, key, value, attention.out_proj)


def _custom_attention(attention: Any) -> Attention:
    query, key, value = thirds(attention.in_proj_weight, attention.in_proj_bias)
    if attention.head_scale is not None:
        value = scaled(value, attention.head_scale.detach().flatten().repeat_interleave(attention.head_dim))
    return Attention(
        heads=attention.num_heads,
        query=query,
        key=key,
        value=value,
        out=attention.out_proj,
        query_norm=norm(attention.ln_q),
        key_norm=norm(attention.ln_k),
        norm=norm(attention.ln_inner),
    )
