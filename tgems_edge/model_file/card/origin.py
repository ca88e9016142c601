"""What a file was made of."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EncoderId"]


@dataclass(frozen=True)
class EncoderId:
    """Which CLIP: its name alone would not do, so the weights are named by their hash."""

    name: str
    pretrained: str | None
    sha256: str
