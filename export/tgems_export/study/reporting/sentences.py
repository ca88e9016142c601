"""Sentences from templates: templates/statements/SECTION.txt.j2 has the words, Python the figures."""

from __future__ import annotations

import re
from functools import partial

from tgems_export.study.reporting.page import make_environment
from tgems_export.study.reporting.wording import (
    count,
    joined,
    large,
    layers_named,
    percent,
    points,
    with_spread,
)

__all__ = ["say"]


def say(section: str, layers: int, **figures: object) -> tuple[str, ...]:
    """Return the sentences of a section, one a paragraph of its template.

    Args:
        section: the name of the template.
        layers: how many there are in all, to say `every layer`.
        figures: what the template tells.
    """
    environment = make_environment()
    environment.filters |= {
        "count": count,
        "joined": joined,
        "large": large,
        "layers": partial(layers_named, of=layers),
        "percent": percent,
        "points": points,
        "spread": with_spread,
    }
    text = environment.get_template(f"statements/{section}.txt.j2").render(figures)
    paragraphs = (re.sub(r" *\n *", " ", paragraph).strip() for paragraph in re.split(r"\n\s*\n", text))
    return tuple(paragraph for paragraph in paragraphs if paragraph)
