"""Encode class names as text embeddings, by way of prompt templates.

A T-GEM that is trained on one prompt a class has C inputs and may learn them by heart. So training
draws from many templates and keeps some aside: accuracy with those tells whether it reads the text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from tgems_edge.errors import DataError
from tgems_edge.sources.class_names import ClassList, read_class_list, read_lines
from tgems_export.encoders.encoder import Encoder

__all__ = [
    "Templates",
    "check_class_names",
    "class_embeddings",
    "encode_prompts",
    "load_templates",
    "read_class_file",
    "teacher_targets",
]

# The CLIP authors' templates for CIFAR-10, and a few plain ones.
DEFAULT = (
    "a photo of a {}.",
    "a blurry photo of a {}.",
    "a black and white photo of a {}.",
    "a low contrast photo of a {}.",
    "a high contrast photo of a {}.",
    "a bad photo of a {}.",
    "a good photo of a {}.",
    "a photo of a small {}.",
    "a photo of a big {}.",
    "a photo of the {}.",
    "a blurry photo of the {}.",
    "a close-up photo of a {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of a {}.",
    "a photo of one {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "the {}.",
    "a {}.",
)
NAMED = {
    "default": DEFAULT,
    "simple": DEFAULT[:1],
    "openai": tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES),
}
HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class Templates:
    """Templates to train on, and templates to test on; each holds {} once."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]  # empty when there are fewer than five


def load_templates(name_or_file: str = "default") -> Templates:
    """A named set (`default`, `simple`, `openai`) or a file with one template a line.

    Raises:
        DataError: no such set or file, or a template without exactly one {}.
    """
    if name_or_file in NAMED:
        templates = NAMED[name_or_file]
    else:
        templates = tuple(
            line for _, line in read_lines(Path(name_or_file), "templates", f"or one of {', '.join(NAMED)}")
        )
        for template in templates:
            if template.count("{}") != 1:
                raise DataError(f"{name_or_file}: template {template!r} must hold {{}} exactly once")
    templates = tuple(dict.fromkeys(templates))
    held_out = templates[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    return Templates(tuple(t for t in templates if t not in held_out), held_out)


def read_class_file(path: Path) -> ClassList:
    """Class names, and the folders that some lines name; see `read_class_list`.

    Raises:
        DataError: a line that cannot be used, fewer than two names, or two that are the same to CLIP.
    """
    listed = read_class_list(path)
    check_class_names(listed.names, str(path))
    return listed


def check_class_names(names: Sequence[str], where: str) -> None:
    """Raises DataError unless there are at least two names, all different once spoken."""
    if len(names) < 2:
        raise DataError(f"{where}: {len(names)} class; a choice needs at least two")
    seen: dict[str, str] = {}
    for name in names:
        key = spoken(name).casefold()
        if not any(character.isalnum() for character in key):
            raise DataError(f"{where}: class name {name!r} says nothing; give it letters or digits")
        if key in seen:
            raise DataError(f"{where}: duplicate class names {seen[key]!r} and {name!r}; keep one")
        seen[key] = name


def spoken(name: str) -> str:
    """A class name as a prompt says it: folders write `fire_truck`, people say `fire truck`."""
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())


def encode_prompts(encoder: Encoder, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embeddings of every class in every template, (C, P, E), each of length 1.

    A long name is said in the shortest template where it does not fit into another.

    Raises:
        DataError: a prompt that the text tower would cut off.
    """
    shortest = min(templates, key=len)
    prompts = [template.replace("{}", spoken(name)) for name in classes for template in templates]
    cut = encoder.text.too_long(prompts)
    for index in cut:
        prompts[index] = shortest.replace("{}", spoken(classes[index // len(templates)]))
    if still := encoder.text.too_long([prompts[index] for index in cut]):
        index = cut[still[0]]
        raise DataError(
            f"class name {classes[index // len(templates)]!r} is too long: the prompt {prompts[index]!r} has "
            f"more tokens than {encoder.id.name} reads; shorten the name"
        )
    return encoder.text.encode(prompts).view(len(classes), len(templates), -1)


def class_embeddings(prompt_embeddings: Tensor) -> Tensor:
    """(C, P, E) to (C, E): the mean over the templates, of length 1 again."""
    return torch.nn.functional.normalize(prompt_embeddings.mean(1), dim=-1)


def teacher_targets(embeddings: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """Return a CLIP's distributions over the classes, (n, C), for pictures (n, E) and texts (C, E)."""
    return (logit_scale * embeddings @ text.T).softmax(1)
