"""Class lists are read line by line, and folders match classes as they are spoken."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tgems_edge.errors import DataError
from tgems_edge.sources.class_names import match_folders, matching_key, read_class_list, say_folders
from tgems_edge.sources.data import read_labelled

REPORTS = Path(__file__).parents[4] / "shared" / "data" / "reports"

words = st.text(st.characters(categories=["Ll", "Lu", "Nd"]), min_size=1, max_size=6)
spoken_names = st.lists(words, min_size=1, max_size=3)


def match(folders, classes, given=None):
    return match_folders(say_folders(folders, given or {}, "pets"), classes, "pets")


@pytest.fixture
def read(tmp_path):
    """read(content): a class list of that content."""

    def read(content):
        path = tmp_path / "classes.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_class_list(path)

    return read


class TestMatching:
    @given(spoken_names, st.sampled_from("_- \u2010"), st.sampled_from(["NFC", "NFD"]), st.booleans())
    def test_spelling_does_not_matter(self, parts, joint, form, upper):
        name = " ".join(parts)
        folder = unicodedata.normalize(form, joint.join(parts))
        assume(name.upper().casefold() == name.casefold())  # not so for a few letters, such as a dotless i
        assert match([folder.upper() if upper else folder], [name]) == {
            (folder.upper() if upper else folder): name
        }

    @given(spoken_names)
    def test_the_key_of_a_key_is_itself(self, parts):
        key = matching_key("_".join(parts))
        assert matching_key(key) == key

    @given(st.lists(words, min_size=1, max_size=5, unique=True))
    def test_every_name_matches_itself(self, names):
        assert match(names, names) == {name: name for name in names}

    @pytest.mark.parametrize(
        ("folder", "name"),
        [
            ("sea_slug", "sea slug"),
            ("Sea-Slug", "sea slug"),
            ("FIRE  truck", "fire_truck"),
            ("cafe\u0301", "caf\u00e9"),
            ("STRASSE", "straße"),
        ],
    )
    def test_a_folder_is_a_class_that_is_spoken_like_it(self, folder, name):
        assert match([folder], [name, "dog"]) == {folder: name}

    def test_words_run_together_are_another_name(self):
        assert match(["seaslug", "cat"], ["sea slug", "cat"]) == {"cat": "cat"}

    def test_an_exact_name_comes_first(self):
        assert match(["t-shirt", "t shirt"], ["t shirt", "t-shirt"]) == {n: n for n in ("t shirt", "t-shirt")}

    def test_two_folders_of_one_class_are_refused(self):
        with pytest.raises(
            DataError, match="pets: folders 'sea_slug' and 'sea slug' are both class 'sea slug'"
        ):
            match(["sea_slug", "sea slug"], ["sea slug"])

    def test_a_folder_of_two_classes_is_refused(self):
        with pytest.raises(DataError, match="pets: 'T_shirt' may be 't shirt' or 't-shirt'; spell it"):
            match(["T_shirt"], ["t shirt", "t-shirt"])

    def test_a_file_says_what_a_folder_holds(self):
        found = match(["N01440764", "dog"], ["Tench", "dog"], {"n01440764": "tench"})
        assert found == {"N01440764": "Tench", "dog": "dog"}


class TestClassLists:
    def test_names_are_one_a_line(self, read):
        listed = read("\ufeff# pets\ncat\r\n\n  fire truck \nC++\n")
        assert listed.names == ("cat", "fire truck", "C++") and listed.folders == {}

    def test_a_line_may_name_a_folder(self, read):
        listed = read("n01440764\ttench\r\nn01443537 \t gold fish\r\ndog")
        assert listed.names == ("tench", "gold fish", "dog")
        assert listed.folders == {"n01440764": "tench", "n01443537": "gold fish"}

    @given(st.lists(st.tuples(words, words), min_size=1, max_size=6, unique_by=lambda pair: pair[0]))
    def test_what_is_written_is_read(self, tmp_path_factory, pairs):
        path = tmp_path_factory.getbasetemp() / "written.txt"
        path.write_text("".join(f"{folder}\t{name}\n" for folder, name in pairs), encoding="utf-8")
        listed = read_class_list(path)
        assert listed.names == tuple(name for _, name in pairs) and listed.folders == dict(pairs)

    @given(st.binary(max_size=40))
    def test_any_bytes_are_names_or_an_error_of_one_line(self, tmp_path_factory, content):
        path = tmp_path_factory.getbasetemp() / "any.txt"
        path.write_bytes(content)
        try:
            names = read_class_list(path).names
        except DataError as error:
            assert "any.txt" in str(error) and str(error).isprintable()
        else:
            assert all(name and name == name.strip() and name.isprintable() for name in names)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("cat\na\tb\tc", "line 2: expected a class name, or a folder, one tab and a name"),
            ("cat\n\tdog", "line 2: expected a class name"),
            ("cat\ndog\t", "line 2: expected a class name"),
            ("a\tcat\na\tdog", "line 2: folder 'a' has a line already"),
            ("cat\nd\x00g", r"line 2: 'd\\x00g' holds characters that cannot be shown"),
            ("caf\u00e9".encode("latin-1"), "not a text file in UTF-8; save it as UTF-8"),
            ("cat\ndog".encode("utf-16"), "not a text file in UTF-8; save it as UTF-8"),
            ("\n \n", "holds no class names"),
        ],
    )
    def test_a_line_that_cannot_be_used_is_named(self, read, content, message):
        with pytest.raises(DataError, match=message):
            read(content)


@pytest.fixture
def pets(tmp_path):
    for name in ("n01", "fire_truck"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "a.jpg").touch()
    return tmp_path / "pets"


def test_folders_of_other_names_are_classes_where_a_file_says_so(pets):
    folder = read_labelled(pets, ("fire truck", "Tench"), {"n01": "tench"})
    assert folder.classes == ("fire truck", "Tench")
    assert folder.names == ("fire_truck/a.jpg", "n01/a.jpg") and folder.labels.tolist() == [0, 1]


def test_folders_of_a_model_may_be_named_by_a_file(pets):
    folder = read_labelled(pets, given={"n01": "tench"}).labelled_as(("tench", "cat", "Fire-Truck"))
    assert folder.labels.tolist() == [2, 0]


def test_a_class_without_a_folder_says_how_a_file_can_name_one(pets):
    with pytest.raises(DataError, match=r"no folder for class 'tench'; it has .*lines of folder<TAB>name"):
        read_labelled(pets, ("tench", "fire truck"))


@pytest.mark.skipif(
    not (REPORTS / "folders").is_dir(), reason="shared/data/reports is not beside the checkout"
)
class TestReports:
    def test_underscores(self):
        listed = read_class_list(REPORTS / "classes" / "us.txt")
        assert read_labelled(REPORTS / "folders" / "underscore", listed.names).classes == (
            "fire truck",
            "dog",
        )

    def test_imagenet(self):
        given = {"n01440764": "tench", "n01443537": "goldfish"}
        folder = read_labelled(REPORTS / "folders" / "wnid", ("tench", "goldfish"), given)
        assert set(folder.labels.tolist()) == {0, 1}

    def test_splits(self):
        with pytest.raises(DataError, match="holds splits"):
            read_labelled(REPORTS / "folders" / "split")
