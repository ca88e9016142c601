"""What the README says is what happens."""

import dataclasses
import os
import re
from pathlib import Path

import pytest
import readme

from tgems_edge.model_file.card import Card

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"<!-- run -->\n```(\w+)\n(.*?)```", README, re.DOTALL)


def snippets(language: str) -> list[str]:
    return [code for kind, code in SNIPPETS if kind == language]


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the root of the checkout, without the user's own settings."""
    monkeypatch.chdir(ROOT)
    for name in [name for name in os.environ if name.startswith("TGEMS_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("code", snippets("python"))
def test_python_snippets_run(code: str, plain_environment: None, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {})
    assert "cat" in capsys.readouterr().out


def test_there_are_snippets_to_run() -> None:
    assert snippets("console") and snippets("python")


def test_tables_and_transcripts_are_what_the_commands_print(plain_environment: None) -> None:
    for page in readme.PAGES:
        text = page.read_text(encoding="utf-8")
        assert readme.fill(text, page) == text


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Card)])
def test_the_specification_names_every_field_of_the_card(field: str) -> None:
    specification = README.split("## The model file")[1].split("\n## ")[0]
    assert f"`{field}`" in specification


def test_every_command_and_option_shown_exists(commands_shown, unknown_commands) -> None:
    commands = {command for command, _ in commands_shown(README)}
    assert {
        "train",
        "export",
        "study",
        "classify",
        "evaluate",
        "inspect",
        "verify",
        "doctor",
        "bench",
    } <= commands
    assert unknown_commands(README) == []
