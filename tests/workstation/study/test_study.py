"""Evaluators of a study give known answers, and interrupted work goes on."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tgems_edge.errors import DataError, InputError
from tgems_edge.progress import Reporter
from tgems_edge.sources.data import read_labelled
from tgems_export.encoders.encoder import load_encoder
from tgems_export.encoders.prompts import load_templates
from tgems_export.exporting.graph.costs import count_exit, count_full
from tgems_export.study.material import Folders, gather
from tgems_export.study.measures import measure_answers, measure_certainty, right_answers
from tgems_export.study.plan import FEW_SHOT_RIVALS, Plan, ablation_tasks, ablations, layer_tasks
from tgems_export.study.rivals import RIVALS, measure_rivals, measure_sampling, measure_zero_shot, sampling
from tgems_export.study.run import run
from tgems_export.study.subject import Subject
from tgems_export.study.variations import measure_head, training_members

PLAN = Plan(k=16, epochs=4, seeds=2, layer=2)
QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def cache(shared_cache, monkeypatch):
    """One cache for all of these tests, which run the same encoder over the same pictures."""
    monkeypatch.setenv("TGEMS_CACHE_DIR", shared_cache)


@pytest.fixture(scope="module")
def material(encoder, many_figures, shared_cache):
    """Many figures, split; cut down to two layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TGEMS_CACHE_DIR", shared_cache)
        found, digests = gather(encoder, Folders(many_figures), load_templates(), QUIET)
    assert digests == {"training": read_labelled(many_figures).sha256}
    return replace(found, layers=2)


class TestMaterial:
    def test_a_picture_has_one_purpose(self, material):
        purposes = [material.training, material.calibration, material.evaluation]
        assert sorted(np.concatenate([p.rows for p in purposes])) == list(range(510))
        assert [len(p.rows) for p in purposes] == [306, 102, 102]
        for pictures in purposes:
            assert np.bincount(pictures.labels).tolist() == [len(pictures.rows) // 3] * 3
            assert len(pictures.activations(1, "cls")) == len(pictures.embeddings()) == len(pictures.rows)

    def test_activations_belong_to_their_labels(self, material, encoder, many_figures):
        folder = read_labelled(many_figures)
        chosen = material.evaluation.rows[:5]
        assert folder.labels[chosen].tolist() == material.evaluation.labels[:5].tolist()

    def test_one_of_two_folders_is_refused(self, encoder, many_figures, fresh_figures):
        with pytest.raises(DataError, match="both --calibration and --evaluation, or neither"):
            gather(encoder, Folders(many_figures, calibration=fresh_figures), load_templates(), QUIET)

    def test_a_picture_in_two_folders_is_refused(self, encoder, many_figures, fresh_figures, tmp_path):
        both = shutil.copytree(fresh_figures, tmp_path / "both")
        shutil.copy(many_figures / "red_circle" / "00.jpg", both / "red_circle" / "other.jpg")
        with pytest.raises(DataError, match=r"1 of its pictures, such as red_circle/other.jpg, are among"):
            gather(encoder, Folders(many_figures, fresh_figures, both), load_templates(), QUIET)

    def test_another_class_is_refused(self, encoder, many_figures, fresh_figures, tmp_path, make_folder):
        pets = make_folder(tmp_path / "pets", {"cat": 2, "dog": 2})
        with pytest.raises(DataError, match="folder 'cat' is not among the classes of"):
            gather(encoder, Folders(many_figures, fresh_figures, pets), load_templates(), QUIET)

    def test_a_class_without_pictures_names_the_folder(self, encoder, many_figures, fresh_figures, tmp_path):
        lacking = shutil.copytree(fresh_figures, tmp_path / "lacking")
        shutil.rmtree(lacking / "red_circle")
        other = tmp_path / "other"
        for name in ("blue_cross", "green_square", "red_circle"):
            (other / name).mkdir(parents=True)
            data = (fresh_figures / name / "00.jpg").read_bytes()
            (other / name / "a.jpg").write_bytes(data + b"another file")
        with pytest.raises(DataError, match="lacking: no picture of class 'red_circle' for calibration"):
            gather(encoder, Folders(many_figures, lacking, other), load_templates(), QUIET)

    def test_new_names_have_to_be_new(self, encoder, many_figures, fresh_figures):
        with pytest.raises(DataError, match="duplicate class names"):
            gather(encoder, Folders(many_figures, new_names=fresh_figures), load_templates(), QUIET)

    def test_too_few_pictures_are_refused_with_the_number_needed(self, encoder, fresh_figures, tmp_path):
        with pytest.raises(DataError, match="42 pictures to calibrate on, and 99 are needed"):
            gather(encoder, Folders(fresh_figures), load_templates(), QUIET)
        small = shutil.copytree(fresh_figures, tmp_path / "small")
        for path in sorted((small / "red_circle").iterdir())[3:]:
            path.unlink()
        with pytest.raises(DataError, match="red_circle: 3 different pictures, too few to split; 5 are"):
            gather(encoder, Folders(small), load_templates(), QUIET)


class TestMeasures:
    RATES = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2], [0.2, 0.3, 0.1], [0.1, 0.2, 0.3]])

    def test_answers_are_counted(self):
        found = dict(measure_answers(self.RATES, np.array([0, 2, 1, 2])))
        right = found.pop("right")
        assert found == {"top1": 0.25, "top2": 0.5, "top3": 1.0}
        assert right_answers(right, 4).tolist() == [True, False, False, False]

    def test_a_perfect_detector_and_a_blind_one(self):
        rng = np.random.RandomState(0)
        known = rng.standard_normal((3000, 3))
        labels = known.argmin(1)
        unknown = {"far": known + 10, "alike": rng.standard_normal((3000, 3))}
        found = dict(measure_certainty(known, labels, known, labels, unknown, 8))
        assert found["surprisal auroc far"] == 1 and found["surprisal fpr95 far"] == 0
        assert found["surprisal auroc alike"] == pytest.approx(0.5, abs=0.05)
        assert found["surprisal fpr95 alike"] == pytest.approx(0.95, abs=0.03)
        assert found["rejected 0.05 far"] == 1 and found["rejected 0.05 known"] <= 0.05
        assert found["doubt auroc far"] == pytest.approx(0.5, abs=0.01)  # the posterior sees differences only

    def test_sets_and_temperature_are_measured_on_other_pictures(self):
        rng = np.random.RandomState(1)
        rates, labels = rng.standard_normal((400, 4)), rng.randint(0, 4, 400)
        found = dict(measure_certainty(rates[:200], labels[:200], rates[200:], labels[200:], {}, 8))
        for coverage in (0.8, 0.9, 0.95, 0.99):
            for method in ("threshold", "adaptive"):
                assert found[f"{method} {coverage} coverage"] == pytest.approx(coverage, abs=0.08)
        assert len(found["adaptive 0.9 by class"]) == 4
        assert found["calibration error after"] < found["calibration error before"]
        assert sum(count for count, _, _ in found["reliability after"]) == 200


