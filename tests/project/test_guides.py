"""The guides show commands that exist, lead where they say, and end in something to type."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = sorted(DOCS.glob("*.md"))
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_commands_and_options_of_a_guide_exist(guide, commands_shown, unknown_commands):
    text = guide.read_text(encoding="utf-8")
    assert commands_shown(text)
    assert unknown_commands(text) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page, dead_links):
    assert dead_links(page) == []


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_a_guide_ends_with_commands(guide):
    last = guide.read_text(encoding="utf-8").split("\n\n")[-1]
    assert last.startswith("```console\n") and last.endswith("\n```\n")


def test_the_readme_lists_every_guide():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Guides\n")[1].split("\n## ")[0]
    assert [guide for guide in GUIDES if f"]({name(guide)})" not in section] == []


WRONG = """`tgems-edge classify --nope`, see [this](no.md)
```console
tgems-edge export \\
    --jsn > x
tgems-edge fly
```
"""


def test_what_does_not_exist_is_noticed(tmp_path, unknown_commands, dead_links):
    assert unknown_commands(WRONG) == [("export", "--jsn"), ("fly", ""), ("classify", "--nope")]
    page = tmp_path / "page.md"
    page.write_text(WRONG, encoding="utf-8")
    assert dead_links(page) == ["no.md"]
