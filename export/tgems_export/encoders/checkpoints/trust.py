"""Check a CLIP's own files: they may state sizes and names, never code or a place to fetch from.

open_clip hands `tokenizer_kwargs` and names of towers to transformers, which runs Python of a folder or of
the hub when it is told to. So a configuration is read against a list of what may be in it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import open_clip

from tgems_edge.errors import EncoderError
from tgems_edge.sources.text_files import read_text

__all__ = ["check_config"]

MODEL_KEYS = frozenset(
    {
        "custom_text",
        "embed_dim",
        "init_logit_bias",
        "init_logit_scale",
        "multimodal_cfg",
        "nonscalar_logit_scale",
        "quick_gelu",
        "text_cfg",
        "vision_cfg",
    }
)
VISION_KEYS = frozenset(field.name for field in fields(open_clip.CLIPVisionCfg))
TEXT_KEYS = frozenset(field.name for field in fields(open_clip.CLIPTextCfg))
MULTIMODAL_KEYS = TEXT_KEYS | {"dim_head", "n_queries", "attn_pooler_heads"}
OPTIONS = frozenset({"act_kwargs", "norm_kwargs", "tokenizer_kwargs"})
TOKENIZER_OPTIONS: dict[str, tuple[object, ...]] = {
    "clean": ("canonicalize", "lower", "whitespace"),
    "strip_sep_token": (True, False),
}
TOKENIZER_MODES = (None, "", "clips")
WORD = re.compile(r"[\w.-]*")
HUB_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")
LARGEST, MOST_LAYERS, LONGEST = 10_000_000, 1000, 16
PROGRAM_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines"})
TOKENIZER_FILES = ("tokenizer_config.json", "config.json", "special_tokens_map.json")


def check_config(config: Mapping[str, Any], where: str, folder: Path | None = None) -> None:
    """Refuses a configuration that says more than how large a CLIP is and which tokenizer it has.

    Args:
        config: the `model_cfg` of open_clip.
        where: it is from, for messages.
        folder: with the tokenizer, if it comes from one.

    Raises:
        EncoderError: a key or a value that is not on the list, or a folder whose tokenizer brings code.
    """
    text = _section(config, "text_cfg", TEXT_KEYS, where)
    _section(config, "vision_cfg", VISION_KEYS, where)
    _section(config, "multimodal_cfg", MULTIMODAL_KEYS, where)
    for key, value in config.items():
        if key not in MODEL_KEYS:
            raise _refused(where, key, "is not known")
        if not isinstance(value, Mapping):
            _check_value(key, value, where)
    if text.get("tokenizer_mode") not in TOKENIZER_MODES:
        raise _refused(where, "text_cfg.tokenizer_mode", "can only be clips")
    _check_tokenizer_options(text.get("tokenizer_kwargs") or {}, where)
    if model := text.get("hf_model_name"):
        allowed = sorted(_text_towers())
        if model not in allowed:
            raise _refused(where, f"text_cfg.hf_model_name {model}", f"can only be {', '.join(allowed)}")
        _refuse_local(model, "hf_model_name", where)
    if tokenizer := text.get("hf_tokenizer_name"):
        if folder is not None:
            _check_tokenizer_folder(folder)
        else:
            _refuse_local(tokenizer, "hf_tokenizer_name", where)


def _section(config: Mapping[str, Any], name: str, allowed: frozenset[str], where: str) -> Mapping[str, Any]:
    """A part of a configuration, whose keys and plain values are on the list."""
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        raise EncoderError(f"{where}: {name} is no list of settings; copy the configuration again")
    for key, value in section.items():
        full = f"{name}.{key}"
        if key not in allowed:
            raise _refused(where, full, "is not known")
        if key in OPTIONS:
            if not isinstance(value, Mapping | None):
                raise _refused(where, full, "is no list of settings")
            for option, held in (value or {}).items():
                _check_value(f"{full}.{option}", held, where)
        elif not key.startswith("hf_"):
            _check_value(full, value, where)
        elif value is not None and not isinstance(value, bool) and not HUB_NAME.fullmatch(str(value)):
            raise _refused(where, f"{full} {str(value)[:60]!r}", "is no name of a repository on the hub")
    return section


def _check_value(key: str, value: Any, where: str) -> None:
    """A number of a size that a CLIP can have, a word, a yes or no, or a few of them."""
    if isinstance(value, list | tuple) and len(value) <= LONGEST:
        for item in value:
            _check_value(key, item, where)
    elif isinstance(value, str):
        if not WORD.fullmatch(value):
            raise _refused(where, f"{key} {value[:60]!r}", "is no plain name")
    elif isinstance(value, int | float):
        most = MOST_LAYERS if key.endswith("layers") else LARGEST
        if not math.isfinite(value) or abs(value) > most:
            raise _refused(where, f"{key} {value}", f"is too large (at most {most})")
    elif value is not None:
        raise _refused(where, key, "is neither a number nor a word")


def _check_tokenizer_options(options: Mapping[str, Any], where: str) -> None:
    for option, value in options.items():
        if option not in TOKENIZER_OPTIONS:
            raise _refused(where, f"text_cfg.tokenizer_kwargs.{option}", "could load code or files")
        if value not in TOKENIZER_OPTIONS[option]:
            raise _refused(where, f"text_cfg.tokenizer_kwargs.{option} {value}", "is not known")


def _check_tokenizer_folder(folder: Path) -> None:
    """Refuses a tokenizer that brings Python with it or points to files elsewhere."""
    for name in TOKENIZER_FILES:
        path = folder / name
        try:
            content = json.loads(read_text(path))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError):
            raise EncoderError(f"{path}: not a configuration of a tokenizer; copy it again") from None
        if not isinstance(content, dict):
            raise EncoderError(f"{path}: not a configuration of a tokenizer; copy it again")
        if found := sorted(PROGRAM_KEYS & set(content)):
            raise EncoderError(
                f"{path}: {found[0]} asks for Python code of this folder, which is not run; use a CLIP "
                "whose tokenizer is one of transformers' own"
            )
        for key, value in content.items():
            if key.endswith("_file") and isinstance(value, str) and _is_outside(folder, value):
                raise EncoderError(f"{path}: {key} points outside of the folder ({value}); remove that line")


def _is_outside(folder: Path, named: str) -> bool:
    """Whether a name is that of an existing file that does not lie in the folder."""
    return any(
        path.exists() and not path.resolve().is_relative_to(folder.resolve())
        for path in (Path(named), folder / named)
    )


def _refuse_local(name: str, key: str, where: str) -> None:
    """Transformers takes a folder of that name in the working directory before it asks the hub."""
    if Path(name).exists():
        raise _refused(where, f"text_cfg.{key} {name}", "is also here, and would be loaded instead")


def _text_towers() -> set[str]:
    """Text towers of transformers in the architectures that open_clip ships."""
    configs = (open_clip.get_model_config(name) or {} for name in open_clip.list_models())
    return {name for config in configs if (name := config.get("text_cfg", {}).get("hf_model_name"))}


def _refused(where: str, what: str, why: str) -> EncoderError:
    return EncoderError(
        f"{where}: its configuration is not used: {what} {why}; remove that line if you made it, or use "
        "another CLIP"
    )
