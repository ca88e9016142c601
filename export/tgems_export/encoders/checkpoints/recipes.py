"""Recipes: how weights were trained, as far as it changes what has to be computed with them.

Weights do not say themselves. open_clip keeps it with each of its tags, and only warns when an architecture
runs weights with another activation than theirs; a checkpoint file gets whatever the architecture's
configuration says. No comparison with PyTorch can notice: both sides would be wrong. So here a file needs
an `open_clip_config.json` beside it, or an architecture that agrees with all its tags, or the tag it was
trained like.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from tgems_edge.errors import EncoderError
from tgems_edge.sources.text_files import read_text

__all__ = [
    "CONFIG_FILE",
    "Recipe",
    "agreed_recipe",
    "make_recipe",
    "read_config",
    "recipe_of_file",
    "recipe_of_tag",
]

CONFIG_FILE = "open_clip_config.json"
CHOICES = {"interpolation": ("bicubic", "bilinear"), "resize_mode": ("shortest", "longest", "squash")}


@dataclass(frozen=True)
class Recipe:
    """The activation, and what was done to pictures."""

    quick_gelu: bool
    preprocessing: PreprocessCfg  # but for its size: a tower knows its own

    def __str__(self) -> str:
        """Return its name in an error message."""
        resized = f"{self.preprocessing.interpolation} {self.preprocessing.resize_mode}"
        return (
            f"{'QuickGELU' if self.quick_gelu else 'GELU'}, mean {self.preprocessing.mean[0]:.2f}, {resized}"
        )


def recipe_of_tag(architecture: str, tag: str) -> Recipe:
    """Return open_clip's notes; QuickGELU is with the tag or with the architecture."""
    notes = open_clip.get_pretrained_cfg(architecture, tag)
    return make_recipe(notes.get("quick_gelu") or _has_quick_gelu(architecture), notes)


def recipe_of_file(architecture: str, file: Path) -> Recipe:
    """Read the configuration beside a checkpoint, or take what its architecture and all its tags agree on.

    Without tags there is nobody to disagree: such weights were made with open_clip as it is.

    Raises:
        EncoderError: neither is there, or the configuration is of another architecture.
    """
    beside = file.parent / CONFIG_FILE
    if beside.is_file():
        return _recipe_of_config(architecture, beside)
    if agreed := agreed_recipe(architecture):
        return agreed
    recipes = _recipes(architecture)
    examples = "; ".join(f"{tag} ({recipe})" for tag, recipe in recipes.items())
    raise EncoderError(
        f"{architecture}: {file} does not say how it was trained, and weights of this architecture differ in "
        f"that; put its {CONFIG_FILE} beside it, or give --pretrained TAG:{file} with a tag that was trained "
        f"alike: {examples}"
    )


def agreed_recipe(architecture: str) -> Recipe | None:
    """The recipe of an architecture and all its tags, if it is one."""
    recipes = list(_recipes(architecture).values())
    if not recipes:
        return make_recipe(_has_quick_gelu(architecture), {})
    agreed = len(recipes) == 1 and recipes[0].quick_gelu == _has_quick_gelu(architecture)
    return recipes[0] if agreed else None


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file of open_clip.

    Raises:
        EncoderError: it is none.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise EncoderError(f"{path}: not a configuration ({error}); copy it again, or remove it") from None
    if not isinstance(content, dict):
        raise EncoderError(f"{path}: not a configuration of open_clip; copy it again, or remove it")
    return content


def make_recipe(quick_gelu: object, preprocessing: dict[str, Any]) -> Recipe:
    """Read a configuration or open_clip's notes; a single number stands for all three colours.

    Raises:
        EncoderError: no preprocessing can be as it says.
    """
    merged = merge_preprocess_dict(PreprocessCfg(), preprocessing)
    for key in ("mean", "std"):
        merged[key] = tuple(merged[key]) if isinstance(merged[key], Sequence) else (merged[key],) * 3
        if not (len(merged[key]) == 3 and all(_is_finite(value) for value in merged[key])):
            raise EncoderError(
                f"preprocess_cfg: {key} is {merged[key]}; expected three numbers, as in CLIP's own"
            )
    if min(merged["std"]) <= 0:
        raise EncoderError(f"preprocess_cfg: std is {merged['std']}; expected three numbers above 0")
    for key, allowed in CHOICES.items():
        if merged[key] not in allowed:
            raise EncoderError(
                f"preprocess_cfg: {key} is {merged[key]!r}; expected one of {', '.join(allowed)}"
            )
    return Recipe(bool(quick_gelu), PreprocessCfg(**merged))


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _recipe_of_config(architecture: str, beside: Path) -> Recipe:
    config = read_config(beside)
    model = config.get("model_cfg", open_clip.get_model_config(architecture))
    preprocessing = config.get("preprocess_cfg", {})
    if not (isinstance(model, dict) and isinstance(preprocessing, dict)):
        raise EncoderError(f"{beside}: not a configuration of open_clip; copy it again, or remove it")
    expected = (open_clip.get_model_config(architecture) or {}).get("vision_cfg")
    if model.get("vision_cfg", expected) != expected:
        raise EncoderError(
            f"{architecture}: {beside} is of another architecture; give --encoder local-dir:{beside.parent}"
        )
    return make_recipe(model.get("quick_gelu"), preprocessing)


def _recipes(architecture: str) -> dict[str, Recipe]:
    """The different recipes of an architecture's tags, each under the first tag that has it."""
    recipes: dict[str, Recipe] = {}
    for tag in open_clip.list_pretrained_tags_by_model(architecture):
        recipe = recipe_of_tag(architecture, tag)
        if recipe not in recipes.values():
            recipes[tag] = recipe
    return recipes


def _has_quick_gelu(architecture: str) -> bool:
    return bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu"))
