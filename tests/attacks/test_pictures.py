"""Hostile picture files through the command line: one line, an exit code, little memory and time."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attacks.pictures import PICTURES, png

from tgems_edge.cli import main

MOST_SECONDS = 10
MOST_BYTES = 600e6  # of all of them in one process: Python, onnxruntime and one picture


def classify(*arguments):
    """Exit code of `classify`."""
    with pytest.raises(SystemExit) as ended:
        main(["classify", "--quiet", *map(str, arguments)])
    return ended.value.code or 0


@pytest.mark.parametrize("attack", PICTURES, ids=str)
def test_it_is_one_line_and_an_exit_code(attack, tmp_path, capsys):
    path = tmp_path / attack.name
    path.write_bytes(attack.make())
    started = time.monotonic()
    assert classify(path) == attack.exit_code
    assert time.monotonic() - started < MOST_SECONDS
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == bool(attack.says)
    assert re.search(attack.says, err) and (not err or str(path) in err)
    assert "/" not in err.replace(str(path), "").replace("git-lfs", "")
    assert bool(out) == (attack.exit_code == 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a program")
def test_none_of_them_takes_much_memory(tmp_path):
    for attack in PICTURES:
        (tmp_path / attack.name).write_bytes(attack.make())
    names = [str(tmp_path / attack.name) for attack in PICTURES]
    script = (
        "import sys; from tgems_edge.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(open('/proc/self/status').read())"
    )
    done = subprocess.run([sys.executable, "-c", script, "classify", *names], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert 1024 * int(done.stdout.split("VmHWM:")[1].split()[0]) < MOST_BYTES


class TestSources:
    def test_a_pipe_is_not_waited_for(self, tmp_path, capsys):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert classify(tmp_path / "pipe.jpg") == 2
        assert "a device, a pipe or a socket" in capsys.readouterr().err

    def test_a_device_is_not_read(self, capsys):
        assert classify("/dev/zero") == 2
        assert "a device, a pipe or a socket" in capsys.readouterr().err

    def test_a_huge_file_is_refused_before_it_is_read(self, tmp_path, capsys):
        with (tmp_path / "sparse.jpg").open("wb") as file:
            file.truncate(20 * 2**30)
        assert classify(tmp_path / "sparse.jpg") == 1
        assert "more than 225 MB, the limit for a file of 52,000,000 pixels" in capsys.readouterr().err

    def test_endless_standard_input_is_read_up_to_the_limit(self):
        command = [sys.executable, "-m", "tgems_edge", "classify", "-q", "-", "--max-pixels", "1000"]
        with Path("/dev/zero").open("rb") as endless:
            done = subprocess.run(command, stdin=endless, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert done.stderr.startswith("error: standard input: more than 17 MB, the limit for a file of 1,000")

    @pytest.mark.parametrize("value", ["0", "-5", "many"])
    def test_a_limit_that_is_none_is_bad_input(self, monkeypatch, value, tmp_path, capsys):
        monkeypatch.setenv("TGEMS_MAX_PIXELS", value)
        (tmp_path / "a.png").write_bytes(png())
        assert classify(tmp_path / "a.png") == 2
        assert "TGEMS_MAX_PIXELS" in capsys.readouterr().err

    def test_the_limit_can_be_raised_and_lowered(self, tmp_path, monkeypatch, capsys):
        path = tmp_path / "a.png"
        path.write_bytes(png())  # 48x32
        assert classify(path, "--max-pixels", 1535) == 1
        assert "48x32 pixels are more than the limit of 1,535" in capsys.readouterr().err
        assert classify(path, "--max-pixels", 100_000) == 0
        monkeypatch.setenv("TGEMS_MAX_PIXELS", "1000")
        assert classify(path) == 1
        assert classify(path, "--max-pixels", 100_000) == 0

    def test_more_pixels_than_pillow_opens_by_itself_are_a_matter_of_the_limit(self, tmp_path, capsys):
        path = tmp_path / "large.png"
        path.write_bytes(png(width=14_000, height=14_000, depth=1, rows=b""))
        assert classify(path) == 1
        assert "14000x14000 pixels are more than the limit" in capsys.readouterr().err
        assert classify(path, "--max-pixels", 200_000_000) == 1
        assert "damaged or cut short" in capsys.readouterr().err
