"""A checkpoint file, whoever saved it, to tensors named as open_clip names them. No code in it is run.

Training loops wrap what they save: a dictionary around the weights, prefixes before their names, an optimizer
and arguments beside them. All that is taken off here. Whether the weights fit a CLIP is asked in `weights`.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tgems_edge.errors import EncoderError
from tgems_export.encoders.checkpoints.file_kinds import ADAPTER, AGAIN, AS_WEIGHTS, container, explain_folder

__all__ = ["read_checkpoint"]

# In this order: what holds the trained weights where several do.
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "network", "net", "weights")
DEPTH = 4  # of dictionaries in dictionaries
WRAPPERS = frozenset(
    {"_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"}
)
IMAGE_SIDE = ("visual", "vision_model", "image_encoder")  # of open_clip, of transformers, of MobileCLIP
TEXT_SIDE = ("token_embedding.", "text.", "text_model.", "text_encoder.")
WHOLE = "it needs both towers of the CLIP"
# Of what training loops save beside weights. Objects of these come back as empty ones: nothing is imported.
BESIDE = re.compile(
    r"argparse\.Namespace|pathlib\.\w*Path|numpy\.(dtype|ndarray|[a-z]+\d*_?)|numpy\.dtypes\.\w+"
    r"|numpy\._?core\.multiarray\.(scalar|_reconstruct)|datetime\.\w+|typing\.Any"
    r"|(omegaconf|lightning|lightning_fabric|pytorch_lightning|ml_collections|easydict|yacs|addict"
    r"|transformers|deepspeed)\.[\w.]+"
)
KNOWN_ROOTS = ("torch", "collections", "_codecs")


class _Empty:
    """Stands for an object beside the weights, whatever it was made of."""

    def __new__(cls, *_: Any, **__: Any) -> _Empty:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        """Keeps nothing."""

    def __setstate__(self, _: Any) -> None:
        """Keeps nothing."""


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, without wrappers, under names that begin as open_clip's or transformers'.

    Args:
        file: what torch.save wrote, in either of its formats, or safetensors.

    Raises:
        EncoderError: it is something else, is damaged, holds objects other than weights, or not both towers.
    """
    return _without_prefix(file, _weights_in(file, _load(file)))


def _load(file: Path) -> Any:
    if file.is_dir():
        raise EncoderError(f"{file}: {explain_folder(file)}")
    try:
        packed, otherwise = container(file)
    except OSError as error:
        raise EncoderError(f"{file}: cannot be read ({error.strerror}); copy it again") from None
    if packed is None:
        raise EncoderError(f"{file}: {otherwise}")
    if packed == "safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise EncoderError(f"{file}: cut short or damaged ({error}); {AGAIN}") from None
    return _load_pickled(file, zipped=packed == "zip")


def _load_pickled(file: Path, *, zipped: bool) -> Any:
    """Read what torch.save wrote; objects of other libraries beside the weights come back empty."""
    try:
        names = set(_globals(file, zipped=zipped))
    except Exception:  # as below, and a damaged length may ask for more memory than there is
        raise EncoderError(f"{file}: cut short or damaged, or not written by torch.save; {AGAIN}") from None
    stand_ins = [_stand_in(name) for name in names if BESIDE.fullmatch(name)]
    try:
        with torch.serialization.safe_globals(stand_ins), file.open("rb") as opened:
            # mmap leaves an optimizer on the disk. It takes a path alone, whose suffix later torch believes.
            mmap = zipped and file.suffix != ".safetensors"
            return torch.load(file if mmap else opened, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged pickle makes an unpickler raise anything
        foreign = sorted(n for n in names if n.split(".")[0] not in KNOWN_ROOTS and not BESIDE.fullmatch(n))
        if foreign:
            raise EncoderError(
                f"{file}: it is not weights alone but holds {foreign[0]}, which could be a program and is "
                f"not run; where it was made, {AS_WEIGHTS}"
            ) from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise EncoderError(f"{file}: cut short or damaged ({reason}); {AGAIN}") from None


def _globals(file: Path, *, zipped: bool) -> Iterator[str]:
    """Names of all that a pickle would import."""
    if zipped:
        with zipfile.ZipFile(file) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("torch.save compresses nothing; what is may unpack to any size")
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as opened:
                yield from _globals_of_pickle(opened)
    else:
        with file.open("rb") as opened:
            for _ in range(4):  # a magic number, the protocol, the system, and the checkpoint
                yield from _globals_of_pickle(opened)


def _globals_of_pickle(opened: BinaryIO | Any) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(opened):
        if opcode.name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":  # torch.save does not write it, and torch.load refuses it
            yield "an object"


def _stand_in(name: str) -> Any:
    """An allowed substitute for a class or a function of that name."""
    return (OrderedDict if name.endswith("Dict") else _Empty, name)


def _weights_in(file: Path, content: Any) -> dict[str, Tensor]:
    """The tensors by name, out of the dictionaries around them."""
    for _ in range(DEPTH):
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        held = (
            ", ".join(map(str, list(content)[:4])) if isinstance(content, Mapping) else type(content).__name__
        )
        raise EncoderError(
            f"{file}: holds no weights by name but {held or 'nothing'}; give a checkpoint with a state_dict"
        )
    if any(tensor.numel() == 0 for tensor in tensors.values()):
        raise EncoderError(
            f"{file}: its weights are empty: a piece of a ZeRO checkpoint; join the pieces with `python -m "
            "deepspeed.utils.zero_to_fp32 FOLDER OUTPUT` and give the file it writes"
        )
    return tensors


def _without_prefix(file: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes off what wrappers put before and into names, and leaves out what is not of the CLIP."""
    named = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    _refuse_adapter(file, named)
    roots = {_root(name) for name in named} - {None}
    if not roots:
        raise EncoderError(f"{file}: {_explain_names(named)}")
    if len(roots) > 1:
        several = " and ".join(sorted(f"{root}visual" for root in roots if root is not None))
        raise EncoderError(f"{file}: holds several CLIPs ({several}); save the one you want alone")
    root = roots.pop() or ""
    clip = {name.removeprefix(root): tensor for name, tensor in named.items() if name.startswith(root)}
    if not any(name.startswith(TEXT_SIDE) for name in clip):
        raise EncoderError(f"{file}: only an image tower ({', '.join(list(clip)[:3])}); {WHOLE}")
    return clip


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _root(name: str) -> str | None:
    """Return the prefix of the image side in a name: "" in visual.conv1.weight, "model." with that before."""
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if part in IMAGE_SIDE:
            return "".join(f"{part}." for part in parts[:index])
    return None


def _refuse_adapter(file: Path, named: Mapping[str, Tensor]) -> None:
    if adapter := next((n for n in named if re.search(r"\.(lora|hada|lokr|ia3|oft)_\w+(\.|$)", n)), None):
        raise EncoderError(f"{file}: {ADAPTER}; it holds {adapter}")


def _explain_names(named: Mapping[str, Tensor]) -> str:
    """Describe weights without an image side."""

    def holds(*beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in named)

    listed = ", ".join(list(named)[:3])
    if holds(*TEXT_SIDE):
        return f"only the text tower ({listed}); {WHOLE}"
    if holds("conv1.", "class_embedding", "patch_embed.", "trunk.", "embeddings.patch_embedding"):
        return f"only an image tower ({listed}); {WHOLE}"
    return f"holds no CLIP: its {len(named)} tensors are called {listed}, not as in visual.conv1.weight"
