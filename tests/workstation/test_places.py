"""The workstation finds out before the work where it cannot write."""

import errno
import sys
from pathlib import Path

import pytest
from attacks.names import NAMES, is_calm

from tgems_edge.errors import InputError
from tgems_edge.progress import Reporter
from tgems_edge.sources.data import read_labelled
from tgems_export.encoders.features import compute_features
from tgems_export.storage import cache as places
from tgems_export.storage import outputs
from tgems_export.storage.cache import cache_root, give_home, usable_cache
from tgems_export.storage.outputs import check_output_file, check_output_folder

COMMANDS = ["train", "export", "study"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No temporary cache yet, and nothing said."""
    places._temporary.cache_clear()
    monkeypatch.setattr(places, "_warned", set())
    yield
    places._temporary.cache_clear()


@pytest.fixture
def homeless(monkeypatch):
    """A user without a home, as a container with `--user 1234` has one."""

    def home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("TGEMS_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)


def unwritable(kind, tmp_path, monkeypatch):
    """Points the cache at a place that cannot be written, and returns what is wrong with it."""
    file = tmp_path / "file"
    file.write_text("a file")
    folder = {"file": file, "below a file": file / "cache", "full": tmp_path / "full"}[kind]
    monkeypatch.setenv("TGEMS_CACHE_DIR", str(folder))
    if kind == "full":

        def no_space(**options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(places.tempfile, "TemporaryFile", no_space)
    return {"file": "File exists", "below a file": "Not a directory", "full": "No space left"}[kind]


class TestCache:
    @pytest.mark.parametrize("kind", ["file", "below a file", "full"])
    def test_one_that_cannot_be_written_is_replaced_for_this_run(
        self, encoder, make_folder, tmp_path, monkeypatch, capsys, kind
    ):
        reason = unwritable(kind, tmp_path, monkeypatch)
        folder = read_labelled(make_folder(tmp_path / "pictures", {"a": 2, "b": 1}))
        reporter = Reporter(quiet=True)
        found = compute_features(encoder, folder, reporter)
        assert found.indices.tolist() == [0, 1, 2] and len(found.embeddings()) == 3
        compute_features(encoder, folder, reporter)
        (warning,) = capsys.readouterr().err.splitlines()
        assert reason in warning and "TGEMS_CACHE_DIR" in warning and "lost when this ends" in warning

    def test_without_a_home_the_work_goes_on_in_a_temporary_folder(self, homeless, capsys):
        with pytest.raises(InputError, match="set TGEMS_CACHE_DIR"):
            cache_root()
        root = usable_cache(Reporter(quiet=True))
        assert root == usable_cache(Reporter(quiet=True)) and root.is_dir()
        (warning,) = capsys.readouterr().err.splitlines()
        assert "no home folder; set TGEMS_CACHE_DIR" in warning

    def test_libraries_get_a_home_which_is_no_place_to_keep_things(self, homeless, monkeypatch):
        give_home()
        made = Path(places.os.environ["HOME"])
        assert made.is_dir()
        monkeypatch.setattr(Path, "home", lambda: made)  # as Python finds it now
        with pytest.raises(InputError, match="set TGEMS_CACHE_DIR"):
            cache_root()

    def test_a_home_that_is_there_is_left_alone(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        give_home()
        assert places.os.environ["HOME"] == str(tmp_path)

    def test_a_complete_one_is_read_where_it_cannot_be_written(
        self, encoder, make_folder, tmp_path, monkeypatch, reporter
    ):
        folder = read_labelled(make_folder(tmp_path / "pictures", {"a": 2, "b": 1}))
        first = compute_features(encoder, folder, reporter)
        monkeypatch.setattr(places.tempfile, "TemporaryFile", None)  # not even asked
        assert compute_features(encoder, folder, reporter).chunks == first.chunks

    def test_training_goes_on_without_one(self, command, figures, tmp_path, monkeypatch):
        unwritable("below a file", tmp_path, monkeypatch)
        done = command("train", figures, "--layer", 1, "--epochs", 1, "--out", tmp_path / "heads", "--quiet")
        assert done.exit_code == 0
        assert done.stderr.count("TGEMS_CACHE_DIR") == 1


class TestOutputs:
    @pytest.fixture(autouse=True)
    def no_work(self, monkeypatch):
        """An output is refused before anything long begins."""

        def begin(*arguments, **options):
            raise AssertionError("the work has begun")

        for module in ("encoders.encoder.load_encoder", "exporting.pipeline.load_exits"):
            monkeypatch.setattr(f"tgems_export.{module}", begin)

    @pytest.fixture
    def start(self, command, figures):
        """start(name, path): a command that is to write there."""
        given = {
            "train": ["train", figures, "--out"],
            "export": ["export", "--output"],
            "study": ["study", figures, "--out"],
        }
        return lambda name, path: command(*given[name], path)

    def refused(self, done, path, message):
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {path}: ") and done.stderr.count("\n") == 1
        assert message in done.stderr

    @pytest.mark.parametrize("name", COMMANDS)
    def test_a_file_in_the_way(self, start, tmp_path, name):
        (tmp_path / "file").write_text("a file")
        path = tmp_path / "file" / "deep" / "x"
        self.refused(start(name, path), path, "is a file, not a folder; give another --out")

    @pytest.mark.parametrize("name", COMMANDS)
    @pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only")])
    def test_a_folder_that_cannot_be_written(self, start, tmp_path, name, error, monkeypatch):
        def refuse(**options):
            raise error

        monkeypatch.setattr(outputs.tempfile, "TemporaryFile", refuse)
        path = tmp_path / "missing" / "x"
        self.refused(start(name, path), path, f"cannot be written ({error.strerror}); give another --out")
        assert not path.parent.exists()

    @pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
    @pytest.mark.parametrize("name", COMMANDS)
    def test_a_file_system_that_takes_no_files(self, start, name):
        self.refused(start(name, "/proc/x"), "/proc/x", "cannot be written")

    def test_an_existing_file_is_kept(self, start, tmp_path):
        path = tmp_path / "model.onnx"
        path.write_bytes(b"mine")
        self.refused(start("export", path), path, "exists already; give --overwrite")
        assert path.read_bytes() == b"mine"

    def test_what_can_be_written_leaves_nothing_behind(self, tmp_path):
        check_output_file(tmp_path / "deep" / "down" / "model.onnx", overwrite=False)
        check_output_folder(tmp_path / "deep" / "down")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("hostile", NAMES.values(), ids=NAMES)
def test_errors_about_files_are_one_line(command, name, hostile):
    missing = f"missing {hostile}"
    done = command(*([name, "--head", missing] if name == "export" else [name, missing]))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: missing ") and done.stderr.count("\n") == 1
    assert is_calm(done.stderr) and done.stdout == ""
