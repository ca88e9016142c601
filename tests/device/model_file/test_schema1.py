"""Cards of schema 1: read as what they meant, and refused where they contradicted themselves."""

import json
from dataclasses import replace

import pytest

from tgems_edge.errors import ModelFileError
from tgems_edge.model_file.card import Card
from tgems_edge.runtime.classifier import load

CALIBRATION = ("temperature", "conformal", "conformal_adaptive", "rejection", "calibration")
EARLY, LATE = ("dynamic", "exits", 0), ("dynamic", "exits", 1)


@pytest.fixture
def data(dynamic_card, as_schema_1):
    return as_schema_1(dynamic_card)


def place_of(data, path):
    for key in path[:-1]:
        data = data[key]
    return data


def read(data):
    return Card.from_json(json.dumps(data))


def refusal(data):
    with pytest.raises(ModelFileError) as raised:
        read(data)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", ["colour_card", "calibrated_card", "dynamic_card"])
def test_a_card_is_the_same_in_both_schemas(request, as_schema_1, name):
    card = request.getfixturevalue(name)
    assert as_schema_1(card).keys() >= {"layer", "k", "pool", "temperature", "head_kind", *CALIBRATION}
    single = [replace(exit, operations=None) for exit in card.exits] if len(card.exits) == 1 else card.exits
    assert read(as_schema_1(card)) == replace(card, schema=1, exits=tuple(single))


def test_what_is_written_is_the_newest_schema(data, dynamic_card):
    assert read(data).to_json() == dynamic_card.to_json()


def test_a_card_without_a_kind_of_head_has_t_gems(data):
    data["head_kind"] = None
    assert {exit.head_kind for exit in read(data).exits} == {"tgem"}
    data["head_kind"] = "ssa"
    assert {exit.head_kind for exit in read(data).exits} == {"ssa"}


def test_a_card_that_does_not_say_its_input_takes_pixels(data):
    del data["input"]
    assert read(data).input == "pixels"


@pytest.mark.parametrize("field", ["layer", "k", "pool", "encoder", "samples", "file_sha256"])
def test_a_missing_field_is_named(data, field):
    del data[field]
    assert f"lacks {field};" in refusal(data)


@pytest.mark.parametrize("name", CALIBRATION)
def test_half_a_calibration_is_refused(data, name):
    data[name] = None
    assert "half a calibration" in refusal(data)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("dynamic", "exits"), [], "fewer than two exits"),
        ((*EARLY, "layer"), 5, "exits that are not in their order"),
        ((*EARLY, "layer"), 0, "below 1"),
        ((*EARLY, "operations"), 0, "exits that do not cost more than those before"),
        ((*LATE, "operations"), 10_000_000, "exits that do not cost more than those before"),
        ((*EARLY, "k"), 0, "below 1"),
        ((*EARLY, "temperature"), 0, "an exit with a temperature that is not positive"),
        ((*EARLY, "weights"), None, "an exit before the last without a whole gate"),
        ((*EARLY, "bias"), None, "an exit before the last without a whole gate"),
        ((*EARLY, "threshold"), None, "an exit before the last without a whole gate"),
        ((*LATE, "weights"), [1, 1, 1], "a gate at its last exit"),
        ((*LATE, "bias"), 0, "a gate at its last exit"),
        ((*LATE, "threshold"), 0.5, "a gate at its last exit"),
        ((*EARLY, "threshold"), -0.01, "a threshold outside 0 to 1"),
        ((*EARLY, "threshold"), 1.01, "a threshold outside 0 to 1"),
        ((*EARLY, "share"), 0.74, "shares of its exits that do not add up to 1"),
        ((*LATE, "layer"), 6, "that is not its last exit's"),
        ((*LATE, "k"), 3, "that is not its last exit's"),
        ((*LATE, "pool"), "mean", "that is not its last exit's"),
        ((*LATE, "temperature"), 7, "that is not its last exit's"),
        (("layer",), 2, "that is not its last exit's"),
        (("dynamic", "operations"), 0, "operations that are not positive"),
        (("dynamic", "operations"), 1e-300, "operations that are not possible"),
        (("k",), True, "k is not of type int"),
        (("temperature",), "8", "temperature is not of type float"),
    ],
    ids=str,
)
def test_a_card_that_contradicts_itself_is_refused(data, path, value, reason):
    place_of(data, path)[path[-1]] = value
    assert reason in refusal(data)


def test_several_exits_need_calibration(data):
    data.update(dict.fromkeys(CALIBRATION))
    assert "several exits, but no calibration" in refusal(data)


def test_a_file_of_schema_1_answers_as_one_of_schema_2(dynamic_model, data, draw):
    pictures = [draw(seed, 40, 30) for seed in range(4)]
    new = load(dynamic_model())
    old = load(dynamic_model(json.dumps(data), name="old.onnx"), verify=False)
    for one, other in zip(new.classify_batch(pictures), old.classify_batch(pictures), strict=True):
        assert one.answers.rows() == other.answers.rows()
        assert one.is_unknown() == other.is_unknown() and one.label_set() == other.label_set()