class TestHeads:
    def test_a_head_is_measured_from_all_sides(self, material):
        found = dict(measure_head(material, PLAN.head(1, "mean", 0)))
        assert found["top1"] > 0.8 and found["top3"] == 1
        assert abs(found["held-out templates"] - found["top1"]) < 0.2
        assert sum(found["answers"]) == 102 and found["warnings"] == []
        assert 1 <= found["rank"] <= 16 and 0.11 <= found["sigma least"] <= found["sigma most"] <= 10
        assert right_answers(found["right"], 102).mean() == pytest.approx(found["top1"])
        assert "new names" not in found

    def test_equal_heads_have_equal_figures_and_seeds_differ(self, material):
        one, again, other = (dict(measure_head(material, PLAN.head(1, "cls", seed))) for seed in (0, 0, 1))
        assert one == again != other

    def test_without_a_jumper_every_dimension_is_described(self, material):
        found = dict(measure_head(material, replace(PLAN.head(1, "mean", 0), jumper=False, epochs=20)))
        assert found["top1"] > 0.6

    @pytest.mark.parametrize(
        "changed",
        [
            {"loss": "paper"},
            {"templates": "one"},
            {"per_class": 2},
            {"labels": "teacher"},
            {"k": 8},
            {"training": 4},
        ],
        ids=str,
    )
    def test_one_thing_changed_is_another_head_with_another_name(self, material, changed):
        usual = PLAN.head(1, "cls", 0)
        head = replace(usual, **changed)
        assert head.name != usual.name
        assert dict(measure_head(material, head)) != dict(measure_head(material, usual))

    def test_few_pictures_are_drawn_from_the_same_split(self, material):
        train, watch = training_members(material, 0)
        few, same_watch = training_members(material, 0, per_class=4)
        assert set(few) < set(train) and np.array_equal(watch, same_watch)
        assert np.bincount(material.training.labels[few]).tolist() == [4, 4, 4]
        assert not set(train) & set(watch) and len(train) + len(watch) == 306

    def test_unseen_names_and_unknown_pictures(self, encoder, many_figures, fresh_figures, tmp_path):
        new = shutil.copytree(fresh_figures, tmp_path / "new")
        for old, name in (("red_circle", "sun"), ("blue_cross", "star"), ("green_square", "leaf")):
            (new / old).rename(new / name)
        folders = Folders(many_figures, new_names=new, others=new / "sun")
        with pytest.raises(DataError, match="are among those of"):
            gather(encoder, folders, load_templates(), QUIET)
        shutil.move(new / "sun", tmp_path / "others")
        folders = Folders(many_figures, new_names=new, others=tmp_path / "others")
        material, digests = gather(encoder, folders, load_templates(), QUIET)
        assert set(digests) == {"training", "new names", "others"}
        found = dict(measure_head(material, PLAN.head(1, "cls", 0)))
        assert 0 <= found["new names"] <= 1
        assert {"surprisal auroc new names", "doubt fpr95 others"} <= set(found)
        assert "new names" in dict(measure_zero_shot(material))


