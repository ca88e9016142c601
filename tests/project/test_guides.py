"""The pages of docs/ show commands that exist, lead where they say, and guides end in something to type."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
ALONE = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*ALONE, *sorted(DOCS.rglob("*.md"))]


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_options_that_a_page_shows_exist(page, unknown_commands):
    assert unknown_commands(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page, dead_links):
    assert dead_links(page) == []


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_a_guide_ends_with_commands(guide, commands_shown):
    text = guide.read_text(encoding="utf-8")
    last = text.split("\n\n")[-1]
    assert last.startswith("```console\n") and last.endswith("\n```\n")
    assert commands_shown(text)


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "index.md"], ids=name)
def test_every_guide_is_listed(page):
    text = page.read_text(encoding="utf-8")
    links = [f"]({guide.relative_to(page.parent)})" for guide in GUIDES]
    assert [link for link in links if link not in text] == []


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
