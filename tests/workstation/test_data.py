"""Image folders are read in a fixed order, known by their contents, and split fairly."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgems_edge.errors import DataError
from tgems_edge.model_file.digests import beginnings, join_beginnings
from tgems_edge.sources.data import read_labelled, read_unlabelled, refuse_shared
from tgems_export.splits import deal, split


@pytest.fixture
def pets(tmp_path, make_folder):
    return make_folder(tmp_path / "pets", {"dog": 2, "cat": 3})


def test_classes_are_the_folders_sorted(pets):
    folder = read_labelled(pets)
    assert folder.classes == ("cat", "dog")
    assert folder.labels.tolist() == [0, 0, 0, 1, 1]
    assert folder.names == ("cat/00.png", "cat/01.png", "cat/02.png", "dog/00.png", "dog/01.png")
    assert folder.path(3) == pets / "dog" / "00.png"


def test_pictures_may_be_nested_in_their_class(pets):
    (pets / "cat" / "more" / "deep").mkdir(parents=True)
    (pets / "cat" / "00.png").rename(pets / "cat" / "more" / "deep" / "x.JPEG")
    assert "cat/more/deep/x.JPEG" in read_labelled(pets).names


@pytest.mark.parametrize(
    "name",
    [".hidden.png", "notes.txt", "Thumbs.db", "noending", ".DS_Store", ".thumbnails/00.png", ".git/a/00.png"],
)
@pytest.mark.parametrize("read", [read_labelled, read_unlabelled])
def test_hidden_files_and_other_files_do_not_count(pets, read, name):
    before = read(pets)
    added = pets / "cat" / name
    added.parent.mkdir(parents=True, exist_ok=True)
    added.write_bytes((pets / "cat" / "00.png").read_bytes())
    assert read(pets).names == before.names


def test_a_hidden_folder_is_no_class(pets):
    (pets / ".git").mkdir()
    assert read_labelled(pets).classes == ("cat", "dog")


def test_files_beside_the_class_folders_do_not_count(pets):
    (pets / "readme.png").write_bytes(b"")
    assert len(read_labelled(pets).names) == 5


def test_classes_can_be_chosen_and_ordered(pets, make_folder):
    make_folder(pets, {"fox": 1})
    folder = read_labelled(pets, ("fox", "cat"))
    assert folder.classes == ("fox", "cat")
    assert {
        folder.classes[label] for label, n in zip(folder.labels, folder.names, strict=True) if "fox" in n
    } == {"fox"}
    assert len(folder.names) == 4


def test_unlabelled_pictures_are_all_pictures(pets):
    folder = read_unlabelled(pets)
    assert len(folder.names) == 5 and folder.classes == ()
    assert set(folder.labels) == {-1}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"cat": 3}, "1 class folder; expected at least two, as in .*dog/1.jpg"),
        ({}, "0 class folder; expected at least two"),
        ({"cat": 3, "dog": 0}, "dog: no pictures in this class"),
    ],
)
def test_folders_without_a_choice_are_refused(tmp_path, make_folder, counts, message):
    (tmp_path / "pets").mkdir()
    with pytest.raises(DataError, match=message):
        read_labelled(make_folder(tmp_path / "pets", counts))


def test_a_class_without_a_folder_is_named_beside_those_there_are(pets):
    with pytest.raises(DataError, match="no folder for class 'cow'; it has cat, dog"):
        read_labelled(pets, ("cat", "cow"))


@pytest.mark.parametrize("read", [read_labelled, read_unlabelled])
def test_what_is_no_folder_is_refused(pets, read):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        read(pets / "nowhere")
    with pytest.raises(DataError, match="not a folder"):
        read(pets / "cat" / "00.png")


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match="no pictures in this folder"):
        read_unlabelled(tmp_path)


def test_fingerprint_is_of_contents_and_not_of_dates_or_places(pets, tmp_path):
    before = read_labelled(pets).sha256
    for path in pets.rglob("*.png"):
        os.utime(path, (1, 1))
    moved = pets.rename(tmp_path / "moved")
    assert read_labelled(moved).sha256 == before


def test_fingerprint_changes_with_a_picture_and_with_its_name(pets):
    original = read_labelled(pets).sha256
    picture = pets / "cat" / "00.png"
    picture.write_bytes((pets / "dog" / "00.png").read_bytes())
    changed = read_labelled(pets).sha256
    picture.rename(pets / "cat" / "99.png")
    assert len({original, changed, read_labelled(pets).sha256}) == 3


def test_the_same_pictures_are_the_same_data_whatever_the_order_of_the_classes(pets):
    one, other = read_labelled(pets, ("cat", "dog")), read_labelled(pets, ("dog", "cat"))
    assert one.sha256 == other.sha256
    assert one.names == other.names
    assert one.labels.tolist() == (1 - other.labels).tolist()


labels = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)
fractions = st.floats(0.05, 0.5)


@given(labels, fractions, st.integers(0, 3))
def test_split_gives_every_picture_to_one_side(labels, fraction, seed):
    train, validation = split(labels, fraction, seed)
    assert sorted([*train, *validation]) == list(range(len(labels)))


@given(labels, fractions, st.integers(0, 3))
def test_split_holds_the_same_share_of_every_label_out(labels, fraction, seed):
    _, validation = split(labels, fraction, seed)
    for label in np.unique(labels):
        count = np.sum(labels == label)
        held_out = np.sum(labels[validation] == label)
        assert held_out == (0 if count == 1 else max(1, round(fraction * count)))


@given(labels, fractions, st.integers(0, 3))
def test_split_leaves_something_of_every_label_to_learn(labels, fraction, seed):
    train, _ = split(labels, fraction, seed)
    assert set(labels[train]) == set(labels)


def test_split_follows_its_seed():
    labels = np.repeat([0, 1], 50)
    one, same, other = (split(labels, 0.1, seed)[1].tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_pictures_are_dealt_evenly(make_folder, tmp_path):
    folder = read_labelled(make_folder(tmp_path / "many", {"cat": 11, "dog": 7}))
    part = deal(folder, 5)
    for label in (0, 1):
        counts = np.bincount(part[folder.labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_copies_of_a_picture_are_never_in_two_parts(pets):
    for number in range(3):
        (pets / "dog" / f"copy-{number}.png").write_bytes((pets / "dog" / "00.png").read_bytes())
    folder = read_labelled(pets)
    part = deal(folder, 2)
    copies = [digest == folder.digests[folder.names.index("dog/00.png")] for digest in folder.digests]
    assert sum(copies) == 4 and len(set(part[copies])) == 1


def test_a_class_too_small_to_deal_is_named(pets):
    with pytest.raises(DataError, match="dog: 2 different pictures, too few to split; 3 are needed"):
        deal(read_labelled(pets), 3)


@pytest.mark.parametrize("shorten", [False, True])
def test_a_shared_picture_is_found_under_another_name(pets, tmp_path, make_folder, shorten):
    others = make_folder(tmp_path / "others", {"bird": 2, "fish": 2})
    for path in others.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"drawn from the seeds of other pets")
    (others / "fish" / "renamed.png").write_bytes((pets / "cat" / "01.png").read_bytes())
    digests = read_labelled(others).digests
    known = beginnings(join_beginnings(digests)) if shorten else digests
    with pytest.raises(DataError, match=r"1 of its pictures, such as cat/01.png, are among the others"):
        refuse_shared(read_labelled(pets), known, "the others")
    (pets / "cat" / "01.png").unlink()
    refuse_shared(read_labelled(pets), known, "the others")


def test_a_list_of_digests_that_is_cut_short_is_refused(pets):
    joined = join_beginnings(read_labelled(pets).digests)
    assert len(beginnings(joined)) == 5
    with pytest.raises(ValueError, match="29 bytes"):
        beginnings(joined[:-1])
