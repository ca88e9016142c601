"""The card: what it takes, what it refuses, the seal, and what other tools read."""

import ast
import base64
import contextlib
import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgems_edge.errors import InputError, ModelFileError
from tgems_edge.model_file.card import (
    METADATA_KEY,
    SCHEMA_VERSION,
    Accuracy,
    Calibration,
    Card,
    Dynamic,
    EncoderId,
    Exit,
    ExitCalibration,
    ExitGate,
    Gate,
    Parity,
    Preprocessing,
    Quantisation,
    Sample,
    noise_pixels,
)
from tgems_edge.model_file.seal import is_sealed, seal

# Of the built-in files of earlier commits, wherever the card had other fields, and of a dynamic file.
CARDS = sorted((Path(__file__).parent / "cards").glob("*.json"))

PLACES = {
    (): Card,
    ("encoder",): EncoderId,
    ("preprocessing",): Preprocessing,
    ("parity",): Parity,
    ("accuracy",): Accuracy,
    ("calibration",): Calibration,
    ("quantisation",): Quantisation,
    ("quantisation", "gate"): Gate,
    ("dynamic",): Dynamic,
    ("exits", 0): Exit,
    ("exits", 0, "gate"): ExitGate,
    ("exits", 0, "calibration"): ExitCalibration,
    ("samples", 0): Sample,
}
COLOUR = ("preprocessing", "colour")  # left out where profiles are ignored
EVERY_FIELD = [(*place, field.name) for place, record in PLACES.items() for field in fields(record)]
REQUIRED = [
    (*place, name)
    for place, record in PLACES.items()
    for name, kind in get_type_hints(record).items()
    if type(None) not in get_args(kind)
]
NULL_ELSEWHERE = {  # these may be null, but not in `full_card`
    ("calibration",),
    ("dynamic",),
    ("quantisation",),
    ("quantisation", "ranges"),
    *(("exits", 0, name) for name in ("operations", "gate", "calibration", "name")),
}


@pytest.fixture(scope="module")
def full_card(dynamic_card):
    """A card with every optional field present."""
    return replace(
        dynamic_card,
        classes=("rouge vif", "猫", '"file_sha256"'),
        preprocessing=replace(dynamic_card.preprocessing, colour="srgb"),
        precision="int8",
        quantisation=Quantisation(
            "static", "x86", "entropy", 100, True, ("patches",), Gate(9, "ef" * 32, 0.2, 1.1)
        ),
        accuracy=Accuracy(0.5, 4, "ef" * 32, 0.1, {"0.9": 0.91}, {"0.9": 1.2}),
    )


@pytest.fixture
def data(full_card):
    return json.loads(full_card.to_json())


def place_of(data, path):
    for key in path[:-1]:
        data = data[key]
    return data


def refusal(data):
    with pytest.raises(ModelFileError) as raised:
        Card.from_json(json.dumps(data))
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_card_survives_json(full_card, colour_card):
    for card in (full_card, colour_card):
        assert Card.from_json(card.to_json()) == card


def test_equal_cards_are_equal_bytes(full_card):
    text = full_card.to_json()
    assert Card.from_json(text).to_json() == text


def test_unknown_fields_are_ignored(full_card, data):
    for path in PLACES:
        place_of(data, (*path, None))["of_the_future"] = [1, {}]
    assert Card.from_json(json.dumps(data)) == full_card


@pytest.mark.parametrize("path", REQUIRED, ids=str)
def test_a_missing_field_is_named(data, path):
    del place_of(data, path)[path[-1]]
    assert f"lacks {'.'.join(map(str, path)).replace('.0', '[0]')};" in refusal(data)


@pytest.mark.parametrize(
    "path", sorted(set(EVERY_FIELD) - {COLOUR, *REQUIRED} - NULL_ELSEWHERE, key=str), ids=str
)
def test_a_missing_field_that_may_be_null_is_null(data, path):
    del place_of(data, path)[path[-1]]
    read = json.loads(Card.from_json(json.dumps(data)).to_json())
    assert place_of(read, path).get(path[-1]) is None


