"""Load a CLIP with the trained weights of `--pretrained`, and its tokenizer, on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip

from tgems_edge.errors import EncoderError
from tgems_export.encoders.checkpoints.file_kinds import explain_folder
from tgems_export.encoders.checkpoints.hub import WEIGHTS_ON_HUB, weights_on_hub, without_retries
from tgems_export.encoders.checkpoints.loading import (
    HF_HUB,
    LOCAL_DIR,
    RANDOM,
    local_folder,
    model_config,
    one_line,
    source,
)
from tgems_export.encoders.checkpoints.reading import read_checkpoint
from tgems_export.encoders.checkpoints.recipes import recipe_of_file, recipe_of_tag
from tgems_export.encoders.checkpoints.weights import check_numbers, fit_weights

__all__ = ["load_clip"]

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


@dataclass(frozen=True)
class Source:
    """Return where weights are, as `--encoder` and `--pretrained` say."""

    name: str
    tag: str | None = None
    file: Path | None = None
    like: str | None = None  # the tag that the file was trained like


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
    given = _read_options(name, pretrained)
    with without_retries() if _needs_hub(given) else nullcontext():
        file = _find_file(given)
        weights = None if given.tag else read_checkpoint(file)
        training = _how_trained(given)
        tokenize = _load_tokenizer(name)
        with one_line(name, str(pretrained or "its weights")), _no_log():
            clip = open_clip.create_model(
                source(name),
                given.tag,
                load_weights=given.tag is not None,
                pretrained_text=False,
                **training,
            )
    if weights is not None:
        fit_weights(clip, weights, name, file)
        del weights
    check_numbers(clip, f"{name}: {file}")
    return clip.eval(), tokenize


def _read_options(name: str, pretrained: str | None) -> Source:
    """Return the weights that the two options name, if they can be there."""
    if source(name).startswith((LOCAL_DIR, HF_HUB)):
        if pretrained is not None:
            raise EncoderError(f"{name} brings its own weights; leave --pretrained out")
        return Source(name)
    tags = open_clip.list_pretrained_tags_by_model(name)
    choices = ["a checkpoint file", "TAG:FILE", RANDOM, *tags]
    if pretrained is None:
        raise EncoderError(f"{name}: give --pretrained, one of {_some(choices)}")
    if pretrained in tags:
        return Source(name, tag=pretrained)
    like, colon, file = pretrained.partition(":")
    if not (colon and like in tags):
        like, file = "", pretrained
    with one_line(name, "--pretrained"):
        if Path(file).is_dir():
            raise EncoderError(f"{name}: --pretrained {pretrained}: {explain_folder(Path(file))}")
        if not Path(file).is_file():
            raise EncoderError(
                f"{name}: --pretrained {pretrained}: no such file or tag; one of {_some(choices)}"
            )
    return Source(name, file=Path(file), like=like or None)


def _how_trained(given: Source) -> dict[str, Any]:
    """Options of open_clip for weights of a recipe; a folder and the hub state them themselves."""
    name, file = given.name, given.file
    if given.tag:
        return {"force_quick_gelu": recipe_of_tag(name, given.tag).quick_gelu}
    if file is None:
        return {}
    recipe = recipe_of_tag(name, given.like) if given.like else recipe_of_file(name, file)
    if not recipe.quick_gelu and model_config(name).get("quick_gelu"):
        raise EncoderError(f"{name}: {file} was trained with GELU; give the --encoder without -quickgelu")
    preprocessing = asdict(recipe.preprocessing)
    del preprocessing["size"]
    return {"force_quick_gelu": recipe.quick_gelu, "force_preprocess_cfg": preprocessing}


def _needs_hub(given: Source) -> bool:
    """Whether anything is asked of the hub: weights, a tokenizer, or the size of a text tower."""
    text = model_config(given.name).get("text_cfg", {})
    tokenizer = text.get("hf_tokenizer_name") and local_folder(given.name) is None
    return bool(given.tag or given.name.startswith(HF_HUB) or tokenizer or text.get("hf_model_name"))


def _find_file(given: Source) -> Path:
    """The file with the weights, fetched if it has to be."""
    name = given.name
    if given.file:
        return given.file
    if given.tag:
        notes = open_clip.get_pretrained_cfg(name, given.tag)
        place = notes.get("hf_hub") or notes.get("url") or notes.get("file") or "nowhere"
        with one_line(name, f"{given.tag} ({place}{WEIGHTS_ON_HUB[0] if place.endswith('/') else ''})"):
            return Path(open_clip.download_pretrained(notes))
    if folder := local_folder(name):
        return _find_in_folder(name, folder)
    with one_line(name, f"its weights ({' or '.join(WEIGHTS_ON_HUB)})"):
        return weights_on_hub(name.removeprefix(HF_HUB))


def _find_in_folder(name: str, folder: Path) -> Path:
    """The checkpoint in a folder; where several lie, the one that open_clip would take."""
    with one_line(name, "its folder"):
        found = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES and path.is_file())
    if known := [folder / file for file in FOLDER_WEIGHTS if folder / file in found]:
        return known[0]
    if len(found) == 1:
        return found[0]
    if (folder / SHARD_INDEX).is_file():
        return folder / SHARD_INDEX  # which is named as what it is
    if found:
        names = ", ".join(path.name for path in found[:4])
        raise EncoderError(f"{name}: several checkpoints ({names}); call the right one {FOLDER_WEIGHTS[0]}")
    raise EncoderError(f"{name}: no weights in it; put {FOLDER_WEIGHTS[0]} there")


def _load_tokenizer(name: str) -> Any:
    """The tokenizer of a CLIP; transformers is told to run no code for it."""
    tokenizer = model_config(name).get("text_cfg", {}).get("hf_tokenizer_name")
    options = {"trust_remote_code": False} if tokenizer else {}
    elsewhere = tokenizer and local_folder(name) is None
    with one_line(name, f"its tokenizer ({tokenizer})" if elsewhere else "its tokenizer"):
        return open_clip.get_tokenizer(source(name), **options)


@contextmanager
def _no_log() -> Iterator[None]:
    """Keeps from the screen that weights are random, which open_clip says as they are not given to it."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # without any, logging would set one up for good
    disabled, root.disabled = root.disabled, True
    try:
        yield
    finally:
        root.disabled = disabled
        root.removeHandler(handler)


def _some(choices: Sequence[str]) -> str:
    return ", ".join(choices[:8]) + (f" and {len(choices) - 8} more" if len(choices) > 8 else "")
