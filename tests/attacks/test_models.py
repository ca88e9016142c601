"""Hostile model files: refused in one line that names them, wherever they are given, or ended in time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

onnx = pytest.importorskip("onnx")

from attacks.models import ANSWERS, SECRET, STRUCTURE, Attack, slow  # noqa: E402

from tgems_edge.cli import app  # noqa: E402
from tgems_edge.errors import ModelFileError  # noqa: E402
from tgems_edge.model_file.default import built_in_model  # noqa: E402
from tgems_edge.model_file.gate import check_model_file, check_structure  # noqa: E402
from tgems_edge.runtime.classifier import Classifier, load  # noqa: E402

PICTURE = Path(__file__).parents[2] / "examples" / "chelsea.jpg"
COMMAND = [sys.executable, "-m", "tgems_edge"]
DIGEST = [attack for attack in STRUCTURE if attack.words.startswith("changed")]
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends children with their parent")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hostile(folder):
    """hostile(attack): the path of the file."""

    def hostile(attack):
        path = folder / "hostile.onnx"
        path.write_bytes(attack.file())
        return path

    return hostile


def run(*arguments):
    """The finished command; any exception but the command's own end fails the test."""
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def assert_one_line(done, path, words, exit_code=2):
    assert (done.exit_code, done.stdout) == (exit_code, "")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {path}: ")
    assert words in errors[0]


class TestStructure:
    @pytest.mark.parametrize("attack", STRUCTURE, ids=str)
    def test_it_never_reaches_onnxruntime(self, hostile, attack, monkeypatch):
        path = hostile(attack)
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        for model in (path, path.read_bytes()):
            with pytest.raises(ModelFileError) as raised:
                Classifier(model)
            message = str(raised.value)
            assert message.startswith(f"{path}: " if model is path else "the model: ")
            assert attack.words in message
            assert "\n" not in message and len(message) < 500
        assert_one_line(run("classify", "--model", path, PICTURE), path, attack.words)
        changed = attack in DIGEST
        assert_one_line(run("verify", path), path, attack.words, exit_code=3 if changed else 2)

    @pytest.mark.parametrize("attack", [a for a in STRUCTURE if a not in DIGEST], ids=str)
    def test_no_verify_skips_none_of_it(self, hostile, attack):
        path = hostile(attack)
        assert_one_line(run("classify", "--model", path, PICTURE, "--no-verify"), path, attack.words)
        with pytest.raises(ModelFileError):
            load(path, verify=False)

    def test_no_command_shows_a_file_of_this_machine(self, hostile, folder):
        path = hostile(STRUCTURE[0])
        (folder / "pictures" / "cat").mkdir(parents=True)
        shutil.copy(PICTURE, folder / "pictures" / "cat")
        secret = Path(SECRET).read_text("utf-8").splitlines()[0]
        for command, code in (
            (["evaluate", "pictures", "--model", path], 2),
            (["bench", path, "--seconds", "0.1"], 2),
            (["bench", built_in_model(), "--against", path, "--seconds", "0.1"], 2),
            (["doctor", path], 1),
        ):
            done = run(*command)
            assert done.exit_code == code
            assert STRUCTURE[0].words in done.stdout + done.stderr
            assert secret not in done.stdout + done.stderr

    def test_inspect_shows_what_is_in_it(self, hostile):
        done = run("inspect", hostile(STRUCTURE[0]), "--json")
        assert done.exit_code == 0
        assert json.loads(done.stdout)["header"]["external"] == [SECRET]
        assert f"external weights   '{SECRET}'" in run("inspect", "hostile.onnx").stdout


class TestTower:
    """The full tower that `bench --against` takes: over 2 GB, weights lie in a file beside it."""

    @pytest.fixture
    def tower(self, folder):
        tensor = onnx.TensorProto(name="w", data_type=1, dims=[8], data_location=1)
        tensor.external_data.add(key="location", value="tower.onnx.data")
        graph = onnx.helper.make_graph([], "tower", [], [], [tensor])
        model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 18)])
        (folder / "tower.onnx").write_bytes(model.SerializeToString())
        return folder / "tower.onnx"

    def test_data_of_its_own_name_may_lie_beside_it(self, tower):
        (tower.parent / "tower.onnx.data").write_bytes(bytes(32))
        assert check_structure(tower, data_beside=True).header.external == {"tower.onnx.data"}
        with pytest.raises(ModelFileError):
            check_structure(tower)

    def test_a_link_to_elsewhere_may_not(self, tower):
        (tower.parent / "tower.onnx.data").symlink_to(SECRET)
        with pytest.raises(ModelFileError):
            check_structure(tower, data_beside=True)


class TestDigest:
    @pytest.mark.parametrize("attack", DIGEST, ids=str)
    def test_a_changed_file_answers_only_when_asked_to_and_says_so(self, hostile, attack):
        path = hostile(attack)
        done = run("classify", "--model", path, PICTURE, "--no-verify")
        assert done.exit_code == 0
        assert "not verified" in done.stderr
        done = run("classify", "--model", path, PICTURE, "--no-verify", "--json")
        assert json.loads(done.stdout)["verified"] is False
        assert not load(path, verify=False).verified

    def test_a_file_that_was_not_changed_says_nothing(self):
        done = run("classify", PICTURE, "--json", "--model", built_in_model())
        assert "verified" not in json.loads(done.stdout)

    def test_a_file_that_is_replaced_while_it_is_checked(self, folder):
        path = Path(shutil.copy(built_in_model(), folder / "model.onnx"))
        checked, _ = check_model_file(path)
        checked.refuse_changes()
        (folder / "other.onnx").write_bytes(STRUCTURE[0].file())
        (folder / "other.onnx").replace(path)
        with pytest.raises(ModelFileError, match="changed while it was loaded; try again"):
            checked.refuse_changes()


