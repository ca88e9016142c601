"""The table of boards is made of what `bench --json` prints, and of nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "boards.py"


@pytest.fixture(scope="module")
def printed():
    """Return the output of the real command for the built-in file."""
    command = [sys.executable, "-m", "tgems_edge", "bench", "--seconds", "0.05", "--threads", "1", "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def make(folder):
    """The rows of the table that the script makes of a folder, and how it ended."""
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)
    page = (folder / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    return rows[2:], rows[:1], done


def test_a_row_for_each_board_and_model(tmp_path, printed):
    (tmp_path / "one.jsonl").write_text(printed + printed, encoding="utf-8")
    (tmp_path / "two.jsonl").write_text(printed, encoding="utf-8")
    rows, (header,), done = make(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [row[0].split(" ")[0] for row in rows] == ["[one](one.jsonl)", "[two](two.jsonl)"]
    case = json.loads(printed)["results"][0]["cases"][0]
    for row in map(dict, ((zip(header, row, strict=True)) for row in rows)):
        assert row["model"] == "✅ demo, exit 5, int8"
        assert (row["provider"], row["threads"]) == ("CPU", "1")
        assert row["ms, p50"] == f"{case['latency']['p50']:.1f}"
        assert row["times faster than full"] == "–"


def test_the_fastest_number_of_threads_and_the_full_tower(tmp_path, printed):
    report = json.loads(printed)
    model = report["results"][0]
    slow = model["cases"][0]
    fast = slow | {
        "threads": 4,
        "latency": slow["latency"] | {"p50": slow["latency"]["p50"] / 2},
        "times_faster": {"than": "full demo", "run": 2.5, "inference": 3.0},
    }
    large = fast | {"batch": 8, "latency": slow["latency"] | {"p50": 0.0}}
    model["cases"] = [slow, fast, large]
    tower = model | {"name": "full demo", "kind": "full tower", "cases": [slow]}
    tower["file"] = model["file"] | {"card": None}
    failed = {"name": "x.onnx", "kind": "model", "error": "no", "file": None, "start": None, "cases": []}
    report["results"] = [tower, model, failed]
    (tmp_path / "board.jsonl").write_text(json.dumps(report) + "\n", encoding="utf-8")
    rows, (header,), _ = make(tmp_path)
    found = {row[1]: dict(zip(header, row, strict=True)) for row in rows}
    assert list(found) == ["✅ full demo", "✅ demo, exit 5, int8", "❌ x.onnx"]
    assert found["✅ demo, exit 5, int8"]["threads"] == "4"
    assert found["✅ demo, exit 5, int8"]["times faster than full"] == "2.50"
    assert set(list(found["❌ x.onnx"].values())[3:11]) == {"–"}


BROKEN = {
    "no JSON": lambda printed: "oops\n",
    "not text": lambda printed: b"\xff\n",
    "an empty line": lambda printed: "\n",
    "a list": lambda printed: "[]\n",
    "cut off": lambda printed: printed[: len(printed) // 2] + "\n",
    "without a version": lambda printed: '{"results": []}\n',
    "of a newer version": lambda printed: json.dumps(json.loads(printed) | {"schema_version": 99}) + "\n",
    "with a word for a number": lambda printed: printed.replace('"p50": ', '"p50": "x", "p51": ', 1),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_no_report_gets_one_line_and_the_others_their_rows(tmp_path, printed, how):
    content = BROKEN[how](printed)
    (tmp_path / "bad.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "good.jsonl").write_text(printed, encoding="utf-8")
    rows, _, done = make(tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr.startswith(f"error: {tmp_path / 'bad.jsonl'}, line 1: ") and done.stderr.count("\n") == 1
    )
    assert [row[0].split(" ")[0] for row in rows] == ["[good](good.jsonl)"]


def test_the_page_in_the_repository_is_what_its_files_say(tmp_path):
    folder = ROOT / "docs" / "results"
    shutil.copytree(folder, tmp_path / "results")
    assert make(tmp_path / "results")[2].returncode == 0
    made = (tmp_path / "results" / "README.md").read_text(encoding="utf-8")
    assert made == (folder / "README.md").read_text(encoding="utf-8")
