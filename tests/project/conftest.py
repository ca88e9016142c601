"""Pages show commands, which must exist, and links, which must lead somewhere."""

import functools
import re
from pathlib import Path

import pytest
import typer

from tgems_edge.cli import app

FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?<!install )tgems-edge ([a-z]+)\b([^|>#`\n]*)")  # a package has the name too
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.fixture(scope="session")
def commands_shown():
    """commands_shown(text): (command, option) that a page shows; the option is "" for the command alone."""
    return _commands_shown


@pytest.fixture(scope="session")
def unknown_commands():
    """unknown_commands(text): those shown commands and options that do not exist."""

    def unknown(text):
        return [pair for pair in _commands_shown(text) if pair[1] not in _options(pair[0])]

    return unknown


@pytest.fixture(scope="session")
def dead_links():
    """dead_links(page): relative links of a page that lead to no file."""

    def dead(page: Path):
        links = LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
        local = (link for link in links if "://" not in link)
        return [link for link in local if not (page.parent / link).exists()]

    return dead


def _commands_shown(text):
    code = FENCED.findall(text) + INLINE.findall(FENCED.sub("", text))
    joined = "\n".join(code).replace("\\\n", " ")
    shown = COMMAND.findall(joined)
    return [(command, option) for command, rest in shown for option in ["", *re.findall(r"--[a-z-]+", rest)]]


@functools.cache
def _options(command):
    """All options of a command, and "" for itself; nothing where there is no such command."""
    group = typer.main.get_command(app)
    found = group.get_command(None, command)
    if found is None:
        return frozenset()
    options = {option for parameter in found.params for option in parameter.opts}
    return frozenset({"", "--help", *options})
