"""A frozen CLIP: the activations behind every block of its image tower, and its text embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import QuickGELU
from PIL import Image
from torch import Tensor, nn

from tgems_edge.errors import EncoderError
from tgems_edge.model_file.card import Colour, EncoderId, Preprocessing
from tgems_export.encoders.checkpoints.loading import (
    DEMO,
    RANDOM,
    folder_config,
    model_config,
    outlined_tower,
    random_preprocessing,
    random_tower,
)
from tgems_export.encoders.checkpoints.pretrained import load_clip
from tgems_export.encoders.checkpoints.recipes import make_recipe
from tgems_export.encoders.texts import ClipText, StandInText, TextTower
from tgems_export.encoders.towers.base import Activations, ExitPoint, Pool, Tower
from tgems_export.encoders.towers.families import read_tower

__all__ = ["RESEARCH_ONLY", "Activations", "Encoder", "load_encoder"]

RESEARCH_ONLY = "research only"
MOBILECLIP_LICENCE = f"Apple Machine Learning Research Model License: {RESEARCH_ONLY}, derivatives included"


@dataclass(frozen=True)
class Encoder:
    """A frozen CLIP whose image tower can be cut behind any of its blocks."""

    id: EncoderId
    tower: Tower
    text: TextTower
    tower_sha256: str  # of the tower's weights, on which alone activations depend
    embedding_width: int  # E, of the joint embedding
    transform: PreprocessCfg  # open_clip's own settings, from which `preprocessing` was read
    device: torch.device
    licence: str  # terms of the weights
    colour: Colour | None = "srgb"  # what is done about colour profiles; None: ignored, as open_clip does

    @property
    def blocks(self) -> int:
        """The number of blocks of the image tower."""
        return len(self.tower.points)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing that the tower expects."""
        config = self.transform
        height, width = config.size if isinstance(config.size, Sequence) else (config.size, config.size)
        return Preprocessing(
            size=(int(height), int(width)),
            resize_mode=config.resize_mode,
            interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
            fill_color=config.fill_color,
            mean=tuple(config.mean),
            std=tuple(config.std),
            colour=self.colour,
        )

    @torch.no_grad()
    def activations(self, pixels: np.ndarray) -> Activations:
        """Runs the full tower once.

        Args:
            pixels: uint8 (B, H, W, 3), resized and cropped.
        """
        found = self.tower.activations(self.normalise(pixels))
        return Activations(
            {pool: tuple(value.cpu() for value in values) for pool, values in found.pools.items()},
            found.embedding.cpu(),
        )

    @torch.no_grad()
    def exit_activation(self, images: Tensor, layer: int, pool: Pool) -> Tensor:
        """The activation (B, D) behind block `layer`, by open_clip's own forward pass.

        Args:
            images: float (B, 3, H, W), scaled and normalised.
            layer: number of the exit point.
            pool: one of its pools.
        """
        return self.tower.activation(images.to(self.device), self.tower.at(layer), pool).cpu()

    def normalise(self, pixels: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) to what the tower expects, float (B, 3, H, W)."""
        images = torch.from_numpy(np.array(pixels)).to(self.device).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(self.transform.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.transform.std, device=self.device).view(3, 1, 1)
        return (images - mean) / std

    def reference_transform(self, picture: Image.Image) -> Tensor:
        """open_clip's own transform of an RGB picture, float (3, H, W): what ours has to equal."""
        return image_transform_v2(self.transform, is_train=False)(picture)

    def point(self, layer: str | int) -> ExitPoint:
        """The exit point that `--layer` names.

        Raises:
            EncoderError: this tower has none of that name.
        """
        try:
            return self.tower.point(layer)
        except EncoderError as error:
            listed = str(error).removeprefix("it ")
            raise EncoderError(f"layer {layer}: {self.id.name} {listed}") from None

    def check_pool(self, point: ExitPoint, pool: Pool) -> None:
        """Raises EncoderError for a pool that an exit point does not have."""
        if pool not in point.pools:
            others = " or ".join(f"--pool {other}" for other in ("auto", *point.pools))
            raise EncoderError(f"--pool {pool}: not at layer {point.name} of {self.id.name}; give {others}")


def load_encoder(
    name: str = DEMO,
    pretrained: str | None = None,
    *,
    device: torch.device | None = None,
    seed: int = 0,
    colour: Colour | None = "srgb",
) -> Encoder:
    """Loads a CLIP.

    Args:
        name: an open_clip architecture, `local-dir:PATH`, `hf-hub:ORG/NAME`, or a built-in one,
            `photo` or `vit-demo`.
        pretrained: one of the architecture's tags, a checkpoint file, `TAG:FILE` for a file that was trained
            like a tag, or `random`.
        device: where it runs; default CPU.
        seed: of the random weights.
        colour: `srgb` converts pictures with a colour profile; None ignores profiles, as open_clip does.

    Raises:
        EncoderError: unknown name or tag, weights that cannot be had or do not fit, or a tower that
            cannot be cut.
        MissingDependency: the tokenizer needs a package that is not installed.
    """
    device = device or torch.device("cpu")
    _read_tower(outlined_tower(name), name)  # before gigabytes are fetched
    config = model_config(name)
    if pretrained == RANDOM:
        module = random_tower(config, seed)
        text: TextTower = StandInText(config["embed_dim"])
        weights, transform = module, random_preprocessing(name, module)
    else:
        weights, tokenize = load_clip(name, pretrained)
        module, text = weights.visual, ClipText(weights, tokenize, device)
        transform = make_recipe(None, module.preprocess_cfg).preprocessing
    weights.requires_grad_(False).to(device)
    identity = EncoderId(name, pretrained, _hash_weights(weights))
    return Encoder(
        id=identity,
        tower=_read_tower(module, name),
        tower_sha256=_hash_weights(module),
        text=text,
        embedding_width=config["embed_dim"],
        transform=transform,
        device=device,
        licence=_licence(identity),
        colour=colour,
    )


def _read_tower(module: nn.Module, name: str) -> Tower:
    try:
        return read_tower(module)
    except EncoderError as error:
        raise EncoderError(
            f"{name}: {error}; use one such as ViT-B-32, ViT-B-16-SigLIP or, small, MobileCLIP2-S0 "
            "(all: tgems-edge models)"
        ) from None


def _licence(identity: EncoderId) -> str:
    """The `license` that a folder's configuration states; open_clip ignores the key."""
    if config := folder_config(identity.name):
        return str(config.get("license", "not stated"))
    if identity.name.startswith("MobileCLIP") and identity.pretrained != RANDOM:
        return MOBILECLIP_LICENCE
    return f"those of {identity.name} ({identity.pretrained})"


def _hash_weights(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights: a name alone proves nothing.

    The same weights with QuickGELU are another encoder.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    if any(isinstance(part, QuickGELU) for part in module.modules()):
        digest.update(b"QuickGELU")
    return digest.hexdigest()
