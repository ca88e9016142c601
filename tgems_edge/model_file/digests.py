"""Pictures are known again by the SHA-256 of their files, whatever their names; its beginning will do."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["beginnings", "join_beginnings"]

BEGINNING = 6  # bytes: 100 000 pictures against as many have one false match in 30 000 cases


def join_beginnings(digests: Sequence[bytes]) -> bytes:
    """The first 6 bytes of each SHA-256, sorted and joined."""
    return b"".join(sorted(digest[:BEGINNING] for digest in digests))


def beginnings(joined: bytes) -> list[bytes]:
    """Split what `join_beginnings` joined.

    Raises:
        ValueError: cut short.
    """
    if len(joined) % BEGINNING:
        raise ValueError(f"{len(joined)} bytes are no whole number of {BEGINNING}")
    return [joined[i : i + BEGINNING] for i in range(0, len(joined), BEGINNING)]
