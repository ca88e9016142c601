"""Files are written whole, by one writer, and read only if they hold what was written."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tgems_export.storage import files
from tgems_export.storage.files import read_checked, write_atomically, write_checked

posix = pytest.mark.skipif(os.name != "posix", reason="locks of files")
# Begins to write a file, says so, and waits to be killed.
WRITER = """
import sys, time
from pathlib import Path
from tgems_export.storage.files import _temporary_beside
with _temporary_beside(Path(sys.argv[1])):
    print("writing", flush=True)
    time.sleep(60)
"""


def parts(folder):
    return list(folder.glob(".*.part"))


@pytest.fixture
def fails(monkeypatch):
    """fails(number): every fsync fails with this error."""

    def fails(number):
        def fsync(handle):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files.os, "fsync", fsync)

    return fails


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_is_what_was_written_and_nothing_lies_beside_it(tmp_path, overwrite):
    path = tmp_path / "new" / "file"
    write_atomically(path, b"content", overwrite=overwrite)
    assert path.read_bytes() == b"content" and list(path.parent.iterdir()) == [path]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_that_is_there_is_replaced_only_if_it_may_be(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(FileExistsError, match="file"):
        write_atomically(path, b"new", overwrite=False)
    assert path.read_bytes() == b"old" and not parts(tmp_path)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_of_many_writers_one_wins(tmp_path, monkeypatch, links):
    path = tmp_path / "file"
    if not links:

        def hardlink_to(self, target):
            raise PermissionError(errno.EPERM, "a file system without links")

        monkeypatch.setattr(files.Path, "hardlink_to", hardlink_to)

    def write(number):
        try:
            write_atomically(path, bytes([number]) * 1000, overwrite=False)
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as threads:
        outcomes = [number for number in threads.map(write, range(40)) if number is not None]
    assert len(outcomes) == 1 and path.read_bytes() == bytes(outcomes) * 1000
    assert not parts(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_error_with_the_path_and_loses_nothing(tmp_path, fails, number):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    fails(number)
    with pytest.raises(OSError, match="not enough disk for 3 MB") as caught:
        write_atomically(path, bytes(3_000_000))
    assert caught.value.filename == str(path) and caught.value.errno == number
    assert path.read_bytes() == b"old" and not parts(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_with_the_path(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as caught:
        write_atomically(tmp_path / "file" / "below", b"")
    assert caught.value.filename == str(tmp_path / "file" / "below")


@posix
def test_what_dead_writers_left_is_removed_and_what_living_ones_write_is_not(tmp_path):
    command = [sys.executable, "-c", WRITER, tmp_path / "file"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as dead,
        subprocess.Popen(command, stdout=subprocess.PIPE) as living,
    ):
        assert [process.stdout.readline() for process in (dead, living)] == [b"writing\n"] * 2
        assert len(parts(tmp_path)) == 2
        dead.kill()
        dead.wait()
        (tmp_path / ".download.part").touch()  # another program's
        write_atomically(tmp_path / "other", b"")
        assert len(parts(tmp_path)) == 2
        living.kill()
        living.wait()
    write_atomically(tmp_path / "other", b"")
    assert [part.name for part in parts(tmp_path)] == [".download.part"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:-5] + bytes(5),
        lambda content: bytes([content[0] ^ 1]) + content[1:],
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: content[32:],
    ],
    ids=["empty", "no digest", "cut", "longer", "zeroed tail", "digest", "byte", "of an earlier version"],
)
def test_what_was_damaged_is_not_read(tmp_path, spoil):
    path = tmp_path / "checkpoint"
    write_checked(path, b"what was learnt")
    assert read_checked(path) == b"what was learnt"
    path.write_bytes(spoil(path.read_bytes()))
    assert read_checked(path) is None


def test_what_is_not_there_is_not_read(tmp_path):
    assert read_checked(tmp_path / "nothing") is None
