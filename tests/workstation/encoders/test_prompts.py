"""Templates and class files are read strictly; what CLIP would cut off or mix up is refused."""

from dataclasses import replace

import pytest
import torch

from tgems_edge.errors import DataError
from tgems_export.encoders.prompts import (
    DEFAULT,
    class_embeddings,
    encode_prompts,
    load_templates,
    read_class_file,
)

UNIT = {"rtol": 0, "atol": 1e-5}


def with_tokenizer(encoder, tokenize):
    return replace(encoder, text=replace(encoder.text, tokenize=tokenize))


@pytest.fixture
def write(tmp_path):
    """write(content): a file with that text or those bytes."""

    def write(content):
        path = tmp_path / "lines.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("name", "train", "held_out"), [("default", 16, 4), ("simple", 1, 0), ("openai", 64, 16)]
)
def test_named_sets_hold_every_fifth_template_out(name, train, held_out):
    templates = load_templates(name)
    assert (len(templates.train), len(templates.held_out)) == (train, held_out)
    assert all(template.count("{}") == 1 for template in templates.train + templates.held_out)


def test_held_out_templates_are_the_fifth_the_tenth_and_so_on():
    assert load_templates().held_out == (DEFAULT[4], DEFAULT[9], DEFAULT[14], DEFAULT[19])


def test_templates_come_from_a_file(write):
    templates = load_templates(str(write("\ufeffa {}\n\n  the {} \nmy {}\none {}\ntwo {}\nsome {}\n")))
    assert templates.train == ("a {}", "the {}", "my {}", "one {}", "some {}")
    assert templates.held_out == ("two {}",)


def test_a_repeated_template_counts_once(write):
    templates = load_templates(str(write("a {}\n" * 5)))
    assert (templates.train, templates.held_out) == (("a {}",), ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a photo of a cat", "must hold {} exactly once"),
        ("a {} and a {}", "must hold {} exactly once"),
        ("a {}\nnothing", "'nothing' must hold"),
        ("", "holds no templates"),
        (" \n\n", "holds no templates"),
        ("a {} caf\u00e9".encode("latin-1"), "not a text file in UTF-8"),
    ],
)
def test_bad_templates_are_refused(write, content, message):
    with pytest.raises(DataError, match=message):
        load_templates(str(write(content)))


def test_an_unknown_set_names_the_known_ones():
    with pytest.raises(DataError, match="no such file; give a file of templates, or one of default, simple"):
        load_templates("defualt")


def test_class_files_may_have_comments_blank_lines_and_a_byte_order_mark(write):
    assert read_class_file(write("\ufeff# pets\ncat\r\n\n  fire truck \nC++\n")).names == (
        "cat",
        "fire truck",
        "C++",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat\ncat", "duplicate class names 'cat' and 'cat'"),
        ("cat\nCat", "duplicate class names 'cat' and 'Cat'"),
        ("fire truck\nfire_truck", "duplicate class names 'fire truck' and 'fire_truck'"),
        ("caf\u00e9\ncafe\u0301", "duplicate class names"),
        ("cat", "1 class; a choice needs at least two"),
        ("# cat\n# dog", "0 class; a choice needs at least two"),
        ("cat\n?!", "class name '\\?!' says nothing"),
        ("cat\n___", "class name '___' says nothing"),
        ("", "holds no class names"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
    ],
)
def test_bad_class_files_are_refused(write, content, message):
    with pytest.raises(DataError, match=message):
        read_class_file(write(content))


def test_a_missing_class_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt: no such file"):
        read_class_file(tmp_path / "nowhere.txt")


def test_names_may_fill_the_context_to_the_last_token(encoder):
    longest = " ".join(["cat"] * (encoder.text.context_length - 2))  # a start and an end go around it
    embeddings = encode_prompts(encoder, [longest, longest[:-4]], ["{}"])
    assert not torch.allclose(embeddings[0], embeddings[1])


@pytest.mark.parametrize("words", [15, 16, 200])
def test_names_that_the_text_tower_would_cut_off_are_refused_by_name(encoder, words):
    too_long = " ".join(["dog"] * words)
    with pytest.raises(DataError, match=f"class name '{too_long}' is too long: .* shorten the name"):
        encode_prompts(encoder, ["cat", too_long], ["{}"])


def test_padding_may_have_another_number_than_zero(encoder):
    """Tokenize as the multilingual models do."""

    def tokenize(prompts, **options):
        tokens = encoder.text.tokenize(prompts, **options)
        return tokens.where(tokens != 0, 1)

    embeddings = encode_prompts(with_tokenizer(encoder, tokenize), ["cat", "dog"], ["a {}."])
    assert embeddings.shape == (2, 1, encoder.embedding_width)


def test_a_long_template_takes_room_from_the_names(encoder):
    with pytest.raises(DataError, match=r"the prompt 'one two .* cat' has more tokens than vit-demo reads"):
        encode_prompts(
            encoder, ["cat"], ["one two three four five six seven eight nine ten one two three four {}"]
        )


def test_every_name_is_said_in_every_template_as_it_is_spoken(encoder):
    said = []

    def tokenize(prompts, **options):
        said.append(prompts)
        return encoder.text.tokenize(prompts, **options)

    encode_prompts(with_tokenizer(encoder, tokenize), ["fire_truck", "a{0}b", "{}"], ["a {}", "the {}."])
    prompts = ["a fire truck", "the fire truck.", "a a{0}b", "the a{0}b.", "a {}", "the {}."]
    assert said[-1] == prompts  # those that are embedded, after their length was checked


def test_embeddings_are_classes_by_templates_and_of_length_one(encoder):
    classes, templates = ["cat", "caf\u00e9", "\u732b", "\U0001f408 sat"], ["a {}", "the {}."]
    embeddings = encode_prompts(encoder, classes, templates)
    assert embeddings.shape == (4, 2, encoder.embedding_width)
    torch.testing.assert_close(embeddings.norm(dim=2), torch.ones(4, 2), **UNIT)
    torch.testing.assert_close(embeddings[1, 1], encoder.text.encode(["the caf\u00e9."])[0])


def test_class_embeddings_are_the_mean_prompt_at_length_one():
    prompts = torch.nn.functional.normalize(torch.randn(3, 5, 8), dim=-1)
    embeddings = class_embeddings(prompts)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3), **UNIT)
    cosines = torch.nn.functional.cosine_similarity(embeddings, prompts.sum(1))
    torch.testing.assert_close(cosines, torch.ones(3), **UNIT)
