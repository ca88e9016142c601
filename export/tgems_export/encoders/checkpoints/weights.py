"""Weights into a CLIP that was made for them, or one line about what does not fit.

open_clip's own loader would stretch the positions of pictures of another size and of longer texts, and torch
would copy packed integers into weights; both run, and answer nonsense.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from torch import Tensor, nn

from tgems_edge.errors import EncoderError

__all__ = ["check_numbers", "fit_weights"]

Weights = dict[str, Tensor]

UNUSED = ("input_resolution", "context_length", "vocab_size", "attn_mask", "position_ids")
TEXT_PARTS = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
POSITIONS = (  # and how many of them are not of patches or tokens but of the class token
    ("visual.positional_embedding", "patches a picture", 1),
    ("positional_embedding", "text tokens", 0),
    ("text.positional_embedding", "text tokens", 0),
)
TRANSFORMERS = "vision_model."
SIGLIP_OF_TRANSFORMERS = "vision_model.head."
MOBILECLIP = "image_encoder."

# From CLIPModel of transformers; q, k and v are joined and projections transposed on top of that.
RENAMED = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


def fit_weights(clip: nn.Module, weights: Weights, name: str, file: Path) -> None:
    """Puts the weights of a checkpoint into a CLIP.

    Args:
        clip: open_clip's model, fresh.
        weights: as `read_checkpoint` returns them.
        name: of the architecture, for messages.
        file: they come from.

    Raises:
        EncoderError: they are of another architecture, or not numbers that a tower can compute with.
    """
    expected = clip.state_dict()
    weights = _in_the_words_of(clip, expected, _from_other_libraries(clip, weights, name, file))
    if difference := _other_positions(weights, expected) or _difference(weights, expected):
        seen = Outline.of(weights)
        looks = f"it looks like {seen}; " if seen else ""
        raise EncoderError(
            f"{name}: {file} belongs to another architecture: {difference}; {looks}give the --encoder it was "
            "made for"
        )
    if packed := next((n for n, t in weights.items() if t.ndim > 1 and not t.is_floating_point()), None):
        raise EncoderError(
            f"{name}: {file}: {packed} holds {str(weights[packed].dtype).removeprefix('torch.')} instead of "
            "numbers with a point: quantized weights; give those they were made from"
        )
    clip.load_state_dict(weights)


def check_numbers(clip: nn.Module, what: str) -> None:
    """Refuses weights that no training left behind.

    Raises:
        EncoderError: one is not a number or infinite, or a whole matrix is zero.
    """
    for name, tensor in clip.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if not torch.isfinite(tensor).all():
            wrong = "not numbers (NaN)" if tensor.isnan().any() else "infinite"
            raise EncoderError(
                f"{what}: some of {name} are {wrong}: the training diverged, or the file is damaged; give an "
                "earlier checkpoint"
            )
        if tensor.ndim > 1 and name.endswith(("weight", "proj", "projection")) and not tensor.any():
            raise EncoderError(
                f"{what}: all of {name} are zero: never trained, or the file is damaged; give other weights"
            )


def _from_other_libraries(clip: Any, weights: Weights, name: str, file: Path) -> Weights:
    """The weights as open_clip names them, if transformers or MobileCLIP named them."""
    if any(key.startswith(SIGLIP_OF_TRANSFORMERS) for key in weights):
        raise EncoderError(
            f"{name}: {file} is a SigLIP as transformers saves it; give open_clip's: --encoder "
            "ViT-B-16-SigLIP (or its size) --pretrained webli"
        )
    if any(key.startswith(TRANSFORMERS) for key in weights):
        try:
            return _from_transformers(weights)
        except KeyError as error:
            raise EncoderError(
                f"{name}: {file} is of transformers but no CLIPModel: it lacks {error.args[0]}; give the "
                "checkpoint of a CLIPModel, or open_clip's"
            ) from None
    if any(key.startswith(MOBILECLIP) for key in weights):
        with suppress(AttributeError, KeyError, RuntimeError, AssertionError):  # another CLIP than theirs
            weights = convert_state_dict(clip, weights)
        if any(key.startswith(MOBILECLIP) for key in weights):
            raise EncoderError(
                f"{name}: {file} looks like a MobileCLIP as Apple saves it; give --encoder MobileCLIP-B (or "
                "its size) and one of its tags"
            )
    return weights


def _from_transformers(weights: Weights) -> Weights:
    """A CLIPModel's weights as OpenAI named them.

    Raises:
        KeyError: a weight that every CLIPModel has is missing.
    """
    found = {key: value for key, value in weights.items() if not key.endswith("position_ids")}
    converted = {
        "visual.proj": found.pop("visual_projection.weight").T.contiguous(),
        "text_projection": found.pop("text_projection.weight").T.contiguous(),
    }
    for key, value in found.items():
        if re.search(r"\.[kv]_proj\.(weight|bias)$", key):
            continue  # with q
        new = key
        for pattern, replacement in RENAMED:
            new = re.sub(pattern, replacement, new)
        if ".self_attn.q_proj." in key:
            value = torch.cat([value, *(found[key.replace("q_proj", f"{part}_proj")] for part in "kv")])
            new = new.replace(".self_attn.q_proj.", ".attn.in_proj_")
        converted[new] = value
    return converted


def _in_the_words_of(clip: Any, expected: Mapping[str, Tensor], weights: Weights) -> Weights:
    """The weights without what no CLIP of today has, and with the text tower where this one has it."""
    kept = {
        key: value
        for key, value in weights.items()
        if key in expected or key.rpartition(".")[2] not in UNUSED
    }
    if hasattr(clip, "text"):
        kept = {f"text.{key}" if key.startswith(TEXT_PARTS) else key: value for key, value in kept.items()}
    else:
        kept = {key.removeprefix("text."): value for key, value in kept.items()}
    for scalar in ("logit_scale", "logit_bias"):  # of one number or of one row
        if scalar in kept and scalar in expected and kept[scalar].numel() == expected[scalar].numel():
            kept[scalar] = kept[scalar].reshape(expected[scalar].shape)
    return kept


def _other_positions(weights: Weights, expected: Mapping[str, Tensor]) -> str:
    """A difference in the number of positions: another picture size or another length of texts."""
    for key, unit, besides in POSITIONS:
        if key in weights and key in expected:
            theirs, ours = (len(where[key]) - besides for where in (weights, expected))
            if theirs != ours:
                return f"{theirs} {unit} instead of {ours}"
    return ""


def _difference(weights: Weights, expected: Mapping[str, Tensor]) -> str:
    """The first thing that does not fit, and how much else."""
    if lacking := [key for key in expected if key not in weights]:
        return f"it lacks {lacking[0]} and {len(lacking) - 1} more"
    if besides := [key for key in weights if key not in expected]:
        return f"it also holds {besides[0]} and {len(besides) - 1} more"
    shapes = [key for key in expected if weights[key].shape != expected[key].shape]
    if shapes:
        theirs, ours = (tuple(where[shapes[0]].shape) for where in (weights, expected))
        return f"{shapes[0]} has the shape {theirs} instead of {ours}, and {len(shapes) - 1} more differ"
    return ""


@dataclass(frozen=True)
class Outline:
    """The size of a CLIP with a ViT, as its weights show it."""

    width: int
    layers: int
    patch: int
    image: int  # pixels
    text: tuple[int, int] | None  # tokens, width
    timm: bool

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> Outline | None:
        """None for weights that are not a ViT of open_clip or timm."""
        timm = "visual.trunk.pos_embed" in weights
        kernel = "visual.trunk.patch_embed.proj.weight" if timm else "visual.conv1.weight"
        positions = weights.get("visual.trunk.pos_embed" if timm else "visual.positional_embedding")
        if positions is None or kernel not in weights or weights[kernel].ndim != 4:
            return None
        width, _, patch, _ = weights[kernel].shape
        block = re.compile(r"visual\.(?:trunk\.blocks|transformer\.resblocks)\.(\d+)\.")
        text = weights.get("text.positional_embedding", weights.get("positional_embedding"))
        return cls(
            width=width,
            layers=len({found[1] for key in weights if (found := block.match(key))}),
            patch=patch,
            image=int(positions.shape[-2] ** 0.5) * patch,  # a class token more makes no row more
            text=(text.shape[0], text.shape[-1]) if text is not None and text.ndim == 2 else None,
            timm=timm,
        )

    def __str__(self) -> str:
        """Return its name in an error message, with architectures of that size."""
        size = f"width {self.width}, {self.layers} blocks, patches of {self.patch}, pictures of {self.image}"
        if self.text:
            size += f", {self.text[0]} text tokens"
        names = [name for name in open_clip.list_models() if self._is(open_clip.get_model_config(name) or {})]
        kind = "a ViT of timm" if self.timm else "a ViT"
        return f"{' or '.join(names[:2])} ({size})" if names else f"{kind} ({size})"

    def _is(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration of open_clip is of this size; those of timm do not say theirs."""
        vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
        stated = (vision.get(key) for key in ("width", "layers", "patch_size", "image_size"))
        return tuple(stated) == (self.width, self.layers, self.patch, self.image) and self.text in (
            None,
            (text.get("context_length"), text.get("width")),
        )