def test_a_card_that_says_nothing_of_colour_profiles_ignores_them(data):
    assert data["preprocessing"].pop("colour") == "srgb"
    card = Card.from_json(json.dumps(data))
    assert card.preprocessing.colour is None and "colour" not in json.loads(card.to_json())["preprocessing"]


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_cards_of_earlier_versions_are_read_as_they_were_meant(path, as_schema_1):
    text = path.read_text("utf-8")
    card = Card.from_json(text)
    assert len(card.classes) == 10
    assert card.input == "pixels"
    written, read = json.loads(text), json.loads(card.to_json())
    assert (card.schema, read["schema"]) == (written["schema"], SCHEMA_VERSION)
    same = written.keys() & read.keys() - {"accuracy", "calibration", "dynamic", "schema"}
    assert len(same) >= 11
    assert {key: read[key] for key in same} == {key: written[key] for key in same}
    assert (read["accuracy"] or {}).items() >= (written["accuracy"] or {}).items()
    if written["schema"] == SCHEMA_VERSION:
        assert read == written
    else:
        meant, written["accuracy"] = as_schema_1(card), read["accuracy"]
        if written.get("dynamic"):
            assert written["dynamic"].pop("operations") == pytest.approx(meant["dynamic"].pop("operations"))
        assert meant.items() >= {"head_kind": "tgem", **written}.items()


def test_earlier_cards_are_of_every_schema_version():
    schemas = {json.loads(path.read_text("utf-8"))["schema"] for path in CARDS}
    assert schemas == set(range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize(
    "path", [("calibration",), ("exits", 0, "calibration"), ("exits", 1, "calibration")], ids=str
)
def test_half_a_calibration_is_refused(data, path):
    place_of(data, path)[path[-1]] = None
    assert "half a calibration" in refusal(data)


@pytest.mark.parametrize(
    "digests", ["", "AAAAAAAA", "no base64", "é" * 8, base64.b64encode(bytes(6 * 201)).decode()]
)
def test_digests_that_are_not_one_a_picture_are_refused(data, digests):
    data["calibration"]["digests"] = digests
    assert "digests that are cut short" in refusal(data)


@pytest.mark.parametrize("table", ["conformal", "conformal_adaptive", "rejection"])
@pytest.mark.parametrize("level", ["", "most", "nan", "0", "1", "-0.5", "90", "0.90", "0.999"])
def test_a_level_that_no_calibration_gives_is_refused(data, table, level):
    data["calibration"][table][level] = 0.5
    assert "a level that its calibration cannot give" in refusal(data)


def test_calibration_pictures_are_named_by_the_beginnings_of_their_digests():
    digests = [hashlib.sha256(bytes([i])).digest() for i in range(20)]
    calibration = Calibration.of(digests, {}, {}, {})
    assert calibration.images == 20
    assert sorted(calibration.beginnings()) == sorted(digest[:6] for digest in digests)
    assert calibration.is_whole()


def test_the_order_of_calibration_pictures_does_not_matter():
    digests = [hashlib.sha256(bytes([i])).digest() for i in range(20)]
    assert Calibration.of(digests, {}, {}, {}) == Calibration.of(digests[::-1], {}, {}, {})


def test_bounds_are_looked_up_by_level(calibrated_card):
    assert calibrated_card.coverages("threshold") == [0.8, 0.9, 0.95, 0.99]
    assert calibrated_card.set_bound(0.9, "threshold") == 0.6
    assert calibrated_card.set_bound(0.9, "adaptive") == 0.4
    assert calibrated_card.rejection_bound(0.05) == -0.25


@pytest.mark.parametrize("level", [0.85, 0, 1, 90, float("nan"), float("inf")])
def test_a_level_the_file_does_not_have_lists_those_it_has(calibrated_card, level):
    with pytest.raises(InputError, match=r"^coverage .*: the file has 0\.8, 0\.9, 0\.95, 0\.99; choose one"):
        calibrated_card.set_bound(level, "threshold")
    with pytest.raises(InputError, match=r"^reject .*: the file has 0\.01, 0\.05, 0\.1, 0\.2; choose one"):
        calibrated_card.rejection_bound(level)


def test_without_calibration_there_is_nothing_to_look_up(colour_card):
    assert colour_card.coverages("threshold") == []
    with pytest.raises(InputError, match="no label sets; export it with"):
        colour_card.set_bound(0.9, "threshold")
    with pytest.raises(InputError, match="no `unknown`; export it with"):
        colour_card.rejection_bound(0.05)


def test_a_static_file_has_one_exit_and_counts_rates_from_zero(calibrated_card):
    assert calibrated_card.exit_layers == (4,)
    assert calibrated_card.surprise(4) == 0


def test_a_dynamic_file_counts_the_rates_of_each_exit_from_its_own(dynamic_card):
    assert dynamic_card.exit_layers == (2, 5)
    assert [dynamic_card.surprise(layer) for layer in (2, 5)] == [-0.9, 4.0]
    with pytest.raises(KeyError):
        dynamic_card.surprise(4)


@pytest.mark.parametrize("path", EVERY_FIELD, ids=str)
def test_a_field_of_another_type_is_named(data, path):
    place_of(data, path)[path[-1]] = [[]]
    assert path[-1] in refusal(data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("exits", 0, "layer"), True),
        (("exits", 0, "layer"), 5.0),
        (("exits", 0, "k"), "128"),
        (("classes",), "cat"),
        (("classes",), None),
        (("exits", 0, "pool"), "max"),
        (("exits", 0, "head_kind"), None),
        (("exits", 0, "calibration", "temperature"), "1"),
        (("calibration", "conformal"), {"0.9": None}),
        (("versions",), {"torch": 2}),
        (("preprocessing", "size"), [32]),
        (("preprocessing", "size"), [32, 32, 3]),
        (("preprocessing", "resize_mode"), "Shortest"),
        (("samples", 0, "rates"), [0.5, None, 1]),
    ],
    ids=str,
)
def test_a_nearly_right_value_is_refused(data, path, value):
    place_of(data, path)[path[-1]] = value
    assert path[-1] in refusal(data)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("classes",), ["cat"], "fewer than two classes"),
        (("classes",), ["cat", "dog", "cat"], "duplicate classes"),
        (("exits", 1, "k"), 0, "below 1"),
        (("exits", 0, "layer"), 0, "below 1"),
        (("preprocessing", "size"), [0, 32], "empty input size"),
        (("exits", 1, "calibration", "temperature"), 0, "not positive"),
        (("input",), "image", "a resizing that its input does not imply"),
        (("samples", 0, "rates"), [1, 2], "another class count"),
        (("file_sha256",), "AB" * 32, "a file_sha256 that is none"),
        (("file_sha256",), "\ud800", "a file_sha256 that is none"),
    ],
)
def test_an_impossible_value_is_refused(data, path, value, reason):
    place_of(data, path)[path[-1]] = value
    assert reason in refusal(data)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("precision",), "fp32", "a quantisation its precision denies"),
        (("quantisation",), None, "a quantisation its precision denies"),
        (("quantisation", "ranges"), None, "ranges that its scheme does not imply"),
        (("quantisation", "scheme"), "dynamic", "ranges that its scheme does not imply"),
        (("quantisation", "gate", "images"), 0, "a gate that was measured on no pictures"),
    ],
    ids=str,
)
def test_an_impossible_quantisation_is_refused(data, path, value, reason):
    place_of(data, path)[path[-1]] = value
    assert reason in refusal(data)


