"""safetensors files that state a digest of their tensors, so that a damaged one is told from a whole one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from tgems_edge.sources.text_files import refuse_special_file
from tgems_export.storage.files import write_atomically

__all__ = ["DIGEST_KEY", "read_tensors", "write_tensors"]

DIGEST_KEY = "sha256"  # in a file's metadata


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool = True
) -> None:
    """Writes tensors with their digest; equal tensors with equal metadata are equal bytes.

    Raises:
        OSError: see `write_atomically`.
    """
    content = save(dict(tensors), metadata={**metadata, DIGEST_KEY: _digest(tensors)})
    write_atomically(path, _in_order(content), overwrite=overwrite)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file; one that an earlier version wrote states no digest.

    Raises:
        OSError, SafetensorError: no such file, a device or a pipe, or not one of tensors.
        ValueError: its tensors are not those it was written with.
    """
    refuse_special_file(path)
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = _digest(tensors)
    if metadata.get(DIGEST_KEY, found) != found:
        raise ValueError("its tensors do not match their digest")
    return tensors, metadata


def _in_order(content: bytes) -> bytes:
    """The same file with its metadata sorted; safetensors writes them in a random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
