"""From `--encoder` and `--pretrained` to a CLIP of open_clip, on the CPU.

What can go wrong inside open_clip, torch and the hub ends as one line that says what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import _build_vision_tower  # nothing public makes an image tower without a text tower
from open_clip.transform import PreprocessCfg
from torch import nn
from torch.overrides import TorchFunctionMode

from tgems_edge.errors import EncoderError, MissingDependency, TgemsError
from tgems_export.checkpoints import read_checkpoint
from tgems_export.file_kinds import explain_folder
from tgems_export.hub import WEIGHTS_ON_HUB, explain_hub, weights_on_hub, without_retries
from tgems_export.recipes import (
    CONFIG_FILE,
    agreed_recipe,
    make_recipe,
    read_config,
    recipe_of_file,
    recipe_of_tag,
)
from tgems_export.trust import check_config
from tgems_export.weights import check_numbers, fit_weights

__all__ = [
    "DEMO",
    "DEMO_FOLDER",
    "RANDOM",
    "folder_config",
    "is_shipped",
    "load_clip",
    "model_config",
    "outlined_tower",
    "random_preprocessing",
    "random_tower",
]

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo" / "clip"
RANDOM = "random"
LOCAL_DIR, HF_HUB = "local-dir:", "hf-hub:"
FOLDER_WEIGHTS = (  # in the order in which open_clip prefers them
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
SHARD_INDEX = "model.safetensors.index.json"
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
    online = without_retries() if name.startswith(HF_HUB) else nullcontext()
    with online, _one_line(name, "its configuration"):
        config = open_clip.get_model_config(source(name))
        config = None if config is None else dict(config)
    if config is None:
        nearest = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.3)
        examples = ", ".join(nearest or ["ViT-B-32", "ViT-L-14"])
        raise EncoderError(
            f"{name}: open_clip has no such model; nearest: {examples}; all: tgems-edge export --list-models"
        )
    folder = Path(source(name).removeprefix(LOCAL_DIR)) if source(name).startswith(LOCAL_DIR) else None
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


def is_shipped(name: str, pretrained: str | None) -> bool:
    """Whether a CLIP comes with this package or by a tag of open_clip: nothing of anybody else's is read."""
    if name == DEMO:
        return pretrained in (None, RANDOM)
    tags = open_clip.list_pretrained_tags_by_model(name) if name in open_clip.list_models() else []
    return name in open_clip.list_models() and pretrained in (RANDOM, *tags)


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
    given = _given(name, pretrained)
    online = without_retries() if _needs_hub(name, given) else nullcontext()
    with online:
        file = _find_file(name, given)
        weights = None if given.tag else read_checkpoint(file)
        tokenize = _load_tokenizer(name)
        with _one_line(name, str(pretrained or "its weights")):
            clip = open_clip.create_model(
                source(name),
                given.tag,
                load_weights=given.tag is not None,
                pretrained_text=False,
                **given.options,
            )
    if weights is not None:
        fit_weights(clip, weights, name, file)
        del weights
    check_numbers(clip, f"{name}: {file}")
    return clip.eval(), tokenize


@dataclass(frozen=True)
class _Given:
    """Where weights are, and what `open_clip.create_model` has to be told of how they were trained."""

    tag: str | None = None
    file: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)


def _given(name: str, pretrained: str | None) -> _Given:
    if source(name).startswith((LOCAL_DIR, HF_HUB)):
        if pretrained is not None:
            raise EncoderError(f"{name} brings its own weights; leave --pretrained out")
        return _Given()
    tags = open_clip.list_pretrained_tags_by_model(name)
    choices = ["a checkpoint file", "TAG:FILE", RANDOM, *tags]
    if pretrained is None:
        raise EncoderError(f"{name}: give --pretrained, one of {_some(choices)}")
    if pretrained in tags:
        return _Given(pretrained, options={"force_quick_gelu": recipe_of_tag(name, pretrained).quick_gelu})
    like, colon, file = pretrained.partition(":")
    if not (colon and like in tags):
        like, file = "", pretrained
    if Path(file).is_dir():
        raise EncoderError(f"{name}: --pretrained {pretrained}: {explain_folder(Path(file))}")
    if not Path(file).is_file():
        raise EncoderError(f"{name}: --pretrained {pretrained}: no such file or tag; one of {_some(choices)}")
    recipe = recipe_of_tag(name, like) if like else recipe_of_file(name, Path(file))
    if not recipe.quick_gelu and model_config(name).get("quick_gelu"):
        raise EncoderError(f"{name}: {file} was trained with GELU; give the --encoder without -quickgelu")
    preprocessing = asdict(recipe.preprocessing)
    del preprocessing["size"]
    options = {"force_quick_gelu": recipe.quick_gelu, "force_preprocess_cfg": preprocessing}
    return _Given(file=Path(file), options=options)


def _needs_hub(name: str, given: _Given) -> bool:
    """Whether anything is asked of the hub: weights, a tokenizer, or the size of a text tower."""
    text = model_config(name)["text_cfg"]
    tokenizer = text.get("hf_tokenizer_name") and not source(name).startswith(LOCAL_DIR)
    return bool(given.tag or name.startswith(HF_HUB) or tokenizer or text.get("hf_model_name"))


def _find_file(name: str, given: _Given) -> Path:
    """The file with the weights, fetched if it has to be."""
    if given.file:
        return given.file
    if given.tag:
        notes = open_clip.get_pretrained_cfg(name, given.tag)
        place = notes.get("hf_hub") or notes.get("url") or notes.get("file")
        with _one_line(name, f"{given.tag} ({place})"):
            return Path(open_clip.download_pretrained(notes))
    if name.startswith(HF_HUB):
        repository = name.removeprefix(HF_HUB)
        with _one_line(name, f"its weights ({repository}: {' or '.join(WEIGHTS_ON_HUB)})"):
            return weights_on_hub(repository)
    return _find_in_folder(name, Path(source(name).removeprefix(LOCAL_DIR)))


def _find_in_folder(name: str, folder: Path) -> Path:
    """The checkpoint in a folder, where several lie the one that open_clip would take."""
    for known in FOLDER_WEIGHTS:
        if (folder / known).is_file():
            return folder / known
    found = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:4])
        raise EncoderError(f"{name}: several checkpoints ({names}); call the right one {FOLDER_WEIGHTS[0]}")
    if (folder / SHARD_INDEX).is_file():
        read_checkpoint(folder / SHARD_INDEX)  # says what to do
    raise EncoderError(f"{name}: no weights in it; put {FOLDER_WEIGHTS[0]} there")


def _load_tokenizer(name: str) -> Any:
    """The tokenizer of a CLIP; transformers is told to run no code for it."""
    text = model_config(name)["text_cfg"]
    tokenizer = text.get("hf_tokenizer_name")
    options = {"trust_remote_code": False} if tokenizer else {}
    elsewhere = tokenizer and not source(name).startswith(LOCAL_DIR)
    with _one_line(name, f"its tokenizer ({tokenizer})" if elsewhere else "its tokenizer"):
        return open_clip.get_tokenizer(source(name), **options)


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


def _some(choices: Sequence[str]) -> str:
    return ", ".join(choices[:8]) + (f" and {len(choices) - 8} more" if len(choices) > 8 else "")