class TestAnswers:
    @pytest.mark.parametrize("attack", ANSWERS, ids=str)
    def test_they_are_refused_and_never_shown(self, hostile, attack):
        path = hostile(attack)
        with pytest.raises(ModelFileError, match=f"^{path}: the graph gave ") as raised:
            load(path).classify(PICTURE)
        assert attack.words in str(raised.value)
        assert_one_line(run("classify", "--model", path, PICTURE, "--json"), path, attack.words)

    def test_verify_and_doctor_find_it_too(self, hostile):
        path = hostile(ANSWERS[0])
        assert_one_line(run("verify", path), path, ANSWERS[0].words)
        done = run("doctor", path)
        assert done.exit_code == 1
        assert ANSWERS[0].words in done.stdout


class TestTime:
    """Many products, after each of which a run can end; and one, within which it cannot."""

    MANY, ONE = Attack("many products", "", slow(1500, 150)), Attack("one product", "", slow(6000, 1))

    @pytest.mark.parametrize("attack", [MANY, ONE], ids=str)
    def test_a_run_that_takes_too_long_is_given_up(self, hostile, attack):
        path = hostile(attack)
        started = time.monotonic()
        command = [*COMMAND, "classify", "--model", path, PICTURE, "--timeout", "1.5", "--threads", "1"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1].startswith(f"error: {path}: no answer within 1.5 s")
        assert time.monotonic() - started < 15

    def test_the_library_gives_up_too_and_goes_on(self, hostile):
        slow_model = load(hostile(self.MANY), threads=1, timeout=1)
        for _ in range(2):
            with pytest.raises(ModelFileError, match=r"no answer within 1 s"):
                slow_model.classify(PICTURE)
        assert load(built_in_model(), timeout=60).classify(PICTURE).label

    @pytest.mark.skipif(os.name != "posix", reason="signals")
    @pytest.mark.parametrize("attack", [MANY, ONE], ids=str)
    def test_ctrl_c_ends_it(self, hostile, attack):
        command = [*COMMAND, "classify", "--model", hostile(attack), PICTURE, "--threads", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr.readline().startswith("model: ")  # it is loaded
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "interrupted" in said and "Traceback" not in said

    @pytest.mark.parametrize("timeout", [0, -1, float("nan")])
    def test_a_timeout_that_is_none(self, timeout):
        done = run("classify", PICTURE, "--timeout", timeout)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "timeout is" in done.stderr

    def test_a_timeout_changes_no_answer(self):
        plain, timed = load(built_in_model()), load(built_in_model(), timeout=60)
        assert np.array_equal(plain.classify(PICTURE).rates, timed.classify(PICTURE).rates)


class TestCurrentFolder:
    """Modules that lie in the current folder are not ours to import."""

    NAMES = ("numpy", "onnxruntime", "PIL", "rich", "tgems_export", "torch", "joblib", "ctypes", "card")

    @pytest.fixture(autouse=True)
    def traps(self, folder):
        for name in self.NAMES:
            (folder / f"{name}.py").write_text(f"open('caught', 'a').write('{name} ')")
        Image.new("RGB", (32, 32)).save(folder / "picture.png")

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["classify", "picture.png"], 0),
            (["verify"], 0),
            (["bench", "--seconds", "0.1"], 0),
            (["doctor", "--quiet"], None),  # what it finds is about this machine
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )
    def test_they_are_not_imported(self, folder, arguments, code):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, encoding="utf-8", timeout=120)
        assert not (folder / "caught").exists()
        assert done.returncode in ((0, 1) if code is None else (code,)), done.stderr
        assert "Traceback" not in done.stderr


@linux
class TestChildren:
    """They end with their parent, even where that is killed."""

    HANG = "import time\ntime.sleep(600)"
    JOBLIB = """
import os, time, joblib
from tgems_edge.children import end_with

def work(parent):
    end_with(parent)
    time.sleep(600)

joblib.Parallel(n_jobs=2)(joblib.delayed(work)(os.getpid()) for _ in range(2))
"""
    DOCTOR = "from tgems_edge.doctor.probe import try_runtime; try_runtime()"
    BENCH = f"""
from pathlib import Path
from tgems_edge.bench.cold_start import MeasuredFile, probe
probe(MeasuredFile("model", Path({str(built_in_model())!r}), None), 1, [])
"""

    @pytest.mark.parametrize("code", [DOCTOR, BENCH, JOBLIB], ids=["doctor", "bench", "study"])
    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
    def test_none_is_left(self, folder, code, how):
        if "joblib" in code:
            pytest.importorskip("joblib")
        (folder / "fake").mkdir()
        (folder / "fake" / "onnxruntime.py").write_text(self.HANG)
        paths = filter(None, [str(folder / "fake"), os.environ.get("PYTHONPATH")])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        script = folder / "script.py"
        script.write_text(code)
        with subprocess.Popen(
            [sys.executable, script], env=environment, stderr=subprocess.DEVNULL
        ) as process:
            try:
                started = wait_for(lambda: children(process.pid))
                time.sleep(1.5)  # until they have come to what hangs
                started = children(process.pid)
                assert started
            finally:
                process.send_signal(how)
                process.wait(20)
        assert wait_for(lambda: not any(map(is_running, started)))


def children(parent):
    """Processes that do work for a process; joblib has another that clears up behind it."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in found if "resource_tracker" not in command_of(child)]


def command_of(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found
