"""Prompts to text embeddings: a CLIP's own text tower, or a stand-in for one that was never trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tgems_export.threads import in_order, one_thread

__all__ = ["ClipText", "StandInText", "TextTower"]

BATCH = 32  # prompts; several batches are encoded at once
INITIAL_LOGIT_SCALE = 1 / 0.07  # what CLIP begins its training with


class TextTower(Protocol):
    """The text side of a CLIP, as training and export need it."""

    @property
    def logit_scale(self) -> float:
        """The factor that turns cosines into CLIP's logits."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings of length 1, (len(prompts), E), on the CPU."""

    def too_long(self, prompts: Sequence[str]) -> list[int]:
        """The indices of the prompts that would be cut off."""


@dataclass(frozen=True)
class ClipText:
    """The text tower of a loaded CLIP."""

    clip: Any  # open_clip's model, a torch module
    tokenize: Any
    device: torch.device

    @property
    def context_length(self) -> int:
        """The number of tokens of a prompt that the tokenizer keeps."""
        return int(getattr(self.tokenize, "context_length", None) or self.clip.context_length)

    @property
    def logit_scale(self) -> float:
        """See `TextTower`."""
        return float(self.clip.logit_scale.exp())

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """See `TextTower`."""
        tokens = self.tokenize(list(prompts)).to(self.device)
        with one_thread():
            return torch.cat(list(in_order(self._encode, tokens.split(BATCH)))).float().cpu()

    @torch.no_grad()
    def _encode(self, tokens: Tensor) -> Tensor:
        embeddings: Tensor = self.clip.encode_text(tokens, normalize=True)
        return embeddings

    def too_long(self, prompts: Sequence[str]) -> list[int]:
        """Tokenises with twice the room: what spills over would have been cut off.

        Not looked at is the last token, which some tokenizers set behind the padding.
        """
        tokens = self.tokenize([*prompts, ""], context_length=2 * self.context_length)
        padding = tokens[-1, -2]
        spilled = (tokens[:-1, self.context_length : -1] != padding).any(1)
        indices: list[int] = spilled.nonzero()[:, 0].tolist()
        return indices


@dataclass(frozen=True)
class StandInText:
    """Embeddings drawn from the prompts themselves.

    An untrained text tower says nothing either, and SigLIP's cannot be asked without tokenizer files.
    """

    width: int  # E
    logit_scale: float = INITIAL_LOGIT_SCALE

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """See `TextTower`; equal prompts have equal embeddings, on every machine."""
        seeds = [int.from_bytes(hashlib.sha256(p.encode()).digest()[:4], "big") for p in prompts]
        drawn = np.stack([np.random.RandomState(seed).standard_normal(self.width) for seed in seeds])
        return nn.functional.normalize(torch.from_numpy(drawn).float(), dim=-1)

    def too_long(self, prompts: Sequence[str]) -> list[int]:
        """Return nothing: no prompt is cut off."""
        return []
