"""Values of options and variables that nobody should give: one line that says what to do, and exit code 2."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tgems_edge.cli import app
from tgems_edge.cli.output import LONGEST_ERROR
from tgems_edge.errors import ModelFileError
from tgems_edge.model_file.default import built_in_model
from tgems_edge.runtime.classifier import load

EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURE = EXAMPLES / "chelsea.jpg"
COMMAND = [sys.executable, "-m", "tgems_edge"]
MANY_DIGITS = "9" * 5000  # int() of which is an error of its own


def run(*arguments, env=None):
    return CliRunner().invoke(app, list(map(str, arguments)), env=env, catch_exceptions=False)


def assert_refused(done, *words):
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert len(done.stderr) < LONGEST_ERROR + 50
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["classify", PICTURE, "--threads", 10**9], "from 1 to 1024"),
        (["classify", PICTURE, "--threads", MANY_DIGITS], "--threads"),
        (["classify", PICTURE, "--batch", 10**30], "--batch"),
        (["classify", PICTURE, "--batch", -1], "--batch"),
        (["classify", PICTURE, "--max-pixels", MANY_DIGITS], "--max-pixels"),
        (["classify", PICTURE, "--coverage", "nan"], "choose one of them"),
        (["classify", PICTURE, "--coverage", "-inf"], "choose one of them"),
        (["classify", PICTURE, "--reject", "nan"], "choose one of them"),
        (["classify", PICTURE, "--timeout", "nan"], "above 0"),
        (["classify", "x" * 5000], "name too long"),
        (["classify", ""], "the name of a picture is empty"),
        (["classify", PICTURE, "--model", ""], "a folder, not a model file; give the .onnx file in it"),
        (["evaluate", EXAMPLES, "--min-accuracy", "nan"], "--min-accuracy nan: give a share from 0 to 1"),
        (["evaluate", "no\nfolder"], "no\\nfolder: no such folder; check its name"),
        (["bench", "--seconds", "nan"], "--seconds nan"),
        (["bench", "--seconds", "inf"], "--seconds inf"),
        (["bench", "--batch", 10**9], "--batch"),
        (["inspect", "/dev/null"], "a device or a pipe"),
    ],
    ids=lambda value: " ".join(map(str, value))[:50] if isinstance(value, list) else "",
)
def test_an_option_that_makes_no_sense(arguments, words):
    quiet = ["--quiet"] if arguments[0] in ("classify", "evaluate", "bench") else []
    assert_refused(run(*arguments, *quiet), words)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "²", MANY_DIGITS])
@pytest.mark.parametrize("name", ["TGEMS_NUM_THREADS", "TGEMS_MAX_PIXELS", "TGEMS_SPIN"])
def test_a_variable_that_makes_no_sense(name, value):
    if (name, value) == ("TGEMS_SPIN", "0"):
        value = "2"
    if (name, value) == ("TGEMS_MAX_PIXELS", "1.5"):
        value = "nan"
    assert_refused(run("classify", PICTURE, env={name: value}), name)


@pytest.mark.parametrize("seconds", ["1e11", "1e300", "inf"])
def test_a_timeout_beyond_what_clocks_count_is_never(seconds):
    assert run("classify", PICTURE, "--timeout", seconds).exit_code == 0


def test_a_long_name_leaves_a_line_that_can_be_read():
    done = run("classify", "-q", "no such " * 600 + "picture.png")
    assert "[...]" in done.stderr
    assert_refused(done)


def test_what_a_library_logs_is_not_shown(tmp_path):
    """Pillow logs of this file, beside raising an error."""
    from attacks.pictures import tiff

    path = tmp_path / "samples.tif"
    path.write_bytes(tiff(48, 32, (277, 9), data=bytes(48 * 32)))
    done = subprocess.run([*COMMAND, "classify", "-q", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path}: damaged") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("said", ["std::bad_alloc", "Failed to allocate memory for requested buffer"])
def test_a_model_is_not_blamed_for_memory_that_is_missing(said, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = load(built_in_model())

    def refuse(*_, **__):
        raise RuntimeError(said)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ModelFileError, match="not enough memory to load it") as raised:
        load(built_in_model())
    assert "export" not in str(raised.value)
    monkeypatch.setattr(model, "_session", type("Session", (), {"run": refuse})())
    with pytest.raises(ModelFileError, match=r"not enough memory to run it.*; try fewer pictures at once"):
        model.classify(PICTURE)


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory")
def test_a_large_picture_of_a_labelled_folder_is_not_read_whole(tmp_path):
    """Its digest is made a part at a time; it is refused when it is decoded."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        shutil.copy(PICTURE, tmp_path / name)
    with (tmp_path / "cat" / "sparse.jpg").open("wb") as file:
        file.truncate(2**30)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); "
    script = f"{limit}from tgems_edge.cli import main; main(['evaluate', {str(tmp_path)!r}])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "sparse.jpg: more than 225 MB" in done.stderr
