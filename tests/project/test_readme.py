"""The commands of the README do what it says."""

import os
import re
from pathlib import Path

import pytest
import readme

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPET = re.compile(r"<!-- run -->\n```python\n(.*?)```", re.DOTALL)
SNIPPETS = [
    (str(page.relative_to(ROOT)), code)
    for page in readme.PAGES
    for code in SNIPPET.findall(page.read_text(encoding="utf-8"))
]


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run at the root of the checkout, without the user's own settings."""
    monkeypatch.chdir(ROOT)
    for name in [name for name in os.environ if name.startswith("TGEMS_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=[page for page, _ in SNIPPETS])
def test_python_snippets_run(
    page: str, code: str, plain_environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(code, page, "exec"), {})
    assert "cat" in capsys.readouterr().out


def test_there_are_snippets_to_run() -> None:
    assert "README.md" in dict(SNIPPETS)
    assert "<!-- run -->\n```console\n$ tgems-edge " in README


PERCENT = re.compile(r"\b(\d+)%")


def test_tables_and_transcripts_are_what_the_commands_print(plain_environment: None) -> None:
    """INT8 rounds a little otherwise in another onnxruntime, so percentages may be off by two."""
    for page in readme.PAGES:
        text = page.read_text(encoding="utf-8")
        filled = readme.fill(text, page)
        assert PERCENT.sub("%", filled) == PERCENT.sub("%", text)
        shown, printed = ([int(number) for number in PERCENT.findall(t)] for t in (text, filled))
        assert all(abs(a - b) <= 2 for a, b in zip(shown, printed, strict=True))


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 200
    assert len(README) < 15_000


def test_it_has_one_table_of_results_with_ten_rows_at_most() -> None:
    results = re.findall(r"<!-- benchmarks/.*?<!-- end -->", README, re.DOTALL)
    assert len(results) == 1
    rows = [line for line in results[0].splitlines() if line.startswith("| ")]
    assert 3 <= len(rows) <= 12  # with the header and the line below it


def test_it_states_the_limits() -> None:
    limits = README.split("\n## Limits\n")[1].split("\n## ")[0]
    for said in ("demo", "Raspberry Pi or Jetson", "in all 8 sets", "random weights"):
        assert said in limits


def test_every_command_and_option_shown_exists(commands_shown, unknown_commands) -> None:
    commands = {command for command, _ in commands_shown(README)}
    device = {"classify", "evaluate", "bench", "verify", "inspect", "doctor"}
    assert device | {"train", "export"} <= commands
    assert unknown_commands(README) == []
