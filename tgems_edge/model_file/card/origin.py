"""The origin of a file."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EncoderId"]


@dataclass(frozen=True)
class EncoderId:
    """The identity of a CLIP: its name, and the hash of its weights."""

    name: str
    pretrained: str | None
    sha256: str