EARLY, LATE = ("exits", 0), ("exits", 1)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("exits",), [], "no exit"),
        (("dynamic",), None, "a choice of exits that their number denies"),
        (("dynamic", "full_operations"), 0, "a full tower without operations"),
        ((*EARLY, "layer"), 5, "exits that are not in their order"),
        ((*EARLY, "layer"), 0, "an exit with a layer or a K below 1"),
        ((*EARLY, "operations"), 0, "exits that do not cost more than those before"),
        ((*LATE, "operations"), 10_000_000, "exits that do not cost more than those before"),
        ((*EARLY, "operations"), None, "several exits, one of which does not say its operations"),
        ((*EARLY, "k"), 0, "an exit with a layer or a K below 1"),
        ((*EARLY, "calibration", "temperature"), 0, "an exit with a temperature that is not positive"),
        ((*EARLY, "gate"), None, "an exit before the last without a gate"),
        ((*LATE, "gate"), {"weights": [1, 1, 1], "bias": 0, "threshold": 1}, "a gate at its last exit"),
        ((*EARLY, "gate", "threshold"), -0.01, "a threshold outside 0 to 1"),
        ((*EARLY, "gate", "threshold"), 1.01, "a threshold outside 0 to 1"),
        ((*EARLY, "calibration", "share"), 0.74, "shares of its exits that do not add up to 1"),
    ],
    ids=str,
)
def test_impossible_exits_are_refused(data, path, value, reason):
    place_of(data, path)[path[-1]] = value
    assert reason in refusal(data)


def test_negative_shares_of_exits_are_refused(data):
    for exit, share in zip(data["exits"], (1.5, -0.5), strict=True):
        exit["calibration"]["share"] = share
    assert "shares of its exits that do not add up to 1" in refusal(data)


def test_one_exit_is_no_choice(data):
    del data["exits"][0]
    data["exits"][0]["calibration"]["share"] = 1
    assert "a choice of exits that their number denies" in refusal(data)


def test_several_exits_need_calibration(data):
    data["calibration"] = None
    for exit in data["exits"]:
        exit["calibration"] = None
    assert "several exits, but no calibration" in refusal(data)


@pytest.mark.parametrize("threshold", [0, 1])
def test_a_gate_may_let_everything_leave_or_nothing(data, threshold):
    data["exits"][0]["gate"]["threshold"] = threshold
    Card.from_json(json.dumps(data))


def test_ranges_found_at_run_time_have_no_cut(data):
    data["quantisation"].update(scheme="dynamic", ranges=None)
    Card.from_json(json.dumps(data))


