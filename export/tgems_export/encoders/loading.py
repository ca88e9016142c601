"""From `--encoder` and `--pretrained` to a CLIP of open_clip, on the CPU.

What can go wrong inside open_clip, torch and the hub ends as one line that says what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.model import _build_vision_tower  # nothing public makes an image tower without a text tower
from open_clip.transform import PreprocessCfg
from safetensors import safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from tgems_edge.errors import EncoderError, MissingDependency
from tgems_export.encoders.recipes import (
    CONFIG_FILE,
    agreed_recipe,
    make_recipe,
    read_config,
    recipe_of_file,
    recipe_of_tag,
)

__all__ = [
    "DEMO",
    "DEMO_FOLDER",
    "RANDOM",
    "folder_config",
    "load_clip",
    "model_config",
    "outlined_tower",
    "random_preprocessing",
    "random_tower",
]

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "demo" / "clip"
RANDOM = "random"
LOCAL_DIR, HF_HUB = "local-dir:", "hf-hub:"
NEARLY_CONSTANT, NOISE = 1e-3, 0.05  # standard deviations


def source(name: str) -> str:
    """An encoder's name as open_clip knows it."""
    return f"{LOCAL_DIR}{DEMO_FOLDER}" if name == DEMO else name


def folder_config(name: str) -> dict[str, Any]:
    """All that the configuration of a `local-dir:` says; nothing for other names."""
    folder = source(name)
    if not folder.startswith(LOCAL_DIR):
        return {}
    return read_config(Path(folder.removeprefix(LOCAL_DIR)) / CONFIG_FILE)


def model_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a CLIP, built-in, in a folder or on the hub.

    Raises:
        EncoderError: there is no such CLIP, or its configuration cannot be had or read.
    """
    if name.startswith(LOCAL_DIR) and not Path(name.removeprefix(LOCAL_DIR)).is_dir():
        raise EncoderError(f"{name}: no such folder; give --encoder local-dir:PATH")
    with _one_line(name, "its configuration"):
        config = open_clip.get_model_config(source(name))
        config = None if config is None else dict(config)
    if config is None:
        nearest = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.3)
        examples = ", ".join(nearest or ["ViT-B-32", "ViT-L-14"])
        raise EncoderError(
            f"{name}: open_clip has no such model; nearest: {examples}; all: tgems-edge export --list-models"
        )
    return config


def outlined_tower(name: str) -> Any:
    """The image tower of a CLIP on torch's meta device: all its parts, and none of its numbers.

    Raises:
        EncoderError: see `model_config`; or no tower can be made of the configuration.
    """
    config = model_config(name)
    with _one_line(name, "its configuration"), torch.device("meta"), _NoInitialisation():
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
    """What the trained weights of a folder or an architecture expect of pictures, where they agree."""
    if config := folder_config(name):
        with _one_line(name, "its configuration"):
            recipe = make_recipe(None, config.get("preprocess_cfg", {}))
    else:
        recipe = agreed_recipe(name) or make_recipe(None, {})
    return PreprocessCfg(**asdict(recipe.preprocessing) | {"size": tower.image_size})


def load_clip(name: str, pretrained: str | None) -> tuple[Any, Any]:
    """A CLIP with trained weights, as a torch module, and its tokenizer.

    Args:
        name: an open_clip architecture, `local-dir:PATH` or `hf-hub:ORG/NAME`.
        pretrained: one of the architecture's tags, a checkpoint file, or `TAG:FILE` for a file that was
            trained like a tag.

    Raises:
        EncoderError: weights that cannot be had or do not fit, or that do not say how they were trained.
        MissingDependency: the tokenizer needs a package that is not installed.
    """
    options = _options(name, pretrained)
    with _one_line(name, "its tokenizer"):
        tokenize = open_clip.get_tokenizer(source(name))
    with _one_line(name, str(pretrained or "its weights")):
        clip = open_clip.create_model(source(name), **options, require_pretrained=True)
    return clip.eval(), tokenize


def _options(name: str, pretrained: str | None) -> dict[str, Any]:
    """What `open_clip.create_model` has to be told."""
    if source(name).startswith((LOCAL_DIR, HF_HUB)):
        if pretrained is not None:
            raise EncoderError(f"{name} brings its own weights; leave --pretrained out")
        return {}
    tags = open_clip.list_pretrained_tags_by_model(name)
    choices = ["a checkpoint file", "TAG:FILE", RANDOM, *tags]
    if pretrained is None:
        raise EncoderError(f"{name}: give --pretrained, one of {_some(choices)}")
    if pretrained in tags:
        return {"pretrained": pretrained, "force_quick_gelu": recipe_of_tag(name, pretrained).quick_gelu}
    like, colon, file = pretrained.partition(":")
    if not (colon and like in tags):
        like, file = "", pretrained
    if not Path(file).is_file():
        raise EncoderError(f"{name}: --pretrained {pretrained}: no such file or tag; one of {_some(choices)}")
    recipe = recipe_of_tag(name, like) if like else recipe_of_file(name, Path(file))
    if not recipe.quick_gelu and model_config(name).get("quick_gelu"):
        raise EncoderError(f"{name}: {file} was trained with GELU; give the --encoder without -quickgelu")
    _check_positions(name, Path(file))
    preprocessing = asdict(recipe.preprocessing)
    del preprocessing["size"]
    return {
        "pretrained": file,
        "force_quick_gelu": recipe.quick_gelu,
        "force_preprocess_cfg": preprocessing,
    }


def _check_positions(name: str, file: Path) -> None:
    """open_clip would stretch the positions of another image size and say nothing."""
    positions = "visual.positional_embedding"
    with _one_line(name, str(file)):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                held = positions in tensors.keys()  # noqa: SIM118
                found = tensors.get_slice(positions).get_shape() if held else None
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            weights = weights.get("state_dict", weights)
            found = next((list(weights[key].shape) for key in weights if key.endswith(positions)), None)
    expected = getattr(outlined_tower(name), "positional_embedding", None)
    if found and expected is not None and found != list(expected.shape):
        raise EncoderError(
            f"{name}: {file} belongs to another architecture: {found[0] - 1} patches a picture instead of "
            f"{len(expected) - 1}; give the --encoder it is for"
        )


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
def _one_line(name: str, what: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes one line about `what` of a CLIP, and what to do."""
    try:
        yield
    except ImportError as error:
        raise MissingDependency(
            f"{name}: {what} needs {error.name or 'transformers'}: pip install 'tgems-edge[siglip]'"
        ) from None
    except Exception as error:  # a file that is not what it seems makes parsers and unpicklers raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EncoderError(f"{name}: {_explained(error, reason, what, name)}") from None


