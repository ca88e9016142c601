"""Lists, heads, caches and outputs of the workstation that are not the files they should be."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from tgems_edge.cli import app
from tgems_edge.errors import DataError, EncoderError, HeadError
from tgems_edge.sources import text_files
from tgems_export.encoders import features
from tgems_export.encoders.checkpoints.reading import read_checkpoint
from tgems_export.encoders.encoder import load_encoder
from tgems_export.encoders.prompts import load_templates
from tgems_export.heads.file import load_head_card
from tgems_export.storage.tensors import read_tensors, write_tensors

pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    return tmp_path


def refused(*arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    return done.stderr


class TestLists:
    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="devices")
    def test_one_without_an_end_is_not_read(self):
        said = refused("train", "pictures", "--classes", "/dev/zero")
        assert said == "error: /dev/zero: a device or a pipe, not a file; give a file\n"
        with pytest.raises(DataError, match="a device or a pipe"):
            load_templates("/dev/zero")

    @pipes
    def test_a_pipe_is_not_waited_for(self):
        os.mkfifo("pipe")
        assert "pipe: a device or a pipe" in refused("train", "pictures", "--classes", "pipe")

    def test_a_folder_is_none(self):
        assert "pictures: a folder, not a file" in refused("train", "pictures", "--classes", "pictures")

    def test_a_huge_one_is_refused_before_it_is_read(self, monkeypatch):
        monkeypatch.setattr(text_files, "LARGEST_TEXT", 100)
        Path("list.txt").write_text("name\n" * 30)
        assert "list.txt: more than 0 MB, too large" in refused("train", "pictures", "--classes", "list.txt")

    def test_a_name_of_a_megabyte_is_named_by_its_line(self):
        Path("list.txt").write_text("cat\n" + "d" * 1_000_000)
        said = refused("export", "--classes", "list.txt")
        assert said == "error: list.txt, line 2: more than 1000 characters; expected class names\n"


class TestHeads:
    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn, torch.bool])
    def test_tensors_that_numpy_does_not_know(self, kind, folder):
        path = folder / "head.safetensors"
        write_tensors(path, {"x": torch.zeros(3, dtype=kind)}, {})
        assert read_tensors(path)[0]["x"].dtype == kind
        with pytest.raises(HeadError, match="not a head file of tgems-edge"):
            load_head_card(path)

    @pipes
    def test_a_pipe_is_not_waited_for(self):
        os.mkfifo("pipe")
        assert "pipe: not a head file, or cut short" in refused("export", "--head", "pipe")


class TestFeatures:
    @pytest.mark.parametrize(
        "indices",
        [torch.tensor(1), torch.zeros(1, 1), torch.tensor([float("nan")]), torch.tensor([1 + 1j])],
        ids=["number", "matrix", "nan", "complex"],
    )
    def test_a_chunk_of_another_shape_is_not_complete(self, indices, folder):
        path = folder / "chunk.safetensors"
        write_tensors(path, {"indices": indices}, {})
        assert not features._is_complete(path, load_encoder(), range(4))


class TestCheckpoints:
    def archive(self, content, compression):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            archive.writestr("archive/data.pkl", content)
        return buffer.getvalue()

    def refused(self, content):
        path = Path("weights.pt")
        path.write_bytes(content)
        with pytest.raises(EncoderError, match=r"^weights.pt: cut short or damaged, or not written by torch"):
            read_checkpoint(path)

    def test_a_packed_one_may_unpack_to_any_size(self):
        bomb = pickle.dumps("x" * 10_000_000, protocol=2)
        self.refused(self.archive(bomb, zipfile.ZIP_DEFLATED))

    def test_a_packing_that_nobody_knows(self):
        content = self.archive(b"\x80\x02.", zipfile.ZIP_STORED)
        changed = content.replace(b"PK\x01\x02\x14\x03\x14\0\0\0\0\0", b"PK\x01\x02\x14\x03\x14\0\0\0\x63\0")
        assert changed != content
        self.refused(changed)

    def test_a_text_longer_than_memory(self):
        length = (1 << 62).to_bytes(8, "little")
        self.refused(self.archive(b"\x80\x04\x8d" + length, zipfile.ZIP_STORED))
        self.refused(b"\x80\x04\x8d" + length)


class TestOutput:
    @pytest.mark.skipif(not Path("/dev/null").exists(), reason="devices")
    def test_a_device_is_not_replaced(self):
        said = refused("export", "--output", "/dev/null", "--overwrite")
        assert said == "error: /dev/null: a device or a pipe, not a file; give another --output\n"
        assert Path("/dev/null").is_char_device()

    @pipes
    def test_nor_is_a_pipe(self):
        os.mkfifo("pipe")
        assert "a device or a pipe" in refused("export", "--output", "pipe", "--overwrite")


def test_a_head_of_another_library_is_refused(folder):
    save_file({"x": torch.zeros(2, dtype=torch.bfloat16)}, folder / "head.safetensors")
    assert "not a head file of tgems-edge" in refused("export", "--head", "head.safetensors")
