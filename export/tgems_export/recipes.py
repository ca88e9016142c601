"""How weights were trained, as far as it changes what has to be computed with them.

Weights do not say themselves. open_clip keeps it with each of its tags, and only warns when an architecture
runs weights with another activation than theirs; a checkpoint file gets whatever the architecture's
configuration says. No comparison with PyTorch can notice: both sides would be wrong. So here a file needs
an `open_clip_config.json` beside it, or an architecture whose tags all agree, or the tag it was trained
like.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from tgems_edge.errors import EncoderError

__all__ = ["CONFIG_FILE", "Recipe", "agreed_recipe", "read_config", "recipe_of_file", "recipe_of_tag"]

CONFIG_FILE = "open_clip_config.json"


@dataclass(frozen=True)
class Recipe:
    """The activation, and what was done to pictures."""

    quick_gelu: bool
    preprocessing: PreprocessCfg  # but for its size: a tower knows its own

    def __str__(self) -> str:
        """As an error message names it."""
        resized = f"{self.preprocessing.interpolation} {self.preprocessing.resize_mode}"
        return (
            f"{'QuickGELU' if self.quick_gelu else 'GELU'}, mean {self.preprocessing.mean[0]:.2f}, {resized}"
        )


def recipe_of_tag(architecture: str, tag: str) -> Recipe:
    """What open_clip notes; QuickGELU is with the tag or with the architecture."""
    notes = open_clip.get_pretrained_cfg(architecture, tag)
    return _recipe(notes.get("quick_gelu") or _has_quick_gelu(architecture), notes)


def recipe_of_file(architecture: str, file: Path) -> Recipe:
    """What the configuration beside a checkpoint says, or what all tags of its architecture have in common.

    Raises:
        EncoderError: neither is there.
    """
    beside = file.parent / CONFIG_FILE
    if beside.is_file():
        config = read_config(beside)
        return _recipe(config.get("model_cfg", {}).get("quick_gelu"), config.get("preprocess_cfg", {}))
    if agreed := agreed_recipe(architecture):
        return agreed
    if not (recipes := _recipes(architecture)):
        return _recipe(_has_quick_gelu(architecture), {})
    examples = "; ".join(f"{tag} ({recipe})" for tag, recipe in recipes.items())
    raise EncoderError(
        f"{architecture}: {file} does not say how it was trained, and weights of this architecture differ in "
        f"that; put its {CONFIG_FILE} beside it, or give --pretrained TAG:{file} with a tag that was trained "
        f"alike: {examples}"
    )


def agreed_recipe(architecture: str) -> Recipe | None:
    """The recipe of all tags of an architecture, if it is one."""
    recipes = list(_recipes(architecture).values())
    return recipes[0] if len(recipes) == 1 else None


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file of open_clip.

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


def _recipe(quick_gelu: object, preprocessing: dict[str, Any]) -> Recipe:
    merged = merge_preprocess_dict(PreprocessCfg(), preprocessing)
    lists = {key: tuple(merged[key]) for key in ("mean", "std")}  # as JSON and open_clip write them
    return Recipe(bool(quick_gelu), PreprocessCfg(**merged | lists))
