"""Pictures are found in folders and by globs, in order; what is left out is counted."""

import glob
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tgems_edge.errors import DataError
from tgems_edge.sources import formats
from tgems_edge.sources.data import read_labelled, read_unlabelled, refuse_splits
from tgems_edge.sources.folders import LeftOut, Why, find_pictures, list_folders, shown
from tgems_edge.sources.globs import find_matches

NOT_UTF8 = os.fsdecode(b"caf\xe9.jpg")


@pytest.fixture
def put(tmp_path, monkeypatch):
    """put(*names): empty files and their folders, below the current folder; returns that."""
    monkeypatch.chdir(tmp_path)

    def put(*names):
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            try:
                Path(name).touch()
            except OSError:
                pytest.skip(f"this file system refuses {shown(name)}")
        return tmp_path

    return put


@pytest.fixture
def no_heif(monkeypatch):
    """Pretend that pillow-heif is not installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for cached in (formats.register_heif, formats._has_decoder):
        cached.cache_clear()
    yield
    for cached in (formats.register_heif, formats._has_decoder):
        cached.cache_clear()


def names(found, root):
    return [path.relative_to(root).as_posix() for path in found.paths]


class TestPictures:
    def test_are_found_by_suffix_and_sorted(self, put):
        pictures = ["a.JPEG", "a.jpg", "b/c/d.png", "c.webp", "d.tiff", "e.bmp", "f.gif", "g.ppm"]
        root = put(*pictures, ".a.jpg", ".git/a.jpg", "a.txt", "a.mpg", "jpg", "a.jpg.part", "a")
        (root / "folder.jpg").mkdir()
        assert names(find_pictures(root), root) == pictures

    def test_of_a_suffix_without_decoder_are_counted_with_what_to_do(self, put, no_heif):
        found = find_pictures(put("a.jpg", "1.HEIC", "b/2.heic", "3.cr2", "4.psd", "5.svg"))
        assert len(found.paths) == 1 and found.left_out.matters
        assert str(found.left_out) == (
            "2 .heic (pip install 'tgems-edge[heif]'), 1 .cr2 (develop raw files to JPEG), "
            "1 .psd (convert to JPEG or PNG), 1 .svg (export as PNG)"
        )

    def test_in_heic_are_opened_where_pillow_heif_is_installed(self, put):
        heif = pytest.importorskip("pillow_heif")
        root = put()
        heif.from_pillow(Image.new("RGB", (16, 8), "teal")).save(root / "a.heic")
        (path,) = find_pictures(root).paths
        with Image.open(path, formats=formats.decoded_formats()) as picture:
            assert picture.size == (16, 8)

    def test_in_heic_are_found_where_there_is_a_decoder(self, put, monkeypatch):
        monkeypatch.setattr(formats, "_has_decoder", lambda name: True)
        root = put("a.jpg", "b.HEIC", "c.avif")
        assert names(find_pictures(root), root) == ["a.jpg", "b.HEIC", "c.avif"]

    def test_the_decoder_of_heic_is_loaded_only_where_there_is_one_to_read(self, put, monkeypatch):
        asked = []
        monkeypatch.setattr(formats, "_has_decoder", lambda name: asked.append(name) or True)
        find_pictures(put("a.jpg", "a.txt", ".b.heic", "@eaDir/c.heic"))
        assert asked == ["JPEG"]

    def test_side_files_hidden_ones_and_others_are_counted(self, put):
        root = put(
            *("a.jpg", "@eaDir/a.jpg/thumb.jpg", "@eaDir/b.jpg", "sub/Thumbs.db", "desktop.ini", "._a.jpg"),
            *("__MACOSX/._a.jpg", "#recycle/old.jpg", ".hidden.jpg", ".git/x.jpg", "notes.txt", "IMG_1"),
        )
        found = find_pictures(root)
        assert names(found, root) == ["a.jpg"] and not found.left_out.matters
        assert str(found.left_out) == (
            "7 side files (@eaDir, #recycle, ._*, ...), 2 hidden, 2 other files (.txt, no suffix)"
        )

    def test_a_name_that_is_no_utf8_keeps_its_bytes(self, put):
        root = put(NOT_UTF8, "a.jpg")
        assert [os.fsencode(path.name) for path in find_pictures(root).paths] == [b"a.jpg", b"caf\xe9.jpg"]

    def test_pipes_are_not_opened(self, put):
        root = put("a.jpg")
        os.mkfifo(root / "b.jpg")
        found = find_pictures(root)
        assert names(found, root) == ["a.jpg"]
        assert str(found.left_out) == "1 device, pipe or socket (b.jpg)"

    def test_a_folder_may_be_nested_as_deep_as_names_allow(self, put):
        root = put("a.jpg")
        depth = 1500
        deepest = root / "/".join("d" * depth)
        folder = root
        for _ in range(depth):
            folder = folder / "d"
            folder.mkdir()
        (deepest / "deep.jpg").touch()
        try:
            assert len(find_pictures(root).paths) == 2
            assert len(find_matches("**/**/*.jpg")[0]) == 2
        finally:
            (deepest / "deep.jpg").unlink()
            while folder != root:  # pytest would take it apart recursively
                folder.rmdir()
                folder = folder.parent

    def test_a_folder_that_cannot_be_opened_is_named(self, put, monkeypatch):
        root = put("a.jpg", "closed/b.jpg")
        scan = os.scandir

        def refuse(path):
            if os.fspath(path).endswith("closed"):
                raise PermissionError(13, "Permission denied")
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        left_out = find_pictures(root).left_out
        assert str(left_out) == "1 folder that cannot be opened (closed)" and left_out.matters
        with pytest.raises(DataError, match=r"closed: cannot be opened \(Permission denied\)"):
            find_pictures(root / "closed")


class TestLinks:
    def test_to_a_folder_elsewhere_are_followed_once(self, put):
        root = put("in/a.jpg", "elsewhere/b.jpg") / "in"
        (root / "first").symlink_to("../elsewhere")
        (root / "second").symlink_to("../elsewhere")
        found = find_pictures(root)
        assert names(found, root) == ["a.jpg", "first/b.jpg"]
        assert str(found.left_out) == "1 link to a folder read already (second)"

    def test_to_a_folder_beside_them_leave_pictures_the_name_of_where_they_lie(self, put):
        root = put("real/a.jpg")
        (root / "also").symlink_to("real")
        assert names(find_pictures(root), root) == ["real/a.jpg"]

    @pytest.mark.parametrize("target", [".", "..", "../.."])
    def test_in_circles_are_refused_by_name(self, put, target):
        root = put("in/sub/a.jpg") / "in"
        (root / "sub" / "loop").symlink_to(target)
        with pytest.raises(DataError, match="sub/loop: a link to a folder that it lies in; remove it"):
            find_pictures(root)

    def test_to_one_another_are_refused_by_name(self, put):
        root = put("in/a.jpg", "other/b.jpg") / "in"
        (root / "to").symlink_to("../other")
        (root.parent / "other" / "back").symlink_to("../in")
        with pytest.raises(DataError, match="to/back: a link to a folder that it lies in"):
            find_pictures(root)

    def test_to_nothing_or_to_themselves_are_named(self, put):
        root = put("a.jpg")
        (root / "b.jpg").symlink_to("nowhere.jpg")
        (root / "c.jpg").symlink_to("c.jpg")
        found = find_pictures(root)
        assert names(found, root) == ["a.jpg"] and found.left_out.matters
        assert str(found.left_out) == "2 broken links (b.jpg, c.jpg)"


class TestGlobs:
    TREE = ("a.jpg", "a/b.jpg", "a/b/c.jpg", "a/a/a/d.png", "b/.e.jpg", ".h/f.jpg", "x[1].jpg", NOT_UTF8)
    steps = st.sampled_from(["**", "*", "a", "b", "?", "[ab]", "*.jpg", ".*", "a*", "*[[]1]*"])

    @given(st.lists(steps, min_size=1, max_size=5).filter(lambda steps: glob.has_magic("/".join(steps))))
    def test_match_what_python_matches_each_once(self, tmp_path_factory, steps):
        root = Path(tmp_path_factory.getbasetemp() / "tree")
        for name in self.TREE:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        pattern = f"{root}/{'/'.join(steps)}"
        matches = glob.glob(pattern, recursive=True)  # noqa: PTH207  (it is what is compared)
        expected = {name for name in matches if Path(name).is_file()}
        assert find_matches(pattern)[0] == sorted(expected)

    @pytest.mark.parametrize("head", ["", "./", "in/", "in//", "{root}/in/"])
    def test_keep_the_way_a_folder_was_written(self, put, head):
        root = put("in/a.jpg", "a.jpg")
        head = head.format(root=root)
        assert find_matches(f"{head}*.jpg")[0] == [f"{head}a.jpg"]

    def test_end_in_circles_of_links(self, put):
        root = put(*(f"{a}/{b}/x.jpg" for a in "abc" for b in "def"))
        for folder in list(root.rglob("?")):
            for number in range(3):
                (folder / f"loop{number}").symlink_to(root)
        assert len(find_matches("**/*/**/*/**/*.jpg")[0]) == 9

    def test_follow_links_to_other_folders(self, put):
        root = put("in/a.jpg", "elsewhere/b.jpg")
        (root / "in" / "link").symlink_to("../elsewhere")
        assert find_matches("in/*/*.jpg")[0] == ["in/link/b.jpg"]
        assert find_matches("in/**/*.jpg")[0] == ["in/a.jpg", "in/link/b.jpg"]

    def test_name_what_they_match_and_nobody_can_read(self, put):
        root = put("a.jpg")
        (root / "b.jpg").symlink_to("nowhere")
        os.mkfifo(root / "c.jpg")
        found, left_out = find_matches("*.jpg")
        assert found == ["a.jpg"]
        assert str(left_out) == "1 broken link (b.jpg), 1 device, pipe or socket (c.jpg)"


class TestDataSets:
    def test_names_that_are_no_utf8_are_read_and_hashed(self, put):
        root = put("cat/a.jpg", f"cat/{NOT_UTF8}", "dog/b.jpg")
        folder = read_labelled(root)
        assert [os.fsencode(name) for name in folder.names] == [
            b"cat/a.jpg",
            b"cat/caf\xe9.jpg",
            b"dog/b.jpg",
        ]
        before = folder.sha256
        (root / "cat" / NOT_UTF8).rename(root / "cat" / os.fsdecode(b"caf\xe8.jpg"))
        assert read_labelled(root).sha256 != before

    def test_digests_are_what_they_have_always_been(self, put):
        root = put("cat/a.jpg", "dog/é.jpg")
        assert read_labelled(root).sha256 == (
            "58073a9f259daa959469dd64be5faa12c4244378b27932a524b19c489999139e"
        )

    def test_a_class_folder_that_is_no_utf8_is_refused(self, put):
        root = put("cat/a.jpg", os.fsdecode(b"caf\xe9/b.jpg"))
        with pytest.raises(DataError, match=r"'caf\\xe9' is no UTF-8"):
            read_labelled(root)

    def test_a_class_without_readable_pictures_says_what_to_install(self, put, no_heif):
        root = put("cat/1.heic", "cat/2.HEIC", "dog/a.jpg")
        with pytest.raises(DataError, match=r"cat: no pictures in this class; it has 2 \.heic \(pip install"):
            read_labelled(root)
        with pytest.raises(DataError, match=r"no pictures in this folder; it has 2 \.heic \(pip install"):
            read_unlabelled(root / "cat")

    def test_what_is_left_out_of_all_classes_is_counted(self, put):
        root = put("cat/a.jpg", "cat/b.psd", "dog/a.jpg", "dog/c.psd", "e.jpg", "@eaDir/f.jpg", "fox/g.jpg")
        folder = read_labelled(root, ("cat", "dog"))
        assert str(folder.left_out) == (
            "2 .psd (convert to JPEG or PNG), 1 folder of no class (fox), "
            "1 picture beside the class folders, 1 side file (@eaDir)"
        )
        assert list(list_folders(root)[0]) == ["cat", "dog", "fox"]

    @pytest.mark.parametrize(
        ("splits", "advice"),
        [
            (("train", "val", "test"), "give .*/train to train on, .*/test or .*/val to measure on"),
            (("Training", "Validation"), "give .*/Training to train on, .*/Validation to measure on"),
            (("training_set", "test_set"), "give .*/training_set to train on, .*/test_set to measure on"),
            (("train",), "give .*/train to train on$"),
            (("valid", "testing"), "give .*/testing or .*/valid to measure on"),
        ],
    )
    def test_splits_are_refused_and_the_folder_to_give_is_named(self, put, splits, advice):
        root = put(*(f"{split}/{name}/a.jpg" for split in splits for name in ("cat", "dog")))
        for read in (read_labelled, refuse_splits):
            with pytest.raises(DataError, match=f"holds splits .*, not classes; {advice}"):
                read(root)
        with pytest.raises(DataError, match="holds splits"):
            read_labelled(root, ("cat", "dog"))

    def test_splits_beside_other_folders_are_refused(self, put):
        root = put("train/cat/a.jpg", "val/cat/a.jpg", "annotations/a.xml")
        with pytest.raises(DataError, match=r"holds splits \(train, val\)"):
            read_labelled(root)

    @pytest.mark.parametrize("other", ["train/steam/a.jpg", "train/a.jpg"])
    def test_a_train_among_other_classes_is_a_class(self, put, other):
        assert read_labelled(put(other, "bus/a.jpg", "car/a.jpg")).classes == ("bus", "car", "train")

    def test_one_folder_under_two_names_is_refused(self, put):
        root = put("cat/a.jpg", "dog/a.jpg")
        (root / "hound").symlink_to("dog")
        with pytest.raises(DataError, match="'dog' and 'hound' are links to one folder"):
            read_labelled(root)

    def test_a_class_folder_may_be_a_link(self, put):
        root = put("in/cat/a.jpg", "elsewhere/b.jpg") / "in"
        (root / "dog").symlink_to("../elsewhere")
        assert read_labelled(root).names == ("cat/a.jpg", "dog/b.jpg")


def test_a_name_is_shown_on_one_line_and_not_too_long():
    assert shown(NOT_UTF8) == "caf\\xe9.jpg"
    assert shown("a\nb\x1b.jpg") == "a\\nb\\x1b.jpg"
    assert len(shown("d/" * 1000)) < 80


def test_nothing_left_out_says_nothing():
    left_out = LeftOut()
    assert not left_out and str(left_out) == left_out.hint == ""
    left_out.add(Why.HIDDEN, "")
    assert left_out and left_out.hint == "; it has 1 hidden"


@pytest.mark.parametrize("suffix", sorted(formats.picture_suffixes()))
def test_every_suffix_of_a_picture_is_decoded_or_there_is_something_to_do(suffix):
    assert formats.can_decode(suffix) or formats.advice(suffix)
    assert suffix == suffix.lower() and suffix.startswith(".")
