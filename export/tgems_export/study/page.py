"""Sections, tables and plots as Markdown, as one HTML page that needs nothing else, and as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from tgems_edge.printable import padded, printable, width
from tgems_export.study.plots import Plot
from tgems_export.study.tables import Table

__all__ = ["Page", "Section", "to_html", "to_markdown", "to_text"]

NUMBER = re.compile(r"[−–-]?$|[+−-]?\d")  # what a cell of figures starts with; a dash stands for none
LONG = 60  # characters; cells of such columns break into lines
MARKUP = re.compile(r"([\\`*_\[\]|~])")

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1c1f23;
       font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main, nav { max-width: 70rem; margin: 0 auto; padding: 0 1.5rem; }
h1 { font-size: 1.9rem; line-height: 1.25; margin: 2.2rem 0 1rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: 1rem; border-top: 1px solid #e3e6ea; }
h3 { font-size: 1.02rem; margin: 1.8rem 0 .3rem; }
p { margin: .5rem 0; max-width: 46rem; }
p.note, figcaption, footer { color: #5c6570; font-size: .87rem; }
pre { background: #f5f6f8; border-radius: 6px; padding: .8rem 1rem; overflow-x: auto; font-size: .87rem; }
nav ol { columns: 3 14rem; padding-left: 1.4rem; margin: 1rem 0; }
a { color: #0a5fa5; text-decoration: none; }
a:hover { text-decoration: underline; }
.wide { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .65rem; text-align: left; vertical-align: top; }
th { vertical-align: bottom; border-bottom: 2px solid #c9ced4; font-weight: 600; line-height: 1.3; }
td { border-bottom: 1px solid #eceef1; }
.n { text-align: right; }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 24rem; }
tr:hover td { background: #f7f9fb; }
figure { margin: 1.2rem 0; }
svg { width: 100%; max-width: 58rem; height: auto; }
footer { margin: 3rem 0; }
"""


@dataclass(frozen=True)
class Section:
    """What is said of one matter, and what it rests on; all of it plain text."""

    title: str
    text: tuple[str, ...]
    parts: tuple[Table | Plot, ...]


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    command: str
    sections: tuple[Section, ...]
    made: str  # with which versions, on which machine

    @property
    def plots(self) -> list[Plot]:
        """All of them."""
        return [part for section in self.sections for part in section.parts if isinstance(part, Plot)]


def to_markdown(page: Page, plots: str = "plots/") -> str:
    """As GitHub shows it; plots lie in a folder beside it."""
    blocks = [f"# {_marked(page.title)}", f"```console\n{page.command}\n```"]
    for section in page.sections:
        blocks += [f"## {_marked(section.title)}", *map(_marked, section.text)]
        for part in section.parts:
            blocks += _table_blocks(part) if isinstance(part, Table) else [_image(part, plots)]
    return "\n\n".join([*blocks, _marked(page.made)]) + "\n"


def to_html(page: Page) -> str:
    """One page that needs nothing from elsewhere."""
    titles = [escape(section.title) for section in page.sections]
    contents = "".join(f'<li><a href="#s{n}">{title}</a></li>' for n, title in enumerate(titles, 1))
    body = "\n".join(_section_html(n, section) for n, section in enumerate(page.sections, 1))
    title = escape(page.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<pre>{escape(page.command)}</pre>
</main>
<nav aria-label="Contents"><ol>{contents}</ol></nav>
<main>
{body}
<footer>{escape(page.made)}</footer>
</main>
</body>
</html>
"""


def to_text(table: Table) -> str:
    """For a terminal."""
    lines = [list(map(printable, row)) for row in (table.header, *table.rows)]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    right = _numeric(table)
    filled = (
        [
            " " * (w - width(cell)) + cell if number else padded(cell, w)
            for cell, w, number in zip(line, widths, right, strict=True)
        ]
        for line in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in filled)


def _numeric(table: Table) -> list[bool]:
    """Which columns hold figures; those stand at the right."""
    columns = zip(*table.rows, strict=True)
    return [n > 0 and all(NUMBER.match(cell) for cell in column) for n, column in enumerate(columns)]


def _table_blocks(table: Table) -> Iterator[str]:
    rule = ["---:" if number else "---" for number in _numeric(table)]
    yield f"### {_marked(table.title)}"
    yield _marked(table.text)
    lines = (_row([_marked(cell) for cell in table.header]), _row(rule))
    yield "\n".join([*lines, *(_row([_marked(cell) for cell in row]) for row in table.rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _image(plot: Plot, folder: str) -> str:
    return f"![{_marked(plot.caption)}]({folder}{plot.name}.svg)"


def _marked(text: str) -> str:
    """Plain text, such as a class called a_b|<c>, that Markdown shows as it is."""
    return MARKUP.sub(r"\\\1", escape(text, quote=False))


def _section_html(number: int, section: Section) -> str:
    parts = [_table_html(part) if isinstance(part, Table) else _figure(part) for part in section.parts]
    text = [f"<p>{_unbroken(escape(paragraph))}</p>" for paragraph in section.text]
    heading = f'<h2 id="s{number}">{number}. {escape(section.title)}</h2>'
    return "\n".join(["<section>", heading, *text, *parts, "</section>"])


def _unbroken(text: str) -> str:
    """A figure, its spread and its unit stay on one line."""
    return text.replace(" ± ", "&nbsp;±&nbsp;").replace(" %", "&nbsp;%")


def _figure(plot: Plot) -> str:
    caption = escape(plot.caption)
    drawing = plot.svg.replace("<svg ", f'<svg role="img" aria-label="{caption}" ', 1)
    return f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>"


def _table_html(table: Table) -> str:
    long = [max(map(len, column)) > LONG for column in zip(*table.rows, strict=True)]
    classes = [
        ' class="n"' if number else ' class="long"' if is_long else ""
        for number, is_long in zip(_numeric(table), long, strict=True)
    ]

    def line(tag: str, cells: Sequence[str]) -> str:
        made = (f"<{tag}{c}>{escape(cell)}</{tag}>" for c, cell in zip(classes, cells, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    rows = "\n".join(line("td", row) for row in table.rows)
    return (
        f'<h3>{escape(table.title)}</h3>\n<p class="note">{escape(table.text)}</p>\n'
        f'<div class="wide"><table>\n<thead>{line("th", table.header)}</thead>\n'
        f"<tbody>{rows}</tbody>\n</table></div>"
    )