class TestRivals:
    def test_they_learn_figures(self, material):
        found = dict(measure_rivals(material, 1, "mean"))
        assert all(found[f"{name} top1"] > 0.7 for name in RIVALS)
        few = dict(measure_rivals(material, 1, "mean", per_class=1, seed=3, which=FEW_SHOT_RIVALS))
        assert set(few) == {f"{n} {m}" for n in FEW_SHOT_RIVALS for m in ("top1", "top2", "top3", "right")}

    def test_two_classes_have_two_scores(self, material):
        def only(pictures):
            chosen = pictures.labels < 2
            return replace(pictures, rows=pictures.rows[chosen], labels=pictures.labels[chosen])

        two = replace(material, training=only(material.training), evaluation=only(material.evaluation))
        found = dict(measure_rivals(two, 1, "mean"))
        assert all(found[f"{name} top1"] > 0.6 and found[f"{name} top2"] == 1 for name in RIVALS)

    def test_moments_of_all_pictures_are_those_of_the_class(self):
        activations = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(40) % 2
        mu, variance = sampling(activations, labels, 20, seed=5)
        torch.testing.assert_close(mu[1], activations[1::2].mean(0))
        torch.testing.assert_close(variance[1], activations[1::2].var(0, unbiased=False))
        few, _ = sampling(activations, labels, 3, seed=5)
        assert not torch.equal(few, mu) and torch.equal(few, sampling(activations, labels, 3, seed=5)[0])

    def test_sampling_has_both_forms_of_the_rate_and_a_spread(self, material):
        found = dict(measure_sampling(material, 1, "mean"))
        assert 0 < found["paper 5"] <= 1 and 0 < found["gaussian 5"] <= 1
        assert found["gaussian 500 spread"] == 0  # all there are, each time


class TestCosts:
    @pytest.mark.slow
    def test_exit_5_of_vit_b_32_saves_what_the_paper_says_less_the_patch_embedding(self):
        encoder = load_encoder("ViT-B-32", "random")
        full, exit_5 = count_full(encoder), count_exit(encoder, encoder.point(5), 128, torch.randn(10, 512))
        assert full.parameters == 87_849_216
        assert full.parameters - exit_5.parameters == 49_714_304
        assert full.operations / exit_5.operations == pytest.approx(2.80, abs=0.02)

    def test_a_later_exit_costs_more(self, encoder, material):
        full = count_full(encoder)
        costs = [count_exit(encoder, encoder.point(layer), 16, material.text) for layer in (1, 5, 12)]
        assert costs[0].parameters < costs[1].parameters < costs[2].parameters
        assert costs[0].operations < costs[1].operations < costs[2].operations
        assert costs[0].parameters < full.parameters / 5 and costs[1].operations < full.operations / 2


