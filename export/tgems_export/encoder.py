"""A CLIP from open_clip, and the activations behind the residual blocks of its image tower.

Every CLIP comes through open_clip's own factory: a built-in architecture with a pretrained tag or a
local checkpoint, a `local-dir:` folder, and the demo CLIP, which is such a folder inside the package.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from PIL import Image
from torch import Tensor, nn

from tgems_edge.card import EncoderId
from tgems_edge.errors import EncoderError
from tgems_edge.images import Preprocessing

__all__ = ["DEMO", "RANDOM", "Activations", "Encoder", "Pool", "load_encoder"]

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo" / "clip"
RANDOM = "random"
LOCAL_DIR = "local-dir:"

Pool = Literal["cls", "mean"]
POOLS: tuple[Pool, ...] = ("cls", "mean")


@dataclass(frozen=True)
class Activations:
    """What one pass over B pictures leaves behind, N blocks, width D, joint embedding E."""

    cls: Tensor  # (N, B, D) the CLS token behind each block
    mean: Tensor  # (N, B, D) the mean of the patch tokens behind each block
    embedding: Tensor  # (B, E) the full tower's answer, of length 1


@dataclass(frozen=True)
class Encoder:
    """A frozen CLIP whose image tower can be cut behind any of its blocks."""

    id: EncoderId
    clip: Any  # open_clip's CLIP, a torch module
    tokenize: Any
    preprocessing: Preprocessing
    device: torch.device
    licence: str  # terms of the weights

    @property
    def tower(self) -> VisionTransformer:
        """The image tower."""
        return self.clip.visual

    @property
    def blocks(self) -> int:
        """How many residual blocks the image tower has."""
        return len(self.tower.transformer.resblocks)

    @property
    def width(self) -> int:
        """D, the width of the image tower."""
        return int(self.tower.conv1.out_channels)

    @property
    def embedding_width(self) -> int:
        """E, the width of the joint embedding."""
        return int(self.tower.output_dim)

    @property
    def context_length(self) -> int:
        """How many tokens a prompt may have."""
        return int(self.clip.context_length)

    @property
    def logit_scale(self) -> float:
        """What CLIP multiplies cosines with to make logits."""
        return float(self.clip.logit_scale.exp())

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings of length 1, (len(prompts), E), on the CPU."""
        tokens = self.tokenize(list(prompts)).to(self.device)
        chunks = [self.clip.encode_text(chunk, normalize=True) for chunk in tokens.split(256)]
        return torch.cat(chunks).float().cpu()

    @torch.no_grad()
    def activations(self, pixels: np.ndarray) -> Activations:
        """Runs the full tower once.

        Args:
            pixels: uint8 (B, H, W, 3), resized and cropped.
        """
        result = self.tower.forward_intermediates(
            self.normalise(pixels), output_fmt="NLC", output_extra_tokens=True
        )
        patches = torch.stack([tokens.mean(1) for tokens in result["image_intermediates"]])
        cls = torch.stack([prefix[:, 0] for prefix in result["image_intermediates_prefix"]])
        embedding = nn.functional.normalize(result["image_features"], dim=-1)
        return Activations(cls.cpu(), patches.cpu(), embedding.cpu())

    @torch.no_grad()
    def exit_activation(self, images: Tensor, layer: int, pool: Pool) -> Tensor:
        """The activation (B, D) behind block `layer`, by open_clip's own forward pass.

        Args:
            images: float (B, 3, H, W), scaled and normalised.
            layer: block, counted from 1.
            pool: the CLS token or the mean of the patch tokens.
        """
        result = self.tower.forward_intermediates(
            images.to(self.device),
            indices=[layer - 1],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        if pool == "cls":
            return result["image_intermediates_prefix"][0][:, 0].cpu()
        return result["image_intermediates"][0].mean(1).cpu()

    def normalise(self, pixels: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) to what the tower expects, float (B, 3, H, W)."""
        images = torch.from_numpy(np.array(pixels)).to(self.device).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(self.preprocessing.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=self.device).view(3, 1, 1)
        return (images - mean) / std

    def reference_transform(self, picture: Image.Image) -> Tensor:
        """open_clip's own transform of an RGB picture, float (3, H, W): what ours has to equal."""
        return image_transform_v2(_preprocess_config(self.clip), is_train=False)(picture)

    def check_layer(self, layer: int) -> None:
        """Raises EncoderError for a layer that this tower does not have."""
        if not 1 <= layer <= self.blocks:
            raise EncoderError(f"layer {layer}: {self.id.name} has the layers 1 to {self.blocks}")


def load_encoder(
    name: str = DEMO, pretrained: str | None = None, *, device: torch.device | None = None, seed: int = 0
) -> Encoder:
    """Loads a CLIP.

    Args:
        name: an open_clip architecture, `local-dir:PATH`, or `demo` for the built-in one.
        pretrained: one of the architecture's tags, a local checkpoint, or `random`.
        device: where it runs; default CPU.
        seed: of the random weights.

    Raises:
        EncoderError: unknown name or tag, weights that cannot be had or do not fit, or a tower that is
            not a chain of open_clip's residual blocks.
    """
    device = device or torch.device("cpu")
    source = f"{LOCAL_DIR}{DEMO_FOLDER}" if name == DEMO else name
    is_folder = source.startswith(LOCAL_DIR)
    _check_source(source, name, pretrained, is_folder)
    torch.manual_seed(seed)
    try:
        clip = open_clip.create_model(
            source,
            pretrained=None if pretrained == RANDOM else pretrained,
            load_weights=pretrained != RANDOM,
            force_quick_gelu=_trained_with_quick_gelu(name, pretrained),
            require_pretrained=pretrained != RANDOM,
        )
        tokenize = open_clip.get_tokenizer(source)
    except Exception as error:  # a file that is no checkpoint makes the unpicklers raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        if "Failed to download" in reason:
            raise EncoderError(
                f"{name}: the weights {pretrained!r} are not in the cache {HF_HUB_CACHE} and cannot be "
                "fetched; connect to the network once, or give --pretrained a checkpoint file"
            ) from None
        raise EncoderError(f"{name}: cannot be loaded ({reason[:300]})") from None
    clip = clip.eval().requires_grad_(False).to(device)
    _check_sliceable(clip.visual, name)
    identity = EncoderId(name, pretrained, _hash_weights(clip))
    licence = _folder_licence(source) if is_folder else f"those of {name} ({pretrained})"
    return Encoder(identity, clip, tokenize, _read_preprocessing(clip), device, licence)


def _check_source(source: str, name: str, pretrained: str | None, is_folder: bool) -> None:
    if is_folder:
        if not Path(source.removeprefix(LOCAL_DIR)).is_dir():
            raise EncoderError(f"{name}: no such folder; give --encoder local-dir:PATH")
        if pretrained not in (None, RANDOM):
            raise EncoderError(f"{name}: a folder brings its own weights; leave --pretrained out")
        return
    architectures = open_clip.list_models()
    if name not in architectures:
        nearest = difflib.get_close_matches(name, architectures, n=3, cutoff=0.3)
        examples = nearest or ["ViT-B-32", "ViT-L-14"]
        raise EncoderError(f"{name}: open_clip has no such model; nearest: {', '.join(examples)}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise EncoderError(f"{name}: give --pretrained, a checkpoint file, random, or one of {_some(tags)}")
    if pretrained != RANDOM and pretrained not in tags and not Path(pretrained).is_file():
        raise EncoderError(f"{name}: --pretrained {pretrained} is no file, nor one of {_some(tags)}")


def _trained_with_quick_gelu(name: str, pretrained: str | None) -> bool:
    """open_clip only warns when an architecture's activation is not the one its weights were trained with."""
    return bool(open_clip.get_pretrained_cfg(name, pretrained or "").get("quick_gelu", False))


def _some(tags: Sequence[str]) -> str:
    return ", ".join(tags[:8]) + (f" and {len(tags) - 8} more" if len(tags) > 8 else "")


def _check_sliceable(tower: nn.Module, name: str) -> None:
    """Only a plain chain of open_clip's own blocks can be cut and rewired."""
    if not isinstance(tower, VisionTransformer):
        raise EncoderError(
            f"{name}: its image tower is a {type(tower).__name__}, which cannot be cut at a block; "
            "use an open_clip ViT, such as ViT-B-32 or ViT-L-14"
        )
    for block in tower.transformer.resblocks:
        if type(block) is not ResidualAttentionBlock:
            raise EncoderError(f"{name}: blocks of type {type(block).__name__} cannot be exported yet")


def _preprocess_config(clip: Any) -> PreprocessCfg:
    return PreprocessCfg(**clip.visual.preprocess_cfg)


def _read_preprocessing(clip: nn.Module) -> Preprocessing:
    config = _preprocess_config(clip)
    height, width = config.size if isinstance(config.size, Sequence) else (config.size, config.size)
    return Preprocessing(
        size=(int(height), int(width)),
        resize_mode=config.resize_mode,
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        fill_color=config.fill_color,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )


def _folder_licence(source: str) -> str:
    """The `license` that a folder's configuration states; open_clip ignores the key."""
    text = (Path(source.removeprefix(LOCAL_DIR)) / "open_clip_config.json").read_text(encoding="utf-8")
    return str(json.loads(text).get("license", "not stated"))


def _hash_weights(clip: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights: a name alone proves nothing."""
    digest = hashlib.sha256()
    for name, tensor in sorted(clip.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
