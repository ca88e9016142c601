"""Activations of an image folder, computed once and kept on disk.

The encoder is frozen, so its activations at every exit point, and the full tower's embedding, are all that
training ever needs of a picture. They are kept in chunks of a fixed
number of pictures under a key of encoder weights, preprocessing and data; each chunk is written
atomically, so interrupted work goes on with the next chunk and ends with the same bytes. A chunk that does
not hold what it held when it was written, or not what this encoder says, is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tgems_edge.errors import DataError, ImageError, InputError
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import decode, read_pixels, to_pixels
from tgems_edge.sources.data import ImageFolder
from tgems_export.encoders.augmentation import random_part
from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.towers.base import ExitPoint, Pool
from tgems_export.storage.cache import cache_root, usable_cache
from tgems_export.storage.tensors import DIGEST_KEY, read_tensors, write_tensors

__all__ = ["Features", "compute_features"]

CACHE_VERSION = 2
CHUNK = 256  # pictures a file: a minute of ViT-L-14 on two cores is what an interruption may cost
BATCH = 16  # more are slower: they leave the processor's caches


@dataclass(frozen=True)
class Features:
    """Cached activations of the pictures of a folder that could be read, n of them."""

    chunks: tuple[Path, ...]
    indices: NDArray[np.int64]  # (n,) which pictures of the folder

    def activations(self, layer: int, pool: Pool) -> Tensor:
        """Float (n, D) at the exit point with the number `layer`."""
        if pool == "embedding":
            return self.embeddings()
        return torch.cat([_read(chunk, _tensor_name(pool, layer)) for chunk in self.chunks]).float()

    def embeddings(self) -> Tensor:
        """Float (n, E), the full tower's answers, of length 1."""
        return torch.cat([_read(chunk, "embedding") for chunk in self.chunks]).float()


def compute_features(encoder: Encoder, folder: ImageFolder, reporter: Reporter, *, view: int = 0) -> Features:
    """Compute activations of all pictures of a folder, or take them from the cache.

    Pictures that cannot be read are named in a warning and left out.

    Args:
        encoder: whose image tower runs.
        folder: of the pictures.
        reporter: where progress and warnings go.
        view: 0 for the pictures as a device sees them; each other number is a random part of every picture,
            mirrored or not, for training.

    Raises:
        DataError: no picture of the folder can be read.
    """
    total = len(folder.names)
    members = [range(start, min(total, start + CHUNK)) for start in range(0, total, CHUNK)]
    missing, chunks = _find_chunks(encoder, folder, view, members, reporter)
    if missing:
        what = f"{encoder.id.name} on {folder.root}" + (f", view {view + 1}" if view else "")
        done = total - sum(map(len, missing.values()))
        with reporter.task(what, total, done=done, unit="pictures") as task:
            for chunk, wanted in missing.items():
                _compute_chunk(encoder, folder, view, wanted, chunk, reporter)
                task.advance(len(wanted))
    indices = np.concatenate([_read(chunk, "indices").numpy() for chunk in chunks])
    if len(indices) == 0:
        raise DataError(f"{folder.root}: none of its {total} pictures can be read")
    if len(indices) < total:
        reporter.warn(f"{total - len(indices)} of {total} pictures of {folder.root} cannot be read: left out")
    return Features(chunks, indices)


def _key(encoder: Encoder, folder: ImageFolder, view: int) -> str:
    made = {
        name: value for name, value in dataclasses.asdict(encoder.preprocessing).items() if value is not None
    }
    parts = [CACHE_VERSION, encoder.tower_sha256, made, folder.sha256, view]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _find_chunks(
    encoder: Encoder, folder: ImageFolder, view: int, members: Sequence[range], reporter: Reporter
) -> tuple[dict[Path, range], tuple[Path, ...]]:
    """Return the files of the cache that are missing or do not hold, with their pictures, and all files.

    A cache that is complete is read even where it cannot be written.
    """
    names = [f"features/{_key(encoder, folder, view)}/{wanted.start:09d}.safetensors" for wanted in members]

    def look(root: Path) -> tuple[dict[Path, range], tuple[Path, ...]]:
        chunks = tuple(root / name for name in names)
        pairs = zip(chunks, members, strict=True)
        return {chunk: wanted for chunk, wanted in pairs if not _is_complete(chunk, encoder, wanted)}, chunks

    kept: Path | None = None
    with suppress(InputError):  # no home
        kept = cache_root()
        missing, chunks = look(kept)
        if not missing:
            return missing, chunks
    root = usable_cache(reporter)
    return (missing, chunks) if root == kept else look(root)


def _is_complete(chunk: Path, encoder: Encoder, members: range) -> bool:
    """Whether a chunk is whole and holds what this encoder says of these pictures, or of some of them."""
    try:
        tensors, metadata = read_tensors(chunk)
        indices = tensors["indices"]
    except (OSError, SafetensorError, ValueError, KeyError):
        return False
    count = indices.numel()
    expected = {name: (torch.float16, (count, point.width)) for name, _, point in _activations(encoder)} | {
        "embedding": (torch.float32, (count, encoder.embedding_width)),
        "indices": (torch.int64, (count,)),
    }
    if {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} != expected:
        return False
    return DIGEST_KEY in metadata and set(indices.tolist()) <= set(members)


def _compute_chunk(
    encoder: Encoder, folder: ImageFolder, view: int, members: range, chunk: Path, reporter: Reporter
) -> None:
    def read(index: int) -> NDArray[np.uint8] | ImageError:
        try:
            if view == 0:
                return read_pixels(folder.path(index), encoder.preprocessing)
            picture = decode(folder.path(index), colour=encoder.preprocessing.colour)
            return to_pixels(random_part(picture, seed=(view, index)), encoder.preprocessing)
        except ImageError as error:
            return error

    with ThreadPoolExecutor() as threads:  # Pillow decodes without the interpreter's lock
        outcomes = list(zip(members, threads.map(read, members), strict=True))
    for _, outcome in outcomes:
        if isinstance(outcome, ImageError):
            reporter.leave_out(outcome)
    readable = [(index, pixels) for index, pixels in outcomes if not isinstance(pixels, ImageError)]
    height, width = encoder.preprocessing.size
    pixels = np.stack([p for _, p in readable]) if readable else np.empty((0, height, width, 3), np.uint8)
    parts = [encoder.activations(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    no_embedding = torch.empty(0, encoder.embedding_width)
    tensors = {
        "embedding": torch.cat([part.embedding for part in parts] or [no_embedding]),
        "indices": torch.tensor([index for index, _ in readable], dtype=torch.int64),
    }
    for name, pool, point in _activations(encoder):
        none = torch.empty(0, point.width)
        tensors[name] = torch.cat([part.pools[pool][point.number - 1] for part in parts] or [none]).half()
    write_tensors(chunk, tensors, {})


def _activations(encoder: Encoder) -> Iterator[tuple[str, Pool, ExitPoint]]:
    """The tensors of a chunk, by name, with what they hold."""
    for point in encoder.tower.points:
        for pool in encoder.tower.pools:
            yield _tensor_name(pool, point.number), pool, point


def _tensor_name(pool: Pool, layer: int) -> str:
    return f"{pool} {layer}"


def _read(chunk: Path, name: str) -> Tensor:
    with safe_open(chunk, "pt") as tensors:
        return tensors.get_tensor(name)