def _explained(error: Exception, reason: str, what: str, name: str) -> str:
    if "No space left" in reason:
        return f"not enough disk for {what} in the cache {HF_HUB_CACHE}; free some, or set HF_HUB_CACHE"
    unreachable = re.search(r"Failed to download|huggingface\.co", reason)
    missing = name.startswith(HF_HUB) and "Required pretrained weights" in reason
    if (unreachable or missing) and not re.search(r"\b(401|403|404)\b", reason):
        return (
            f"{what} cannot be fetched and is not in the cache {HF_HUB_CACHE}; connect to the network once, "
            "or give a checkpoint file or local-dir:FOLDER"
        )
    if "Error(s) in loading state_dict" in reason:
        return (
            f"{what} belongs to another architecture: {_misfit(reason)}; give the --encoder it was made for"
        )
    if "TorchScript" in reason or "Weights only load failed" in reason:
        return (
            f"{what} is not weights alone but a program, or something else; save its state_dict() as "
            ".safetensors (for OpenAI's own archives: --pretrained openai)"
        )
    if isinstance(error, KeyError):
        return f"{what} cannot be used: it lacks {reason}"
    return f"{what} cannot be loaded ({reason[:300]})"


def _misfit(reason: str) -> str:
    """The first weight that does not fit, from torch's list of all."""
    if shapes := re.findall(r"size mismatch for (\S+): .*?\[([\d, ]*)\].*?\[([\d, ]*)\]", reason):
        weight, theirs, ours = shapes[0]
        return f"{weight} has the shape ({theirs}) instead of ({ours}), and {len(shapes) - 1} more differ"
    for kind, verb in (("Missing", "lacks"), ("Unexpected", "also holds")):
        if listed := re.search(kind + r' key\(s\) in state_dict: ((?:"[^"]*"(?:, )?)+)', reason):
            names = re.findall(r'"([^"]*)"', listed[1])
            return f"it {verb} {names[0]} and {len(names) - 1} more"
    return reason[:300]


def _some(choices: Sequence[str]) -> str:
    return ", ".join(choices[:8]) + (f" and {len(choices) - 8} more" if len(choices) > 8 else "")
