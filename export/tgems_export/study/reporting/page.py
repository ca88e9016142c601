"""Sections, tables and plots as Markdown, as one HTML page that needs nothing else, and as plain text."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from html import escape

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tgems_edge.printable import padded, printable, width
from tgems_export.provenance import processor, versions
from tgems_export.study.reporting.parts import Plot, Table

__all__ = ["Page", "Section", "made_with", "make_environment", "to_html", "to_markdown", "to_text"]

MARKUP = re.compile(r"([\\`*_\[\]|~])")


@dataclass(frozen=True)
class Section:
    """Sentences on one matter, and the tables and plots that they rest on; all of it plain text."""

    title: str
    text: tuple[str, ...]
    parts: tuple[Table | Plot, ...]


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    command: str
    made: str  # with which versions, on which machine
    sections: tuple[Section, ...]

    @property
    def plots(self) -> list[Plot]:
        """All of them."""
        return [part for section in self.sections for part in section.parts if isinstance(part, Plot)]


def made_with(*distributions: str) -> str:
    """Return a sentence for the end of a report: versions and machine."""
    found = ", ".join(f"{name} {version}" for name, version in versions(*distributions).items())
    return (
        f"Made with {found}, Python {platform.python_version()}, on {os.cpu_count()} cores of {processor()}."
    )


def make_environment(*, html: bool = False) -> Environment:
    """The templates of this package. A variable that is not there is an error, not an empty string."""
    return Environment(
        loader=PackageLoader("tgems_export.study.reporting"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.do"],
    )


def to_markdown(page: Page, plots: str = "plots/") -> str:
    """Return the page as GitHub shows it; plots lie in a folder beside it."""
    environment = make_environment()
    environment.filters["marked"] = _marked
    environment.filters["marked_rows"] = lambda rows: [map(_marked, row) for row in rows]
    return environment.get_template("page.md.j2").render(page=page, plots=plots)


def to_html(page: Page) -> str:
    """Return one page that needs nothing from elsewhere."""
    environment = make_environment(html=True)
    environment.filters |= {"labelled": _labelled, "unbroken": _unbroken}
    return environment.get_template("page.html.j2").render(page=page)


def to_text(table: Table) -> str:
    """Return a table for a terminal."""
    lines = [list(map(printable, row)) for row in (table.header, *table.rows)]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    filled = (
        [
            " " * (w - width(cell)) + cell if number else padded(cell, w)
            for cell, w, number in zip(line, widths, table.numeric, strict=True)
        ]
        for line in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in filled)


def _marked(text: str) -> str:
    """Plain text, such as a class called a_b|<c>, that Markdown shows as it is."""
    return MARKUP.sub(r"\\\1", escape(text, quote=False))


def _unbroken(text: str) -> Markup:
    """A figure, its spread and its unit stay on one line."""
    return Markup(escape(text).replace(" ± ", "&nbsp;±&nbsp;").replace(" %", "&nbsp;%"))


def _labelled(svg: str, caption: str) -> Markup:
    """A drawing that says what it shows to those who cannot see it."""
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1))
