"""An SSA head learns from labels and from the full CLIP, and goes every way that a T-GEM goes."""

import shutil
from collections import Counter
from dataclasses import replace

import onnx
import onnxruntime
import pytest
import torch
from torch.nn.functional import normalize, one_hot

from tgems_edge import load
from tgems_edge.errors import HeadError, InputError
from tgems_edge.model_file import records
from tgems_edge.model_file.gate import INPUT
from tgems_edge.sources.data import read_labelled
from tgems_export.encoders.prompts import load_templates
from tgems_export.exporting.exits import DEMO_HEADS, load_exits
from tgems_export.exporting.settings import ExitSettings
from tgems_export.heads.base import ExitHead
from tgems_export.heads.file import HeadCard, head_file, load_head, load_head_card, save_head
from tgems_export.heads.learning import TrainingSettings, train_heads
from tgems_export.heads.ssa import SsaHead, SsaReadout
from tgems_export.heads.tgem import TGemHead, TGemReadout
from tgems_export.heads.training.base import Teacher, TrainingSet, validate
from tgems_export.heads.training.ssa import SsaSettings, train_ssa_head

D, E, CLASSES = 24, 16, 5
SETTINGS = SsaSettings(batch=16, learning_rate=5e-3, least_steps=100)  # for a head as small as this


@pytest.fixture(scope="module")
def drawn():
    """300 pictures to train and 100 to validate: activations and embeddings, around centres per class."""
    generator = torch.Generator().manual_seed(0)
    centres, text = torch.randn(CLASSES, D, generator=generator), torch.randn(CLASSES, E, generator=generator)
    text = normalize(text, dim=1)
    labels = torch.arange(400) % CLASSES
    activations = centres[labels] + torch.randn(400, D, generator=generator)
    embeddings = normalize(text[labels] + 0.1 * torch.randn(400, E, generator=generator), dim=1)
    data = TrainingSet(
        activations=activations[:300],
        targets=one_hot(labels[:300], CLASSES).float(),
        prompts=text[:, None],
        validation_activations=activations[300:],
        validation_labels=labels[300:],
        text=text,
    )
    return data, Teacher(embeddings[:300], logit_scale=20.0)


