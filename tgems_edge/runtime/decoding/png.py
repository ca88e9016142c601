"""The chunks of a PNG file."""

from __future__ import annotations

__all__ = ["bit_depth", "without_metadata"]

_SIGNATURE = 8  # bytes
_METADATA = {b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf"}


def bit_depth(data: bytes) -> int:
    """Bits of a channel."""
    return data[24] if len(data) > 24 else 0


def without_metadata(data: bytes) -> bytes:
    """The file without texts and colour profile, which may be compressed to a thousandth of their size."""
    parts = [data[:_SIGNATURE]]
    at = _SIGNATURE
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in _METADATA:
            parts.append(data[at:end])
        at = end
    return b"".join(parts)
