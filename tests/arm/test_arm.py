"""arm64 gives the answers of x86, on emulated processors."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("check.py")


@pytest.mark.chroot
def test_arm64_gives_the_answers_of_x86(tmp_path):
    report = tmp_path / "arm64.md"
    done = subprocess.run([sys.executable, SCRIPT, "--report", report], stdout=subprocess.PIPE, text=True)
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout
    assert "built-in.onnx" in report.read_text(encoding="utf-8")
