"""Recognise files and folders that were given as checkpoints and are none, by their first bytes.

Suffixes are not asked: a download page saved as `weights.pt` is a page.
"""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

__all__ = ["Container", "container", "explain_folder"]

Container = Literal["safetensors", "zip", "legacy"]

BEGINNING = 4096  # bytes: enough for every signature below
AGAIN = "download it again"
AS_WEIGHTS = "save its state_dict() as .safetensors"
SHARDS = (
    "a list of shards, not weights; join them into one file (transformers: save_pretrained with a larger "
    "max_shard_size)"
)
LFS = "a Git LFS pointer, not the weights; run `git lfs pull` there, or download the file itself"
ADAPTER = "a PEFT adapter (LoRA or alike), not a whole CLIP; merge it into its CLIP first (merge_and_unload)"
ONNX = "an ONNX model; give the PyTorch checkpoint it was exported from"
GGUF = "a GGUF file, whose weights are packed for llama.cpp; give the PyTorch checkpoint it was made from"
KERAS = "a Keras or HDF5 file; give a PyTorch checkpoint of this CLIP"
TORCHSCRIPT = (
    "a TorchScript archive: not weights alone but a program, which is not run; save its state_dict() as "
    ".safetensors (for OpenAI's own archives: --pretrained openai)"
)
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", LFS),
    (b"GGUF", GGUF),
    (b"\x89HDF", KERAS),
    (b"\x93NUMPY", "a NumPy array; give a PyTorch checkpoint"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x7fELF", "a program"),
)


def container(file: Path) -> tuple[Container | None, str]:
    """Return how a checkpoint is packed; or None, and what the file is instead with what to do.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        begin = opened.read(BEGINNING)
    if begin.startswith(b"PK\x03\x04"):
        found = _explain_zip(file)
        return (None, found) if found else ("zip", "")
    if found := _explain(begin, file):
        return None, found
    if begin[8:9] == b"{":  # behind the length of its header
        return "safetensors", ""
    if begin[:1] == b"\x80" and begin[1:2] <= b"\x05":
        return "legacy", ""
    return None, f"not a checkpoint of PyTorch or safetensors, or damaged; {AGAIN}"


def explain_folder(folder: Path) -> str:
    """Return what a folder is that was given in place of a checkpoint file, and what to do."""

    def holds(pattern: str) -> bool:
        return next(folder.glob(pattern), None) is not None

    if (folder / "open_clip_config.json").is_file():
        return f"a folder; give --encoder local-dir:{folder} without --pretrained"
    if holds("adapter_config.json"):
        return f"a folder with {ADAPTER}"
    if holds("*_optim_states.pt") or holds("*/*_optim_states.pt") or holds("zero_to_fp32.py"):
        return (
            "a ZeRO checkpoint of DeepSpeed, in pieces; join them with "
            f"`python -m deepspeed.utils.zero_to_fp32 {folder} OUTPUT` and give the file it writes"
        )
    if holds("*.distcp"):
        return (
            "a distributed checkpoint, in pieces; join them with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pt` and give that file"
        )
    if holds("*.index.json"):
        return f"a folder with {SHARDS}"
    if holds("saved_model.pb"):
        return "a SavedModel of TensorFlow; give a PyTorch checkpoint of this CLIP"
    if files := sorted(path.name for path in folder.glob("*.safetensors")):
        return f"a folder; give the file in it: {folder / files[0]}"
    return "a folder without weights; give a checkpoint file"


def _explain(begin: bytes, file: Path) -> str:
    """Return what a file with these first bytes is, if it is no checkpoint."""
    text = begin.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = text[:512].lower()
    if not begin:
        return f"empty; {AGAIN}"
    if not begin.strip(b"\0"):
        return f"full of zeros; {AGAIN}"
    for signature, meaning in SIGNATURES:
        if begin.startswith(signature):
            return meaning if "; " in meaning else f"{meaning}, not a checkpoint; {AGAIN}"
    if lower.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page, not the weights; download the file itself (the link that says `raw` or `resolve`)"
    if text[:1] in (b"{", b"["):
        return _explain_json(file)
    if begin[4:8] == b"TFL3":
        return "a TensorFlow Lite model; give the PyTorch checkpoint of this CLIP"
    if begin[0] == 8 and begin[2:3] in (b"\x12", b"\x3a", b"\x42") and begin[1] < 32:
        return ONNX  # field 1, the IR version; then producer, graph or operator sets
    if file.suffix in (".onnx", ".gguf", ".h5", ".keras"):
        return {".onnx": ONNX, ".gguf": GGUF}.get(file.suffix, KERAS)
    if file.suffix == ".msgpack":
        return "weights of Flax; give a PyTorch checkpoint of this CLIP"
    if tarfile.is_tarfile(file):
        return f"a tar archive; unpack it first, or, if torch wrote it before 2018, {AS_WEIGHTS}"
    return ""


def _explain_json(file: Path) -> str:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        content = None
    keys = set(content) if isinstance(content, dict) else set()
    if "weight_map" in keys:
        return SHARDS
    if keys & {"peft_type", "lora_alpha"}:
        return f"the settings of {ADAPTER}"
    return "JSON, not weights; give the checkpoint that lies beside it"


def _explain_zip(file: Path) -> str:
    """Return what a zip archive is, if torch.save did not write it."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return f"cut short or damaged; {AGAIN}"
    parts = {name.partition("/")[2] or name for name in names}
    if "constants.pkl" in parts or any(part.startswith("code/") for part in parts):
        return TORCHSCRIPT
    if "data.pkl" in parts:
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive (weights of JAX: big_vision); give a PyTorch checkpoint, or a tag"
    if any(name.endswith(".h5") for name in names):
        return KERAS
    return f"a zip archive without weights of torch ({names[0] if names else 'empty'}); unpack it first"