@pytest.fixture(scope="module")
def random_ssa(encoder):
    """A head whose weights are those of no training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = SsaHead(encoder.tower.points[-1].width, encoder.embedding_width)
        head.norm.weight.data.uniform_(0.5, 2)
        head.norm.bias.data.normal_()
    return head.eval().requires_grad_(False)


@pytest.fixture
def plan(figures):
    return TrainingSettings((1,), read_labelled(figures).classes, load_templates(), head=SsaSettings())


@pytest.fixture
def train(encoder, figures, tmp_path, reporter):
    """train(plan): the SSA heads of the figures."""

    def train(plan, out=tmp_path / "heads", **options):
        return train_heads(encoder, read_labelled(figures), plan, out, reporter, **options)

    return train


def weights(head):
    """All of them as one vector."""
    return torch.cat([tensor.flatten() for tensor in head.state_dict().values()])


def test_a_head_has_the_size_of_eq_3():
    count = sum(parameter.numel() for parameter in SsaHead(768, 512).parameters())
    assert count == 2 * 768 + (768 * 768 + 768) + (768 * 512 + 512) == 985_856
    assert f"{count / 7_087_872:.1%}" == "13.9%"


def test_rates_are_minus_the_cosines(drawn):
    data, _ = drawn
    head = SsaHead(D, E)
    assert head.k == E and isinstance(head, ExitHead)
    embeddings = head(data.activations[:7])
    assert embeddings.shape == (7, E)
    cosines = torch.cosine_similarity(embeddings[:, None], data.text[None], dim=2)
    torch.testing.assert_close(head.rates(data.activations[:7], 3 * data.text), -cosines)


def test_training_learns_the_classes_and_the_embeddings(drawn):
    data, teacher = drawn
    head = train_ssa_head(data, teacher, SETTINGS, layer=1)
    assert validate(head, data) > 0.9
    assert torch.cosine_similarity(head(data.activations), teacher.embeddings).mean() > 0.7
    assert not head.training and not any(parameter.requires_grad for parameter in head.parameters())


def test_the_hard_label_twin_learns_the_classes_and_nothing_of_the_embeddings(drawn):
    data, teacher = drawn
    taught, twin = (
        train_ssa_head(data, teacher, replace(SETTINGS, alignment=w), layer=1) for w in (1.0, 0.0)
    )
    assert validate(twin, data) > 0.9
    away = replace(teacher, embeddings=-teacher.embeddings)
    same = train_ssa_head(data, away, replace(SETTINGS, alignment=0.0), layer=1)
    assert torch.equal(weights(twin), weights(same))
    near, far = (
        torch.cosine_similarity(h(data.activations), teacher.embeddings).mean() for h in (taught, twin)
    )
    assert near > far


def test_a_teacher_can_label_softly(drawn):
    data, teacher = drawn
    soft = replace(data, targets=0.8 * data.targets + 0.2 / CLASSES)
    assert validate(train_ssa_head(soft, teacher, SETTINGS, layer=1), data) > 0.9


def test_training_is_deterministic_whatever_the_number_of_threads(drawn):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one = train_ssa_head(*drawn, SETTINGS, layer=1)
    assert torch.equal(torch.rand(1), expected)
    torch.set_num_threads(2)
    try:
        same = train_ssa_head(*drawn, SETTINGS, layer=1)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(weights(one), weights(same))


@pytest.mark.parametrize(("seed", "layer"), [(1, 1), (0, 2)])
def test_another_seed_or_layer_draws_otherwise(drawn, seed, layer):
    one = train_ssa_head(*drawn, SETTINGS, layer=1)
    other = train_ssa_head(*drawn, replace(SETTINGS, seed=seed), layer=layer)
    assert not torch.equal(weights(one), weights(other))


@pytest.mark.parametrize(
    ("available", "pictures", "passes"),
    [(1, 1, 235), (100, 100, 118), (1000, 1000, 15), (5000, 5000, 3), (45_000, 5000, 3), (90_001, 9001, 3)],
)
def test_a_tenth_trains_in_three_epochs_unless_that_is_little(available, pictures, passes):
    settings = SsaSettings()
    assert (settings.pictures(available), settings.epochs_for(available)) == (pictures, passes)


def test_only_the_chosen_pictures_are_looked_at(drawn):
    data, teacher = drawn
    activations = data.activations.clone().requires_grad_()
    few = replace(SETTINGS, least_pictures=20, least_steps=1)
    train_ssa_head(replace(data, activations=activations), teacher, few, layer=1)
    assert int(activations.grad.any(1).sum()) == 30


def test_a_head_file_says_its_kind_and_comes_back(train, plan, encoder, tmp_path):
    (path,) = train(plan)
    head, card = load_head(path, encoder, "ssa")
    assert path.name == "ssa-layer-01.safetensors" == head_file(tmp_path, 1, "ssa").name
    assert isinstance(head, SsaHead) and not head.training
    assert (card.head_kind, card.pool, card.k, card.layer) == ("ssa", "mean", encoder.embedding_width, 1)
    assert (card.pictures, card.settings["alignment"], card.settings["labels"]) == (108, "1.0", "folders")
    assert card.accuracy > 0.9 and card.accuracy_held_out_templates > 0.9 and card.warnings == ()
    again = tmp_path / "again.safetensors"
    save_head(again, head, card)
    assert again.read_bytes() == path.read_bytes()


def test_two_runs_write_equal_files_and_a_third_keeps_them(train, plan, tmp_path, monkeypatch):
    (one,), (two,) = train(plan, tmp_path / "one"), train(plan, tmp_path / "two")
    assert one.read_bytes() == two.read_bytes()
    monkeypatch.setattr(
        "tgems_export.heads.training.ssa.train_ssa_head",
        lambda *_, **__: pytest.fail("trained again"),
    )
    train(replace(plan, pool="mean"), tmp_path / "one")
    twin = replace(plan, head=SsaSettings(alignment=0))
    with pytest.raises(HeadError, match="was trained otherwise; give --overwrite"):
        train(twin, tmp_path / "one")


def test_labels_that_mean_nothing_are_noticed(encoder, make_folder, tmp_path, reporter):
    folder = read_labelled(make_folder(tmp_path / "drawn", {"cat": 20, "dog": 20}))
    plan = TrainingSettings((1,), folder.classes, load_templates(), head=SsaSettings())
    (path,) = train_heads(encoder, folder, plan, tmp_path / "heads", reporter)
    (warning,) = load_head_card(path).warnings
    assert "on 4 held-out pictures cannot be told from guessing" in warning


def test_the_class_token_is_refused(train, plan, cache):
    with pytest.raises(InputError, match="--pool cls: an SSA head reads the mean over the positions"):
        train(replace(plan, pool="cls"))
    assert not cache.exists()


def test_a_head_of_the_other_kind_is_refused(train, plan, encoder, heads):
    (ssa,) = train(plan)
    with pytest.raises(HeadError, match="a head of the kind ssa, not tgem; give --head-kind ssa or another"):
        load_head(ssa, encoder)
    tgem = head_file(heads, 1)
    with pytest.raises(HeadError, match="a head of the kind tgem, not ssa; give --head-kind tgem or another"):
        load_head(tgem, encoder, "ssa")
    with pytest.raises(
        HeadError, match="no head files here; make some with `tgems-edge train --head-kind ssa"
    ):
        load_exits(ExitSettings((1,), heads, "ssa"))
    with pytest.raises(HeadError, match="--head-kind ssa: give --head; `tgems-edge train --head-kind ssa`"):
        load_exits(ExitSettings((1,), head_kind="ssa"))


def test_heads_from_before_there_were_two_kinds_are_t_gems(encoder, tmp_path):
    shipped = head_file(DEMO_HEADS, 5)
    head, card = load_head(shipped, encoder)
    assert isinstance(head, TGemHead) and card.head_kind == "tgem" and card.kind is None
    save_head(tmp_path / "again.safetensors", head, card)
    again, same = load_head(tmp_path / "again.safetensors", encoder)
    assert same == card and torch.equal(weights(again), weights(head))
    assert records.from_json(HeadCard, records.to_json(replace(card, kind="ssa")), schema=1).kind == "ssa"


@pytest.mark.parametrize("layer", [1, 6, 12])
def test_the_graph_is_open_clip_and_the_head(encoder, make_exit, random_ssa, layer):
    exit_ = make_exit(encoder, layer, "mean", random_ssa)
    exit_.check_in_torch()
    assert float(exit_.graph.get_buffer(f"posterior_scale_{layer}")) == -encoder.embedding_width


def test_onnx_is_the_head_and_its_norm_and_gelu_are_fused(encoder, make_exit, random_ssa, tmp_path):
    exit_ = make_exit(encoder, 2, "mean", random_ssa)
    model = exit_.to_onnx().SerializeToString()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        exit_.check(session.run(["rates"], {INPUT: exit_.pixels[:batch]})[0])
    operators = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert operators["Gelu"] + operators["BiasGelu"] == 2 + 1 and operators["Erf"] == 0
    norms = operators["LayerNormalization"] + operators["SkipLayerNormalization"]
    assert norms == 1 + 2 * 2 + 1


def test_the_newest_opset_says_the_same(encoder, make_exit, random_ssa):
    make_exit(encoder, 1, "mean", random_ssa).check_in_onnx(23)


def test_a_readout_is_a_copy_of_its_head(encoder, random_ssa, random_head):
    text = encoder.text.encode(["a cat", "a dog"])
    readout = random_ssa.readout(text)
    assert isinstance(readout, SsaReadout)
    assert isinstance(random_head(encoder).readout(text), TGemReadout)
    before = weights(random_ssa)
    for parameter in readout.parameters():
        parameter.data.zero_()
    assert torch.equal(weights(random_ssa), before)


def test_the_command_line_makes_a_file_that_labels_new_figures(command, figures, fresh_figures, tmp_path):
    heads, path = tmp_path / "heads", tmp_path / "model.onnx"
    kind = ("--layer", 2, "--head-kind", "ssa")
    trained = command("train", figures, *kind, "--out", heads)
    assert trained.stdout == f"{heads / 'ssa-layer-02.safetensors'}\n"
    assert f"next: tgems-edge export --layer 2 --head-kind ssa --head {heads}" in trained.stderr
    exported = command("export", *kind, "--head", heads, "--data", fresh_figures, "--output", path)
    assert exported.exit_code == 0
    card = load(path).card
    exit_ = card.last_exit
    assert (exit_.head_kind, exit_.pool, exit_.layer) == ("ssa", "mean", 2)
    assert exit_.k == load_head_card(heads / "ssa-layer-02.safetensors").k == 128
    assert card.parity.largest_rate_difference < 1e-4
    assert card.accuracy.top1 > 0.9 and exit_.temperature > 0 and card.calibration.conformal


def test_the_full_clip_can_label(command, figures, tmp_path):
    flat, classes = tmp_path / "flat", tmp_path / "classes.txt"
    flat.mkdir()
    for path in figures.rglob("*.*"):
        shutil.copy(path, flat / f"{path.parent.name}-{path.name}")
    classes.write_text("red circle\ntruck\nsky\n")
    options = ("--labels", "teacher", "--classes", classes, "--out", tmp_path / "heads", "--layer", 2)
    result = command("train", flat, "--head-kind", "ssa", *options)
    assert result.exit_code == 0 and "agreement with the full CLIP" in result.stderr
    card = load_head_card(tmp_path / "heads" / "ssa-layer-02.safetensors")
    assert card.settings["labels"] == "teacher" and card.classes == ("red circle", "truck", "sky")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pool", "cls"], "--pool cls: an SSA head reads the mean over the positions; give --pool mean"),
        (["--k", "128"], "--k: of a T-GEM only; leave it out with --head-kind ssa"),
        (["--epochs", "120"], "--epochs: of a T-GEM only"),
        (["--loss", "tgems"], "--loss: of a T-GEM only"),
        (["--layer", "14", "--encoder", "vit-demo"], "layer 14: vit-demo has the layers 1 to 12"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(command, figures, tmp_path, options, message):
    result = command("train", figures, "--head-kind", "ssa", "--out", tmp_path / "heads", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not (tmp_path / "heads").exists()


def test_exporting_a_head_that_is_not_there_is_one_line_and_exit_code_2(command, heads, tmp_path):
    options = ("--head-kind", "ssa", "--output", tmp_path / "model.onnx")
    for head in (["--head", heads], ["--head", head_file(heads, 1)], ["--head", "demo"], []):
        result = command("export", "--layer", 1, *head, *options)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
