"""Write the reference of all commands from what `--help` knows: python docs/cli_reference.py"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from tgems_edge.cli import app

PAGE = Path(__file__).parent / "reference" / "cli.md"

HEADER = """\
# Commands

<!-- Written by `python docs/cli_reference.py`; a test compares it with the commands. -->

`tgems-edge COMMAND --help` shows the same in a terminal. `train`, `export` and `study` come with
`pip install 'tgems-edge[export]'`; the others need no torch.
"""


def render() -> str:
    """Return the page: a section for each command, with its usage and its options."""
    group = typer.main.get_command(app)
    context = group.make_context("tgems-edge", [], resilient_parsing=True)
    names = sorted(group.list_commands(context))
    sections = [HEADER, *(_section(name, group.get_command(context, name)) for name in names)]
    return "\n".join(sections)


def _section(name: str, command: Any) -> str:
    context = command.make_context(f"tgems-edge {name}", [], resilient_parsing=True)
    usage = " ".join([f"tgems-edge {name}", *command.collect_usage_pieces(context)])
    paragraphs = _paragraphs(command.help or "")
    options = [option for option in command.params if option.name != "help" and not option.hidden]
    rows = [f"| {_names(option)} | {_meaning(option)} |" for option in options]
    table = ["| option | meaning |", "| --- | --- |", *rows] if rows else []
    return "\n".join([f"## {name}\n", f"```console\n{usage}\n```\n", *paragraphs, *table, ""])


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; an example becomes a block of code."""
    for paragraph in inspect.cleandoc(text.replace("\b", "")).split("\n\n"):
        joined = " ".join(paragraph.split())
        if example := re.fullmatch(r"Examples?: (.*)", joined):
            commands = re.split(r"(?= tgems-edge )", f" {example[1]}")
            shown = [f"$ {command.strip()}" for command in commands if command.strip()]
            yield "\n".join(["```console", *shown, "```", ""])
        else:
            yield paragraph.strip() + "\n"


def _names(option: Any) -> str:
    if option.param_type_name == "argument":
        return f"`{option.metavar or option.name.upper()}`"
    return ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])


def _meaning(option: Any) -> str:
    text = " ".join((getattr(option, "help", None) or "").split()).replace("|", "\\|")
    choices = getattr(option.type, "choices", None)
    parts = [text, f"One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""]
    default = option.default
    if default not in (None, False, True, ()) and not callable(default) and "efault" not in text:
        shown = default if isinstance(default, list | tuple) else [getattr(default, "value", default)]
        parts.append(f"Default: `{', '.join(map(str, shown))}`.")
    return " ".join(filter(None, parts))


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
