"""From `--encoder` and `--pretrained` to a CLIP of open_clip, with the activation and the preprocessing
that its weights were trained with.

Weights do not say how they were trained. open_clip keeps that with each of its tags, and only warns when
an architecture runs weights with another activation than theirs; a checkpoint file gets whatever the
architecture's configuration says. No comparison with PyTorch can notice: both sides would be wrong. So
here a file needs an `open_clip_config.json` beside it, or an architecture whose tags all agree, or the
tag that it was trained like.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.model import _build_vision_tower  # nothing public makes an image tower without a text tower
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import nn
from torch.overrides import TorchFunctionMode

from tgems_edge.errors import EncoderError, MissingDependency

__all__ = [
    "CONFIG_FILE",
    "DEMO",
    "DEMO_FOLDER",
    "LOCAL_DIR",
    "RANDOM",
    "load_clip",
    "model_config",
    "outlined_tower",
    "random_preprocessing",
    "random_tower",
    "read_json",
    "source",
]

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo" / "clip"
RANDOM = "random"
LOCAL_DIR, HF_HUB = "local-dir:", "hf-hub:"
CONFIG_FILE = "open_clip_config.json"
NEARLY_CONSTANT, NOISE = 1e-3, 0.05  # standard deviations
URL_CACHE = Path("~/.cache/clip").expanduser()  # of the tags that are not on the Hugging Face hub


@dataclass(frozen=True)
class Recipe:
    """How weights were trained, as far as it changes what is computed with them."""

    quick_gelu: bool
    preprocessing: PreprocessCfg  # its size is not used: a tower knows its own

    def __str__(self) -> str:
        resized = f"{self.preprocessing.interpolation} {self.preprocessing.resize_mode}"
        return (
            f"{'QuickGELU' if self.quick_gelu else 'GELU'}, mean {self.preprocessing.mean[0]:.2f}, {resized}"
        )


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


def source(name: str) -> str:
    """An encoder's name as open_clip knows it."""
    return f"{LOCAL_DIR}{DEMO_FOLDER}" if name == DEMO else name


def model_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a CLIP, built-in, in a folder or on the hub.

    Raises:
        EncoderError: there is no such CLIP, or its configuration cannot be had or read.
    """
    if name.startswith(LOCAL_DIR) and not Path(name.removeprefix(LOCAL_DIR)).is_dir():
        raise EncoderError(f"{name}: no such folder; give --encoder local-dir:PATH")
    try:
        config = open_clip.get_model_config(source(name))
    except Exception as error:  # a file that is no configuration makes the parsers raise anything
        raise _explained(error, name, None) from None
    if config is None:
        nearest = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.3)
        examples = ", ".join(nearest or ["ViT-B-32", "ViT-L-14"])
        raise EncoderError(
            f"{name}: open_clip has no such model; nearest: {examples}; all: tgems-edge export --list-models"
        )
    return dict(config)


def outlined_tower(name: str) -> Any:
    """The image tower of a CLIP on torch's meta device: all its parts, and none of its numbers.

    Raises:
        EncoderError: see `model_config`; or no tower can be made of the configuration.
    """
    config = model_config(name)
    try:
        with torch.device("meta"), _NoInitialisation():
            return _image_tower(config)
    except Exception as error:  # whatever somebody wrote into a configuration
        raise _explained(error, name, None) from None


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


def load_clip(name: str, pretrained: str | None) -> tuple[Any, Any]:
    """A CLIP with trained weights, as a torch module on the CPU, and its tokenizer.

    Args:
        name: an open_clip architecture, `local-dir:PATH` or `hf-hub:ORG/NAME`.
        pretrained: one of the architecture's tags, a checkpoint file, or `TAG:FILE` for a file that was
            trained like a tag.

    Raises:
        EncoderError: weights that cannot be had or do not fit, or that do not say how they were trained.
        MissingDependency: the tokenizer needs a package that is not installed.
    """
    options = _options(name, pretrained)
    try:
        tokenize = open_clip.get_tokenizer(source(name))
        clip = open_clip.create_model(source(name), **options, require_pretrained=True)
    except ImportError as error:
        raise MissingDependency(
            f"{name}: its tokenizer needs {error.name or 'transformers'}: pip install 'tgems-edge[siglip]'"
        ) from None
    except Exception as error:  # a file that is no checkpoint makes the unpicklers raise anything
        raise _explained(error, name, pretrained) from None
    return clip.eval(), tokenize


def random_preprocessing(name: str, tower: Any) -> PreprocessCfg:
    """What the trained weights of an architecture expect of pictures, where they agree."""
    agreed = _agreed(name)
    preprocessing = agreed.preprocessing if agreed else PreprocessCfg()
    return PreprocessCfg(**asdict(preprocessing) | {"size": tower.image_size})


def _image_tower(config: dict[str, Any]) -> Any:
    tower = _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))
    return tower.eval()


def _options(name: str, pretrained: str | None) -> dict[str, Any]:
    """What `open_clip.create_model` has to be told."""
    if source(name).startswith((LOCAL_DIR, HF_HUB)):
        if pretrained is not None:
            raise EncoderError(f"{name} brings its own weights; leave --pretrained out")
        return {}
    tags = open_clip.list_pretrained_tags_by_model(name)
    choices = (
        f"a checkpoint file, random, or one of {_some(tags)}" if tags else "a checkpoint file, or random"
    )
    if pretrained is None:
        raise EncoderError(f"{name}: give --pretrained, {choices}")
    if pretrained in tags:
        return {"pretrained": pretrained, "force_quick_gelu": _recipe_of_tag(name, pretrained).quick_gelu}
    like, colon, file = pretrained.partition(":")
    if not (colon and like in tags):
        like, file = "", pretrained
    if not Path(file).is_file():
        raise EncoderError(f"{name}: --pretrained {pretrained} is no file, nor one of {_some(tags)}")
    recipe = _recipe_of_tag(name, like) if like else _recipe_of_file(name, Path(file))
    if not recipe.quick_gelu and model_config(name).get("quick_gelu"):
        raise EncoderError(f"{name}: {file} was trained with GELU; give the --encoder without -quickgelu")
    preprocessing = asdict(recipe.preprocessing)
    del preprocessing["size"]
    return {
        "pretrained": file,
        "force_quick_gelu": recipe.quick_gelu,
        "force_preprocess_cfg": preprocessing,
    }


def _recipe_of_tag(name: str, tag: str) -> Recipe:
    """open_clip notes QuickGELU with a tag or with the architecture."""
    notes = open_clip.get_pretrained_cfg(name, tag)
    return _recipe(notes.get("quick_gelu") or model_config(name).get("quick_gelu"), notes)


def _recipe_of_file(name: str, file: Path) -> Recipe:
    beside = file.parent / CONFIG_FILE
    if beside.is_file():
        config = read_json(beside)
        return _recipe(config.get("model_cfg", {}).get("quick_gelu"), config.get("preprocess_cfg", {}))
    if agreed := _agreed(name):
        return agreed
    if not (recipes := _recipes(name)):
        return _recipe(model_config(name).get("quick_gelu"), {})
    examples = "; ".join(f"{tag} ({recipe})" for tag, recipe in recipes.items())
    raise EncoderError(
        f"{name}: {file} does not say how it was trained, and weights of this architecture differ in that; "
        f"put its {CONFIG_FILE} beside it, or give --pretrained TAG:{file} with a tag that was trained "
        f"alike: {examples}"
    )


def _agreed(name: str) -> Recipe | None:
    """The recipe of all tags of an architecture, if it is one."""
    recipes = list(_recipes(name).values())
    return recipes[0] if len(recipes) == 1 else None


def _recipes(name: str) -> dict[str, Recipe]:
    """The different recipes of an architecture's tags, each under the first tag that has it."""
    recipes: dict[str, Recipe] = {}
    for tag in open_clip.list_pretrained_tags_by_model(name):
        recipe = _recipe_of_tag(name, tag)
        if recipe not in recipes.values():
            recipes[tag] = recipe
    return recipes


