"""The digest of a model file, which is in the file itself."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tgems_edge.model_file.card import UNSEALED
from tgems_edge.model_file.onnx_file import open_model_file

__all__ = ["is_sealed", "seal"]

_SEAL_KEY = b'"file_sha256"'
_SEAL = _SEAL_KEY + b': "%s"'
_ANY_SEAL = re.compile(_SEAL % b"([0-9a-f]{64})")
_NO_SEAL = _SEAL % UNSEALED.encode()
_CHUNK = 1 << 16  # bytes read at once; more do not fit into caches


def seal(unsealed: bytes) -> bytes:
    """A serialised model with its own SHA-256 written into the card.

    Args:
        unsealed: the file as it is to be written, with a card whose `file_sha256` is 64 zeros.
    """
    digest = hashlib.sha256(unsealed).hexdigest()
    if unsealed.count(_NO_SEAL) != 1:
        raise ValueError("expected exactly one unsealed card in the serialised model")
    return unsealed.replace(_NO_SEAL, _SEAL % digest.encode())


def is_sealed(model: Path | bytes) -> bool:
    """Whether a file, or a serialised model, is byte for byte what was sealed.

    It looks for the seal itself, in a part of the file at a time: what happened to the card does not
    matter, and neither does the size of the file.
    """
    digest, stated, rest = hashlib.sha256(), [], b""
    with open_model_file(model) as file:
        while chunk := file.read(_CHUNK):
            part = rest + chunk
            if _SEAL_KEY in part:  # ten times as fast as to look for the whole
                stated += _ANY_SEAL.findall(part)
                part = _ANY_SEAL.sub(_NO_SEAL, part)
            done = max(0, len(part) - len(_NO_SEAL) + 1)  # a seal may begin in what follows
            digest.update(part[:done])
            rest = part[done:]
    digest.update(rest)
    return stated == [digest.hexdigest().encode()]
