"""Find the configuration of a CLIP of open_clip by `--encoder`, and make untrained image towers.

What can go wrong inside open_clip, torch and the hub ends as one line that says what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import _build_vision_tower  # nothing public makes an image tower without a text tower
from open_clip.transform import PreprocessCfg
from torch import nn
from torch.overrides import TorchFunctionMode

from tgems_edge.errors import EncoderError, MissingDependency, TgemsError
from tgems_export.encoders.checkpoints.hub import explain_hub, without_retries
from tgems_export.encoders.checkpoints.recipes import (
    CONFIG_FILE,
    agreed_recipe,
    make_recipe,
    read_config,
)
from tgems_export.encoders.checkpoints.trust import check_config

__all__ = [
    "BUILT_IN",
    "DEMO",
    "DEMO_FOLDER",
    "HF_HUB",
    "LOCAL_DIR",
    "PHOTO",
    "PHOTO_FOLDER",
    "RANDOM",
    "folder_config",
    "is_shipped",
    "known_names",
    "local_folder",
    "model_config",
    "one_line",
    "outlined_tower",
    "random_preprocessing",
    "random_tower",
    "source",
]

PHOTO, DEMO = "photo", "vit-demo"
DEMO_FOLDER = Path(__file__).parents[2] / "demo" / "clip"
PHOTO_FOLDER = Path(__file__).parents[2] / "builtin" / "photo" / "clip"
# The CLIPs that ship, by name; `demo` is what version 0.1 called the 64-pixel ViT, and its heads still do.
BUILT_IN = {PHOTO: PHOTO_FOLDER, DEMO: DEMO_FOLDER, "demo": DEMO_FOLDER}
RANDOM = "random"
NAMES_FILE = "names.txt"
LOCAL_DIR, HF_HUB = "local-dir:", "hf-hub:"
NEARLY_CONSTANT, NOISE = 1e-3, 0.05  # standard deviations


def source(name: str) -> str:
    """An encoder's name as open_clip knows it."""
    return f"{LOCAL_DIR}{BUILT_IN[name]}" if name in BUILT_IN else name


def local_folder(name: str) -> Path | None:
    """The folder of a `local-dir:`; None for other names."""
    known = source(name)
    return Path(known.removeprefix(LOCAL_DIR)) if known.startswith(LOCAL_DIR) else None


def folder_config(name: str) -> dict[str, Any]:
    """All that the configuration of a `local-dir:` says; nothing for other names."""
    folder = local_folder(name)
    return read_config(folder / CONFIG_FILE) if folder else {}


def known_names(name: str) -> frozenset[str] | None:
    """The names that the text tower of a folder was taught, in lower case; None where no list says so."""
    folder = local_folder(name)
    if folder is None or not (folder / NAMES_FILE).is_file():
        return None
    return frozenset((folder / NAMES_FILE).read_text(encoding="utf-8").lower().splitlines())


def model_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a CLIP, built-in, in a folder or on the hub.

    Raises:
        EncoderError: there is no such CLIP, or its configuration cannot be had or read.
    """
    folder, on_hub = local_folder(name), name.startswith(HF_HUB)
    with one_line(name, "its folder"):
        if folder and not folder.is_dir():
            raise EncoderError(f"{name}: no such folder; give --encoder local-dir:PATH")
        if folder and not (folder / CONFIG_FILE).is_file():
            raise EncoderError(
                f"{name}: no {CONFIG_FILE} in it; give the folder of an open_clip model, or of weights "
                "alone --encoder NAME --pretrained FILE"
            )
    online = without_retries() if on_hub else nullcontext()
    with online, one_line(name, f"its configuration ({CONFIG_FILE})" if on_hub else "its configuration"):
        config = open_clip.get_model_config(source(name))
        config = None if config is None else dict(config)
    if config is None:
        nearest = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.3)
        examples = ", ".join(nearest or ["ViT-B-32", "ViT-L-14"])
        raise EncoderError(
            f"{name}: open_clip has no such model; nearest: {examples}; all: tgems-edge models"
        )
    with one_line(name, "its configuration"):
        check_config(config, name, folder)
    if "timm_model_name" in config.get("vision_cfg", {}):
        config["vision_cfg"] = config["vision_cfg"] | {"timm_model_pretrained": False}
    return config


def outlined_tower(name: str) -> Any:
    """The image tower of a CLIP on torch's meta device: all its parts, and none of its numbers.

    Raises:
        EncoderError: see `model_config`; or no tower can be made of the configuration.
    """
    config = model_config(name)
    with one_line(name, "its configuration"), torch.device("meta"), _NoInitialisation():
        return _image_tower(config)


def random_tower(config: dict[str, Any], seed: int) -> Any:
    """An untrained image tower in which nothing is left at a constant.

    Fresh norms, biases, LayerScales and class tokens are zeros, ones or nearly so; a comparison with
    PyTorch would not notice if one of them were forgotten.
    """
    torch.manual_seed(seed)
    tower = _image_tower(config)
    for parameter in tower.parameters():
        if parameter.detach().std(correction=0) < NEARLY_CONSTANT:
            parameter.data.add_(torch.randn_like(parameter), alpha=NOISE)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_()
            module.get_buffer("running_var").uniform_(0.5, 2)
    return tower


def random_preprocessing(name: str, tower: Any) -> PreprocessCfg:
    """Return the preprocessing of the trained weights of a folder or an architecture, where they agree."""
    if config := folder_config(name):
        with one_line(name, "its configuration"):
            recipe = make_recipe(None, config.get("preprocess_cfg", {}))
    else:
        recipe = agreed_recipe(name) or make_recipe(None, {})
    return PreprocessCfg(**asdict(recipe.preprocessing) | {"size": tower.image_size})


def is_shipped(name: str, pretrained: str | None) -> bool:
    """Whether a CLIP comes with this package or by a tag of open_clip: nothing of anybody else's is read."""
    if name in BUILT_IN:
        return pretrained in (None, RANDOM)
    tags = open_clip.list_pretrained_tags_by_model(name) if name in open_clip.list_models() else []
    return name in open_clip.list_models() and pretrained in (RANDOM, *tags)


def _image_tower(config: dict[str, Any]) -> Any:
    tower = _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))
    return tower.eval()


class _NoInitialisation(TorchFunctionMode):
    """Leaves out what initialises weights: for a tower without numbers, three quarters of the time."""

    initialisers = (
        "clamp_",
        "constant_",
        "erfinv_",
        "fill_",
        "normal_",
        "trunc_normal_",
        "uniform_",
        "zero_",
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if getattr(func, "__name__", "") in self.initialisers:
            return args[0] if args else options["tensor"]
        return func(*args, **options)


@contextmanager
def one_line(name: str, what: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes one line about `what` of a CLIP, and what to do."""
    try:
        yield
    except TgemsError:
        raise
    except ImportError as error:
        raise MissingDependency(
            f"{name}: {what} needs {error.name or 'transformers'}: pip install 'tgems-edge[siglip]'"
        ) from None
    except Exception as error:  # a file that is not what it seems makes parsers and unpicklers raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        if explained := explain_hub(reason, what):
            raise EncoderError(f"{name}: {explained}") from None
        if isinstance(error, KeyError):
            raise EncoderError(f"{name}: {what} cannot be used: it lacks {reason}") from None
        raise EncoderError(f"{name}: {what} cannot be loaded ({reason[:300]})") from None
