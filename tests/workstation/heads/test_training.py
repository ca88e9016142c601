"""The same plan ends in the same bytes, interrupted or not; and what it trains has learnt something."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from tgems_edge.errors import DataError, EncoderError, HeadError
from tgems_edge.progress import Reporter
from tgems_edge.sources.data import read_labelled, read_unlabelled
from tgems_export.encoders.features import compute_features
from tgems_export.encoders.prompts import load_templates
from tgems_export.heads import learning
from tgems_export.heads.file import load_head, load_head_card
from tgems_export.heads.learning import TrainingSettings, train_heads
from tgems_export.heads.training import tgem as tgem_training
from tgems_export.heads.training.base import TrainingSet
from tgems_export.heads.training.tgem import TGemSettings, train_tgem_head

SETTINGS = TGemSettings(k=8, epochs=7, epochs_between_checkpoints=2)


def training_set(pictures, classes=3):
    generator = torch.Generator().manual_seed(pictures)
    labels = torch.arange(pictures) % classes
    return TrainingSet(
        activations=torch.randn(pictures, 12, generator=generator) + 3 * labels[:, None],
        targets=torch.nn.functional.one_hot(labels, classes).float(),
        prompts=torch.randn(classes, 4, 6, generator=generator),
        validation_activations=torch.randn(5, 12, generator=generator),
        validation_labels=torch.zeros(5, dtype=torch.int64),
        text=torch.randn(classes, 6, generator=generator),
    )


def weights(head):
    """All of them as one vector."""
    return torch.cat([tensor.flatten().double() for tensor in head.state_dict().values()])


def stop_after(epoch):
    def stop(reached, accuracy):
        if reached == epoch:
            raise KeyboardInterrupt

    return stop


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_training_is_deterministic():
    one, same = (train_tgem_head(training_set(100), SETTINGS, layer=1) for _ in range(2))
    assert torch.equal(weights(one), weights(same))


def test_training_does_not_depend_on_the_number_of_threads():
    one = train_tgem_head(training_set(1000), SETTINGS, layer=1)
    torch.set_num_threads(2)
    try:
        other = train_tgem_head(training_set(1000), SETTINGS, layer=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(weights(one), weights(other))


@pytest.mark.parametrize(("seed", "layer"), [(1, 1), (0, 2)])
def test_another_seed_or_layer_draws_otherwise(seed, layer):
    one = train_tgem_head(training_set(100), SETTINGS, layer=1)
    other = train_tgem_head(training_set(100), replace(SETTINGS, seed=seed), layer=layer)
    assert not torch.equal(weights(one), weights(other))


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    train_tgem_head(training_set(50), SETTINGS, layer=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("stopped", "left"), [(1, range(1, 8)), (2, range(3, 8)), (5, range(5, 8)), (7, range(0))]
)
def test_interrupted_training_goes_on_and_ends_as_if_nothing_had_been(tmp_path, stopped, left):
    data, checkpoint, seen = training_set(100), tmp_path / "state.pt", []
    with pytest.raises(KeyboardInterrupt):
        train_tgem_head(data, SETTINGS, layer=1, checkpoint=checkpoint, on_epoch=stop_after(stopped))
    resumed = train_tgem_head(
        data, SETTINGS, layer=1, checkpoint=checkpoint, on_epoch=lambda e, _: seen.append(e)
    )
    assert seen == list(left)
    assert torch.equal(weights(resumed), weights(train_tgem_head(data, SETTINGS, layer=1)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"text",
        lambda whole: whole[:-100],
        lambda whole: whole[:-4000] + bytes(4000),
        lambda whole: whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    ],
    ids=["empty", "text", "cut short", "zeroed tail", "flipped bit"],
)
def test_a_damaged_checkpoint_is_as_good_as_none(tmp_path, damage):
    data, checkpoint = training_set(100), tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train_tgem_head(data, SETTINGS, layer=1, checkpoint=checkpoint, on_epoch=stop_after(4))
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    resumed = train_tgem_head(data, SETTINGS, layer=1, checkpoint=checkpoint)
    assert torch.equal(weights(resumed), weights(train_tgem_head(data, SETTINGS, layer=1)))


@pytest.mark.parametrize("pictures", [2, 3, 31, 33, 65, 543])
def test_batches_that_do_not_divide_the_pictures_do_no_harm(pictures):
    assert bool(weights(train_tgem_head(training_set(pictures, 2), SETTINGS, layer=1)).isfinite().all())


@pytest.fixture
def plan(figures):
    classes = read_labelled(figures).classes
    return TrainingSettings((1,), classes, load_templates(), pool="mean", head=TGemSettings(k=16, epochs=8))


@pytest.fixture
def train(encoder, figures, tmp_path, reporter):
    """train(plan): the heads of the figures."""

    def train(plan, out=tmp_path / "heads", reporter=reporter, **options):
        return train_heads(encoder, read_labelled(figures), plan, out, reporter, **options)

    return train


def test_heads_learn_the_figures_and_say_so(heads, encoder):
    for layer in (1, 2):
        head, card = load_head(heads / f"layer-{layer:02d}.safetensors", encoder)
        assert card.accuracy > 0.9 and card.accuracy_held_out_templates > 0.9
        assert (card.layer, card.k, card.pictures) == (layer, 16, 108)
        assert card.classes == ("blue_cross", "green_square", "red_circle")
        assert head.jumper.linear.out_features == 16


def test_the_better_pool_is_chosen(heads, monkeypatch, train, plan):
    monkeypatch.setattr(learning, "validate", lambda head, data: float(data.activations[0, 0]))
    (path,) = train(replace(plan, pool="auto"))
    chosen = load_head_card(path).pool
    other = {"cls": "mean", "mean": "cls"}[chosen]
    monkeypatch.setattr(learning, "validate", lambda head, data: -float(data.activations[0, 0]))
    (path,) = train(replace(plan, pool="auto"), path.parent / "otherwise")
    assert load_head_card(path).pool == other


def test_two_runs_write_equal_files(train, plan, tmp_path):
    train(plan, tmp_path / "one")
    train(plan, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two") != {}


def test_trained_heads_are_kept(train, plan, monkeypatch, capsys):
    (path,) = train(plan)
    monkeypatch.setattr(tgem_training, "train_tgem_head", lambda *_, **__: pytest.fail("trained again"))
    train(plan, reporter=Reporter())
    assert f"{path}: trained already, kept" in capsys.readouterr().err


@pytest.mark.parametrize("epochs", [8, 9], ids=["the same", "another"])
def test_of_two_trainings_at_once_one_wins_and_the_other_says_so(
    train, plan, tmp_path, monkeypatch, capsys, epochs
):
    plan = replace(plan, head=replace(plan.head, epochs=8))
    (other,) = train(replace(plan, head=replace(plan.head, epochs=epochs)), tmp_path / "other")
    path = tmp_path / "heads" / other.name

    def meanwhile(*arguments, **options):
        path.parent.mkdir(exist_ok=True)
        shutil.copy(other, path)
        return train_tgem_head(*arguments, **options)

    monkeypatch.setattr(tgem_training, "train_tgem_head", meanwhile)
    if epochs == 8:
        train(plan, reporter=Reporter())
        assert f"{path}: trained by another process meanwhile, kept" in capsys.readouterr().err
    else:
        with pytest.raises(HeadError, match="was trained otherwise; give --overwrite or another --out"):
            train(plan)
    assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: replace(plan, head=replace(plan.head, epochs=9)),
        lambda plan: replace(plan, head=replace(plan.head, seed=1)),
        lambda plan: replace(plan, templates=load_templates("openai")),
        lambda plan: replace(plan, classes=("cross", "square", "circle")),
        lambda plan: replace(plan, pool="cls"),
    ],
    ids=["epochs", "seed", "templates", "classes", "pool"],
)
def test_heads_that_were_trained_otherwise_are_not_replaced_unasked(train, plan, change):
    (path,) = train(plan)
    before = path.read_bytes()
    with pytest.raises(HeadError, match="was trained otherwise; give --overwrite or another --out"):
        train(change(plan))
    assert path.read_bytes() == before
    train(change(plan), overwrite=True)
    assert path.read_bytes() != before


def test_a_broken_head_file_is_replaced_only_when_asked(train, plan, tmp_path):
    path = tmp_path / "heads" / "layer-01.safetensors"
    path.parent.mkdir()
    path.write_text("broken")
    with pytest.raises(HeadError, match="not a head file"):
        train(plan)
    train(plan, overwrite=True)
    assert load_head_card(path).layer == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layers": (1, 14)}, EncoderError, "it has 12 blocks"),
        ({"head": TGemSettings(k=129)}, DataError, "--k 129: at most 128, the width of layer 1 of vit-demo"),
        ({"classes": ("a", "b " * 20, "c")}, DataError, "too long"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_encoder_runs(
    train, plan, cache, changes, error, message
):
    with pytest.raises(error, match=message):
        train(replace(plan, **changes))
    assert not cache.exists()


@pytest.mark.parametrize(
    "counts", [{"a": 2, "b": 2}, {"a": 3, "b": 3, "c": 3}, {"a": 2, "b": 1}, {"a": 12, "b": 1}], ids=str
)
def test_tiny_folders_can_be_trained_on(encoder, make_folder, tmp_path, reporter, counts):
    folder = read_labelled(make_folder(tmp_path / "tiny", counts))
    plan = TrainingSettings((1,), folder.classes, load_templates(), head=TGemSettings(k=8, epochs=2))
    (path,) = train_heads(encoder, folder, plan, tmp_path / "heads", reporter)
    head, card = load_head(path, encoder)
    assert bool(weights(head).isfinite().all())
    assert 0 <= card.accuracy <= 1


def test_one_picture_a_class_is_too_little(encoder, make_folder, tmp_path, reporter):
    folder = read_labelled(make_folder(tmp_path / "tiny", {"a": 1, "b": 1}))
    with pytest.raises(DataError, match="2 readable pictures; training and validating needs more"):
        train_heads(
            encoder,
            folder,
            TrainingSettings((1,), folder.classes, load_templates()),
            tmp_path / "heads",
            reporter,
        )


def test_the_teacher_labels_with_its_own_softmax(command, encoder, figures, tmp_path, monkeypatch):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in figures.rglob("*.*"):
        shutil.copy(path, flat / f"{path.parent.name}-{path.name}")
    classes = tmp_path / "classes.txt"
    classes.write_text("red circle\ntruck\nsky\n")
    seen = []

    def spy(data, *arguments, **options):
        seen.append(data)
        return train_tgem_head(data, *arguments, **options)

    monkeypatch.setattr(tgem_training, "train_tgem_head", spy)
    options = ("--layer", 2, "--pool", "cls", "--k", 16, "--epochs", 4, "--out", tmp_path / "heads")
    result = command("train", flat, "--labels", "teacher", "--classes", classes, *options)
    assert result.exit_code == 0
    path = tmp_path / "heads" / "layer-02.safetensors"
    assert result.stdout == f"{path}\n"
    assert "agreement with the full CLIP" in result.stderr

    card = load_head_card(path)
    assert card.settings["labels"] == "teacher" and card.classes == ("red circle", "truck", "sky")
    (data,) = seen
    embeddings = compute_features(encoder, read_unlabelled(flat), Reporter(quiet=True)).embeddings()
    soft = (encoder.text.logit_scale * embeddings @ data.text.T).softmax(1)
    torch.testing.assert_close(data.targets.sum(1), torch.ones(len(data.targets)))
    assert {tuple(row) for row in data.targets.tolist()} <= {tuple(row) for row in soft.tolist()}
    assert data.targets.max() < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "teacher"], "unlabelled pictures have no names; give --classes FILE"),
        (["--layer", "14", "--encoder", "vit-demo"], "layer 14: vit-demo has the layers 1 to 12"),
        (["--encoder", "ViT-B-33", "--pretrained", "openai"], "nearest: ViT-B-32"),
        (["--k", "200"], "--k 200: at most 128"),
        (["--templates", "nonsense"], "nonsense: no such file"),
        (["--device", "tpu"], "--device tpu: not available here"),
        (["--device", "cpu:x"], "--device cpu:x: "),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(command, figures, tmp_path, options, message):
    result = command("train", figures, "--out", tmp_path / "heads", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


# The process is killed as soon as such a file is there.
KILLS = {
    "while it writes activations": "cache/features/*",
    "while it writes a checkpoint": "cache/training/*.part",
    "when the first of two heads is done": "heads/*.safetensors",
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_training_ends_in_the_same_bytes(command, figures, tmp_path):
    arguments = ["train", figures, "--layer", "1", "--layer", "2", "--k", "16", "--epochs", "30", "--quiet"]

    def start():
        return subprocess.Popen(
            [sys.executable, "-m", "tgems_edge", *arguments, "--out", tmp_path / "heads"],
            env={**os.environ, "TGEMS_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )

    for pattern in KILLS.values():
        with start() as process:
            while process.poll() is None and not any(tmp_path.glob(pattern)):
                time.sleep(0.001)
            process.kill()
    assert start().wait() == 0

    shutil.rmtree(tmp_path / "cache")
    assert command(*arguments, "--out", tmp_path / "uninterrupted").exit_code == 0
    assert contents(tmp_path / "heads") == contents(tmp_path / "uninterrupted") != {}