def test_a_newer_schema_says_to_upgrade(data):
    message = refusal({"schema": SCHEMA_VERSION + 1, "everything": "else is different"})
    assert f"schema {SCHEMA_VERSION + 1}" in message
    assert "pip install --upgrade tgems-edge" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_refused(data, value):
    data["exits"][0]["calibration"]["temperature"] = value
    assert "not valid JSON" in refusal(data)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e999"])
def test_a_number_out_of_range_is_refused(data, number):
    data["exits"][0]["calibration"]["temperature"] = 12345
    with pytest.raises(ModelFileError):
        Card.from_json(json.dumps(data).replace("12345", number))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"card"', "{}", "[" * 100_000, "1" * 5000])
def test_json_that_is_no_card_is_refused(text):
    with pytest.raises(ModelFileError):
        Card.from_json(text)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.text() | ANY_JSON.map(json.dumps))
def test_any_text_that_is_no_card_is_refused(text):
    with pytest.raises(ModelFileError):
        Card.from_json(text)


@given(st.sampled_from(EVERY_FIELD), ANY_JSON)
def test_any_value_in_any_field_is_accepted_or_refused(full_card, path, value):
    data = json.loads(full_card.to_json())
    place_of(data, path)[path[-1]] = value
    with contextlib.suppress(ModelFileError):
        assert isinstance(Card.from_json(json.dumps(data)), Card)


def unsealed_file(card):
    return b"\x08\x08weights" + card.to_json().encode() + b"\x12tail"


def test_a_sealed_file_states_the_hash_of_the_unsealed_one(full_card):
    unsealed = unsealed_file(full_card)
    sealed = seal(unsealed)
    assert sealed == unsealed_file(replace(full_card, file_sha256=hashlib.sha256(unsealed).hexdigest()))
    assert is_sealed(sealed)
    assert not is_sealed(unsealed)


def test_a_changed_byte_breaks_the_seal(full_card):
    sealed = seal(unsealed_file(full_card))
    for at in range(len(sealed)):
        assert not is_sealed(sealed[:at] + bytes([sealed[at] ^ 1 << at % 8]) + sealed[at + 1 :])


@pytest.mark.parametrize("chunk", [1, 50, 80, 81, 82, 100, 1 << 20])
def test_a_seal_may_lie_across_the_parts_that_a_file_is_read_in(full_card, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("tgems_edge.model_file.seal._CHUNK", chunk)
    path = tmp_path / "model.onnx"
    path.write_bytes(seal(unsealed_file(full_card)))
    assert is_sealed(path)


def test_two_seals_are_none(full_card):
    sealed = seal(unsealed_file(full_card))
    assert not is_sealed(sealed + sealed)
    assert not is_sealed(b"")


def test_only_a_file_with_one_unsealed_card_can_be_sealed(full_card):
    unsealed = unsealed_file(full_card)
    for file in (b"", seal(unsealed), unsealed + unsealed):
        with pytest.raises(ValueError, match="exactly one unsealed card"):
            seal(file)


def test_noise_is_shake_256_row_by_row():
    # the first 30 bytes of SHAKE-256 of nothing, as published with the standard
    expected = "46b9dd2b0ba88d13233b3feb743eeb243fcd52ea62b81b82b50c27646ed5"
    pixels = noise_pixels("", (2, 5))
    assert pixels.shape == (2, 5, 3)
    assert pixels.tobytes().hex() == expected


def test_noise_of_a_sample_seed_is_golden():
    assert noise_pixels("tgems-edge 1", (1, 4)).tobytes().hex() == "b1dba159b047c9332d099dbc"


def test_other_tools_can_read_names_and_size(full_card):
    metadata = full_card.metadata("2026-01-02")
    assert ast.literal_eval(metadata["names"]) == dict(enumerate(full_card.classes))
    assert ast.literal_eval(metadata["imgsz"]) == list(full_card.preprocessing.size)
    assert metadata["task"] == "classify"
    assert metadata["date"] == "2026-01-02"
    assert {"description", "author", "version", "license"} < metadata.keys()
    assert all(isinstance(text, str) for text in metadata.values())


def test_the_card_itself_is_in_the_metadata(full_card):
    assert Card.from_json(full_card.metadata("2026-01-02")[METADATA_KEY]) == full_card


def test_the_description_names_exits_and_precision(colour_card, full_card):
    half = replace(colour_card, precision="fp16")
    described = [card.metadata("2026-01-02")["description"] for card in (colour_card, half, full_card)]
    assert described == [
        "3 classes, exit 4 of colours",
        "3 classes, exit 4 of colours, fp16",
        "3 classes, exits 2, 5 of colours, int8",
    ]