def _recipe(quick_gelu: object, preprocessing: dict[str, Any]) -> Recipe:
    merged = merge_preprocess_dict(PreprocessCfg(), preprocessing)
    lists = {key: tuple(merged[key]) for key in ("mean", "std")}  # as JSON and open_clip write them
    return Recipe(bool(quick_gelu), PreprocessCfg(**merged | lists))


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file.

    Raises:
        EncoderError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EncoderError(f"{path}: not a configuration ({error}); copy it again, or remove it") from None
    if not isinstance(content, dict):
        raise EncoderError(f"{path}: not a configuration of open_clip; copy it again, or remove it")
    return content


def _explained(error: Exception, name: str, pretrained: str | None) -> EncoderError:
    """What went wrong inside open_clip, in one line that says what to do."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if "Failed to download" in reason or "huggingface.co" in reason:
        on_hub = open_clip.get_pretrained_cfg(name, pretrained or "").get("hf_hub", True)
        what = f"the weights {pretrained!r}" if pretrained else "its files"
        return EncoderError(
            f"{name}: {what} are not in the cache {HF_HUB_CACHE if on_hub else URL_CACHE} and cannot be "
            "fetched; connect to the network once, or give --pretrained a checkpoint file"
        )
    if "TorchScript" in reason:
        return EncoderError(
            f"{name}: {pretrained} is a TorchScript archive, which is a program; save its state_dict() as "
            ".safetensors, or give --pretrained openai for OpenAI's own"
        )
    if "Error(s) in loading state_dict" in reason:
        return EncoderError(
            f"{name}: {pretrained or 'its weights'}: a checkpoint of another architecture: "
            f"{_misfit(reason)}; give the --encoder it belongs to"
        )
    if isinstance(error, KeyError):
        return EncoderError(f"{name}: cannot be loaded (its configuration lacks {reason})")
    return EncoderError(f"{name}: cannot be loaded ({reason[:300]})")


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


def _some(tags: Sequence[str]) -> str:
    return ", ".join(tags[:8]) + (f" and {len(tags) - 8} more" if len(tags) > 8 else "")
