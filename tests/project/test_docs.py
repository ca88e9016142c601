"""The site: its pages are what the code says, all of them are in it, and it builds without a warning."""

import dataclasses
import importlib.util
import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest

import tgems_edge
from tgems_edge import errors
from tgems_edge.model_file.card import Card, Preprocessing

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXTRA = re.compile(r"(tgems-(?:edge|export))\[([a-z]+)\]")


def script(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = script("build")
PAGES = sorted(BUILD.pages())


def read(name):
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_reference_of_the_commands_is_what_their_help_says():
    assert read("reference/cli.md") == script("cli_reference").render()


@pytest.mark.parametrize("record", [Card, Preprocessing])
def test_the_specification_names_every_field_of_the_card(record):
    specification = read("reference/model-file.md")
    fields = [field.name for field in dataclasses.fields(record)]
    assert [field for field in fields if f"`{field}`" not in specification] == []


def test_the_api_reference_has_what_is_public_and_every_error():
    shown = re.findall(r"^::: tgems_edge\.(?:errors\.)?(\w+)$", read("reference/api.md"), re.MULTILINE)
    assert set(shown) == {*tgems_edge.__all__, *errors.__all__} - {"__version__"}


def test_the_api_reference_draws_the_tree_of_errors():
    drawn = re.search(r"```text\n(.*?)```", read("reference/api.md"), re.DOTALL)[1]
    lines = errors.__doc__.split("\n\n")[1].splitlines()
    assert drawn.splitlines() == [re.match(r"\W*\w+(?: +\d)?", line)[0].rstrip() for line in lines]


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 70, 130, 141])
def test_every_exit_code_is_documented(code):
    assert f"\n| {code} | " in read("reference/exit-codes.md")


def test_every_variable_of_the_environment_is_documented():
    sources = [*(ROOT / "tgems_edge").rglob("*.py"), *(ROOT / "export" / "tgems_export").rglob("*.py")]
    names = {name for path in sources for name in re.findall(r"\bTGEMS_[A-Z_]+\b", path.read_text("utf-8"))}
    page = read("reference/exit-codes.md")
    assert names
    assert [name for name in sorted(names) if f"`{name}" not in page] == []


@pytest.mark.parametrize("page", [Path("README.md"), *PAGES], ids=str)
def test_extras_that_are_shown_exist(page):
    shown = EXTRA.findall((ROOT / page).read_text(encoding="utf-8"))
    known = {name: metadata(name).get_all("Provides-Extra") for name in ("tgems-edge", "tgems-export")}
    assert [(name, extra) for name, extra in shown if extra not in known[name]] == []


def test_every_page_of_docs_is_in_the_navigation():
    listed = set(re.findall(r": ([\w/-]+\.md)$", read("mkdocs.yml"), re.MULTILINE))
    placed = {str(BUILD.place(page)) for page in PAGES}
    assert listed <= placed
    assert {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} <= listed


def test_links_of_a_page_hold_where_it_lies_in_the_site():
    page = Path("benchmarks/results/speed.md")
    text = "[a](device.md#x), ![b](../../docs/flow.svg)\n```\n[c](no.md)\n```\n[d](https://example.org/e.md)"
    moved, linked = BUILD.rewrite(page, text)
    assert moved == text.replace("../../docs/flow.svg", "../../flow.svg")
    assert linked == {Path("benchmarks/results/device.md"), Path("docs/flow.svg")}
    moved, _ = BUILD.rewrite(Path("docs/guides/int8.md"), "[speed](../../benchmarks/results/speed.md)")
    assert moved == "[speed](../results/benchmarks/speed.md)"


def test_a_link_that_leads_nowhere_is_named():
    with pytest.raises(SystemExit, match=r"docs/index\.md: guides/ is no file"):
        BUILD.rewrite(Path("docs/index.md"), "[guides](guides/)")


@pytest.mark.parametrize("page", [Path("README.md"), *PAGES], ids=str)
def test_modules_that_are_shown_exist(page):
    shown = re.findall(r"python -m (tgems_[a-z_.]+\w)", (ROOT / page).read_text(encoding="utf-8"))
    assert [name for name in shown if importlib.util.find_spec(name) is None] == []


def find_python():
    """A Python that has Zensical: that of `make docs`, or this one; None without either."""
    made = ROOT / ".venv-docs" / "bin"
    if (made / "zensical").exists():
        return made / "python"
    return sys.executable if importlib.util.find_spec("zensical") else None


@pytest.mark.slow
@pytest.mark.skipif(find_python() is None, reason="Zensical is not installed: make docs")
def test_the_site_builds_without_a_warning():
    made = subprocess.run([find_python(), DOCS / "build.py"], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    assert {"index.html", "CHANGELOG.html"} <= {path.name for path in BUILD.SITE.iterdir()}