class TestPlan:
    def test_names_are_unique_and_ablations_share_the_method(self, material):
        subject = Subject.of(material)
        layers, factors = layer_tasks(PLAN, subject), ablation_tasks(PLAN, subject, "cls")
        assert len(layers) == 1 + 2 * 2 * (PLAN.seeds + 1 + 2)
        assert {head.name for head in PLAN.heads(2, "cls")} <= set(layers) & set(factors)
        factor = {ablation.factor: list(ablation.heads) for ablation in ablations(PLAN, subject, "cls")}
        assert factor == {
            "loss": ["tgems", "rate", "cosine", "paper"],
            "K": ["8", "16", "32", "64", "128"],
            "epochs": ["1", "4", "16"],
            "templates": ["one", "all"],
            "labels": ["1", "2", "4", "8", "16", "all", "none (teacher)"],
        }

    def test_the_pool_is_chosen_by_the_pictures_that_watched(self, material):
        results = {head.name: {"watched": 0.5, "top1": 0.9} for head in PLAN.heads(2, "cls")}
        results |= {head.name: {"watched": 0.6, "top1": 0.1} for head in PLAN.heads(2, "mean")}
        assert PLAN.better_pool(results, material.pools, 2) == "mean"


@pytest.mark.slow
def test_a_run_keeps_what_is_finished_and_refuses_another_study(material, tmp_path, monkeypatch):
    small = replace(material, layers=1, pools=("mean",))
    plan = replace(PLAN, layer=1, epochs=1)
    path = tmp_path / "study.json"
    identity = {"plan": "a", "data": "b"}
    results = run(plan, small, identity, {}, path, QUIET, overwrite=False)
    kept = json.loads(path.read_text())
    assert set(kept["results"]) == set(results) and kept["plan"] == "a"
    name = plan.head(1, "mean", 1).name
    kept["results"].pop(name)
    kept["results"]["full CLIP"]["top1"] = 0.123  # not computed again
    path.write_text(json.dumps(kept))
    again = run(plan, small, identity, {}, path, QUIET, overwrite=False)
    assert again[name] == results[name] and again["full CLIP"]["top1"] == 0.123
    with pytest.raises(InputError, match="of a study with another data; give --overwrite or another"):
        run(plan, small, identity | {"data": "c"}, {}, path, QUIET, overwrite=False)
    path.write_text("nonsense")
    with pytest.raises(InputError, match="not the file of a study"):
        run(plan, small, identity, {}, path, QUIET, overwrite=False)


@pytest.mark.slow
def test_the_command_writes_a_report_and_goes_on_where_it_stopped(command, many_figures, tiny, tmp_path):
    out = tmp_path / "study"
    encoder = ("--encoder", tiny("tiny-two", {"layers": 2}), "--pretrained", "random")
    options = ("--layer", 1, "--k", 8, "--epochs", 1, "--seeds", 2, "--out", out)
    result = command("study", many_figures, *encoder, *options)
    assert result.exit_code == 0, result.stderr
    assert all((out / name).exists() for name in ("study.json", "study.md", "study.html"))
    assert result.stdout.splitlines()[-1].endswith(".svg") and "layer" in result.stdout.splitlines()[0]
    assert "every layer: 21/21" in result.stderr
    once = {path.name: path.read_bytes() for path in out.rglob("*.*")}
    study = json.loads(once["study.json"])
    del study["results"]["full CLIP"]
    (out / "study.json").write_text(json.dumps(study))
    assert command("study", many_figures, *encoder, *options, "--quiet").stderr == ""
    assert {path.name: path.read_bytes() for path in out.rglob("*.*")} == once
    other = command("study", many_figures, *encoder, *options, "--seeds", 3)
    assert other.exit_code == 2 and "of a study with another plan; give --overwrite" in other.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layer", 13), "layer 13: vit-demo has the layers 1 to 12"),
        (("--k", 129), "--k 129: at most 128, the width of vit-demo"),
        (("--seeds", 1), "--seeds"),
        (("--calibration", "nowhere"), "give both --calibration and --evaluation"),
        (("--others", "nowhere"), "nowhere: no such folder"),
    ],
    ids=str,
)
def test_what_cannot_be_studied_is_refused_in_one_line(command, many_figures, tmp_path, options, message):
    result = command("study", many_figures, "--out", tmp_path / "study", "--quiet", *options)
    assert result.exit_code == 2 and message in result.stderr
    assert not (tmp_path / "study").exists()
