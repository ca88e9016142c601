"""The recipe of the demo CLIP, on packs that the tests draw."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tgems_edge.errors import DataError, EncoderError, InputError
from tgems_edge.runtime.images import decode
from tgems_edge.sources.data import read_labelled
from tgems_export.demo import pretraining
from tgems_export.demo.augmentation import Augmentation, change, mix
from tgems_export.demo.network import architecture
from tgems_export.demo.packs import TRAINING, read_pack, read_training_packs, unpack
from tgems_export.demo.pictures import read_pictures, split
from tgems_export.demo.pretraining import RECIPES, Settings, cross_entropy, pretrain
from tgems_export.demo.vocabulary import build_vocabulary
from tgems_export.encoders.checkpoints.loading import DEMO_FOLDER
from tgems_export.encoders.encoder import load_encoder
from tgems_export.pictures import to_jpeg

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
SHADES = {"crow": (10, 10, 10), "swan": (245, 245, 245), "elephant": (128, 128, 128)}
CPU = torch.device("cpu")
SMALL = Settings(
    width=32,
    epochs=1,
    batch=16,
    checks_per_epoch=2,
    held_out=6,
    augmentation=Augmentation(least_area=0.6, colour=0.1, erase=0.3, mix=0.5),
)


def write_pack(path, classes, colours, size, per_class, seed, **more):
    """A pack of one-coloured noisy pictures; `colours` maps labels to colours."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(list(colours), per_class)
    rng.shuffle(labels)
    noisy = [np.clip(rng.normal(colours[label], 25, (size, size, 3)), 0, 255) for label in labels]
    files = [to_jpeg(Image.fromarray(pixels.astype(np.uint8))) for pixels in noisy]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        bytes=np.frombuffer(b"".join(files), np.uint8),
        lengths=np.array([len(file) for file in files], np.uint32),
        labels=labels.astype(np.uint8),
        classes=np.array(classes),
        **more,
    )


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """Three colours at 32x32, and three of four shades at 64x64 in four shards."""
    folder = tmp_path_factory.mktemp("packs")
    write_pack(folder / TRAINING[0], list(COLOURS), dict(enumerate(COLOURS.values())), 32, 20, 0)
    names = ["crow", "ghost", "swan", "elephant"]
    shades = {names.index(name): colour for name, colour in SHADES.items()}
    synonyms = np.array(["crow, Corvus", "ghost", "swan, Cygnus", "elephant, Elephas, tusker"])
    for seed, shard in enumerate(TRAINING[1:]):
        write_pack(folder / shard, names, shades, 64, 5, seed, synonyms=synonyms, unseen=np.array([1]))
    return folder


@pytest.fixture(scope="module")
def pictures(packs):
    from tgems_edge.progress import Reporter

    return read_pictures(read_training_packs(packs), Reporter(quiet=True))


@pytest.fixture(scope="module")
def tokenize():
    return open_clip.get_tokenizer(f"local-dir:{DEMO_FOLDER}")


class TestPacks:
    def test_a_pack_gives_back_its_files_names_and_synonyms(self, packs):
        pack = read_pack(packs / TRAINING[1])
        assert pack.synonyms[3] == ("elephant", "Elephas", "tusker") and pack.unseen == {1}
        sizes = {decode(jpeg).size for jpeg in pack.jpegs()}
        assert sizes == {(64, 64)} and len(list(pack.jpegs())) == len(pack.labels) == 15

    def test_decoded_pictures_have_one_size_and_the_names_of_both_data_sets(self, pictures):
        assert pictures.pixels.shape == (120, 64, 64, 3)
        assert [names[0] for data_set in pictures.data_sets for names in data_set] == [*COLOURS, *SHADES]
        for label, colour in enumerate([*COLOURS.values(), *SHADES.values()]):
            mean = pictures.pixels[pictures.labels == label].mean((0, 1, 2))
            np.testing.assert_allclose(mean, colour, atol=12)
        assert (pictures.data_set == (pictures.labels >= 3)).all()

    def test_unpacked_packs_are_an_image_folder_of_the_same_files(self, packs, tmp_path):
        chosen = (read_pack(packs / TRAINING[0]), read_pack(packs / TRAINING[1]))
        assert unpack(chosen, tmp_path / "all") == 75
        folder = read_labelled(tmp_path / "all")
        assert set(folder.classes) == {*COLOURS, *SHADES} and len(folder.names) == 75
        files = {folder.path(i).read_bytes() for i in range(75)}
        assert files == {jpeg for pack in chosen for jpeg in pack.jpegs()}

    def test_unpacking_stops_at_so_many_pictures_of_a_class(self, packs, tmp_path):
        shards = tuple(read_pack(packs / name) for name in TRAINING)
        assert unpack(shards, tmp_path / "some", per_class=7) == 6 * 7
        assert np.bincount(read_labelled(tmp_path / "some").labels).tolist() == [7] * 6

    def test_classes_kept_for_testing_and_pictures_of_another_pack_can_be_left_out(self, packs, tmp_path):
        kept = tmp_path / "kept.npz"
        write_pack(kept, ["crow", "ghost"], {0: (1, 2, 3), 1: (9, 9, 9)}, 64, 3, 0, unseen=np.array([1]))
        pack, shard = read_pack(kept), read_pack(packs / TRAINING[1])
        assert unpack((pack,), tmp_path / "all") == 6
        assert unpack((pack,), tmp_path / "seen", seen_only=True) == 3
        assert [path.name for path in (tmp_path / "seen").iterdir()] == ["crow"]
        every = len(shard.labels)
        assert unpack((shard, pack), tmp_path / "both", without=(pack,)) == every
        assert unpack((shard, pack), tmp_path / "other", without=(shard,)) == 6

    def test_a_missing_pack_is_named_with_the_others_that_are_expected(self, packs, tmp_path):
        with pytest.raises(
            DataError, match=r"no such pack; expected cifar10_train_jpeg.npz, tiny_imagenet/tr"
        ):
            read_training_packs(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"nonsense" * 50])
    def test_what_is_no_pack_is_refused(self, tmp_path, content):
        (tmp_path / "pack.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"pack.npz: not a pack of pictures"):
            read_pack(tmp_path / "pack.npz")

    def test_pictures_of_classes_kept_for_testing_are_refused(self, packs, tmp_path):
        for name in TRAINING:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes((packs / name).read_bytes())
        names = ["crow", "ghost"]
        write_pack(tmp_path / TRAINING[2], names, {1: (9, 9, 9)}, 64, 1, 0, unseen=np.array([1]))
        with pytest.raises(DataError, match=r"train_1_jpeg.npz: holds pictures of 'ghost', kept for testing"):
            read_training_packs(tmp_path)


class TestVocabulary:
    def test_every_draw_says_each_class_by_one_of_its_own_names(self, tokenize):
        vocabulary = build_vocabulary(
            [[("cat",), ("dog", "hound")], [("oboe",)]], ["a {}.", "one {}."], tokenize, 16
        )
        said = {
            name: {tuple(row) for row in tokenize([f"a {name}.", f"one {name}."], 16).tolist()}
            for name in ("cat", "dog", "hound", "oboe")
        }
        drawn = [
            {tuple(row) for row in rows.tolist()}
            for rows in torch.stack([vocabulary.draw() for _ in range(100)]).unbind(1)
        ]
        assert drawn == [said["cat"], said["dog"] | said["hound"], said["oboe"]]
        assert vocabulary.names == ("cat", "dog", "oboe")
        assert vocabulary.data_set.tolist() == [0, 0, 1]

    def test_prompts_that_would_be_cut_off_are_left_out(self, tokenize):
        long = "the very long and winding and never, never ending old road to {} and back home again"
        vocabulary = build_vocabulary([[("cat",)]], ["a {}.", long], tokenize, 16)
        assert vocabulary.tokens.shape == (1, 16)


class TestCrossEntropy:
    DATA_SET = torch.tensor([0, 0, 1, 1, 1])

    def test_names_of_the_other_data_set_cost_nothing(self):
        logits = torch.randn(8, 5, requires_grad=True)
        labels = torch.tensor([0, 1, 2, 3, 4, 0, 2, 4])
        cross_entropy(logits, labels, self.DATA_SET, 0.1).sum().backward()
        other = self.DATA_SET[labels][:, None] != self.DATA_SET
        assert (logits.grad[other] == 0).all() and (logits.grad[~other] != 0).all()

    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_is_torchs_own_within_a_data_set(self, smoothing):
        logits = torch.randn(6, 5)
        labels = torch.tensor([2, 3, 4, 2, 3, 4])
        expected = torch.nn.functional.cross_entropy(
            logits[:, 2:], labels - 2, reduction="none", label_smoothing=smoothing
        )
        torch.testing.assert_close(cross_entropy(logits, labels, self.DATA_SET, smoothing), expected)


class TestAugmentation:
    def test_nothing_asked_for_is_the_picture_or_its_mirror_image(self):
        torch.manual_seed(0)
        images = torch.rand(32, 3, 8, 8)
        changed = change(images, Augmentation())
        same = (changed - images).abs().amax((1, 2, 3)) < 1e-5
        mirrored = (changed - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
        assert (same | mirrored).all() and same.any() and mirrored.any()

    def test_crops_show_parts_of_the_picture_enlarged(self):
        torch.manual_seed(0)
        ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
        shown = change(ramp.expand(200, -1, -1, -1), Augmentation(least_area=0.25))
        width = shown.amax((1, 2, 3)) - shown.amin((1, 2, 3))
        assert 0.4 < width.min() < 0.6 and width.max() > 0.9
        assert shown.min() >= 0 and shown.max() <= 1

    def test_shifts_stay_within_their_bound_and_mirror_what_is_uncovered(self):
        torch.manual_seed(0)
        ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
        shown = change(ramp.expand(200, -1, -1, -1), Augmentation(shift=0.125))
        middle = shown[:, 0, 32, 32]
        assert 0.3 < middle.min() < 0.42 and 0.58 < middle.max() < 0.7
        assert shown.min() >= 0 and shown.max() <= 1

    def test_erasing_covers_up_to_a_quarter_of_some_pictures(self):
        torch.manual_seed(0)
        shown = change(torch.zeros(400, 3, 32, 32), Augmentation(erase=0.5))
        covered = (shown != 0).any(1).float().mean((1, 2))
        assert 0.1 < covered.max() < 0.3 and 0.4 < (covered > 0).float().mean() < 0.6

    def test_colours_change_and_shapes_do_not(self):
        torch.manual_seed(0)
        images = torch.rand(50, 3, 1, 1).expand(50, 3, 8, 8)
        shown = change(images, Augmentation(colour=0.3))
        assert (shown - shown[:, :, :1, :1]).abs().max() < 1e-5
        assert 0.02 < (shown - images).abs().mean() < 0.3

    def test_shares_tell_how_much_of_a_mixture_is_its_own(self):
        torch.manual_seed(0)
        images = torch.arange(64.0).view(64, 1, 1, 1).expand(64, 3, 32, 32)
        for _ in range(10):
            mixed = mix(images, 1.0)
            expected = mixed.share * torch.arange(64.0) + (1 - mixed.share) * mixed.partner
            torch.testing.assert_close(mixed.images.mean((1, 2, 3)), expected, atol=1e-2, rtol=1e-3)
        assert torch.equal(mix(images, 0.0).images, images) and (mix(images, 0.0).share == 1).all()


class TestPretraining:
    def test_learns_and_writes_a_folder_that_open_clip_loads(self, pictures, tmp_path, reporter):
        settings = dataclasses.replace(SMALL, epochs=8, augmentation=Augmentation(shift=0.1))
        out = pretrain(pictures, settings, tmp_path / "clip", reporter, device=CPU)
        training = json.loads((out / "training.json").read_text())
        assert training["curve"][-1]["accuracy_0"] == training["curve"][-1]["accuracy_1"] == 1
        assert training["curve"][-1]["step"] == 8 * 162 // 16 and training["device"] == "cpu"
        encoder = load_encoder(f"local-dir:{out}")
        assert (encoder.tower.points[-1].width, encoder.blocks, encoder.preprocessing.size) == (
            32,
            12,
            (64, 64),
        )
        assert "non-commercial" in encoder.licence
        text = encoder.text.encode([f"a photo of a {name}." for name in COLOURS])
        answers = (encoder.activations(pictures.pixels[:60]).embedding @ text.T).argmax(1)
        assert (answers.numpy() == pictures.labels[:60]).mean() > 0.9
        assert {t.dtype for t in load_file(out / "open_clip_model.safetensors").values()} == {torch.float16}

    def test_watched_pictures_are_never_trained_on(self, pictures):
        train, held_out = split(pictures, SMALL.held_out, SMALL.seed)
        assert [len(members) for members in held_out] == [6, 6] and len(train) == 108
        assert not np.isin(np.concatenate(held_out), train).any()

    def test_a_run_that_was_killed_ends_in_the_same_bytes(self, pictures, tmp_path, reporter, monkeypatch):
        whole = pretrain(pictures, SMALL, tmp_path / "whole", reporter, device=CPU)
        save = pretraining._Run.save

        def save_and_die(run, step, path):
            save(run, step, path)
            raise KeyboardInterrupt

        monkeypatch.setattr(pretraining._Run, "save", save_and_die)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                pretrain(pictures, SMALL, tmp_path / "killed", reporter, device=CPU)
        monkeypatch.undo()
        killed = pretrain(pictures, SMALL, tmp_path / "killed", reporter, device=CPU)
        name = "open_clip_model.safetensors"
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
        curves = [json.loads((out / "training.json").read_text())["curve"] for out in (whole, killed)]
        for point in curves[0] + curves[1]:
            del point["seconds"]
        assert curves[0] == curves[1]

    def test_a_finished_run_only_writes_again(self, pictures, tmp_path, reporter, monkeypatch):
        out = pretrain(pictures, SMALL, tmp_path, reporter, device=CPU)
        weights = (out / "open_clip_model.safetensors").read_bytes()
        (out / "open_clip_model.safetensors").unlink()
        monkeypatch.setattr(pretraining._Run, "step", None)
        pretrain(pictures, SMALL, tmp_path, reporter, device=CPU)
        assert (out / "open_clip_model.safetensors").read_bytes() == weights

    def test_a_checkpoint_of_another_configuration_is_refused(self, pictures, tmp_path, reporter):
        pretrain(pictures, SMALL, tmp_path, reporter, device=CPU)
        other = dataclasses.replace(SMALL, seed=1, width=64)
        with pytest.raises(InputError, match=r"checkpoint.pt: of a run with another width, seed; give --out"):
            pretrain(pictures, other, tmp_path, reporter, device=CPU)
        torch.save({"weights": torch.zeros(2)}, tmp_path / "strange.pt")
        for content in (b"nonsense", (tmp_path / "strange.pt").read_bytes()):
            (tmp_path / "checkpoint.pt").write_bytes(content)
            with pytest.raises(InputError, match="not a checkpoint, or damaged; remove it to begin again"):
                pretrain(pictures, SMALL, tmp_path, reporter, device=CPU)

    def test_an_accelerator_without_memory_names_the_batch_to_try(
        self, pictures, tmp_path, reporter, monkeypatch
    ):
        def step(run, number):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(pretraining._Run, "step", step)
        with pytest.raises(InputError, match="cpu ran out of memory; try --batch 8"):
            pretrain(pictures, SMALL, tmp_path, reporter, device=CPU)

    def test_a_batch_of_more_than_all_pictures_is_refused(self, pictures, tmp_path, reporter):
        with pytest.raises(InputError, match="--batch 4096: more than an epoch's 162 pictures"):
            settings = dataclasses.replace(SMALL, batch=4096)
            pretrain(pictures, settings, tmp_path, reporter, device=CPU)

    def test_earlier_weights_for_smaller_patches_see_the_enlarged_picture_alike(
        self, pictures, tmp_path, reporter
    ):
        smaller = architecture(32)
        smaller["vision_cfg"] |= {"image_size": 32, "patch_size": 4}
        earlier = open_clip.CLIP(**smaller).half().float().eval()
        (tmp_path / "earlier").mkdir()
        save_file(earlier.state_dict(), tmp_path / "earlier" / "open_clip_model.safetensors")
        still = dataclasses.replace(SMALL, matrix_learning_rate=0.0, learning_rate=0.0)
        out = pretrain(
            pictures, still, tmp_path / "out", reporter, device=CPU, start_from=tmp_path / "earlier"
        )
        small = torch.rand(2, 3, 32, 32)
        doubled = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
        with torch.no_grad():
            found = load_encoder(f"local-dir:{out}").text.clip.encode_image(doubled)
            torch.testing.assert_close(found, earlier.encode_image(small), atol=2e-3, rtol=2e-3)

    def test_earlier_weights_that_do_not_fit_are_refused(self, pictures, tmp_path, reporter):
        save_file({"visual.conv1.weight": torch.zeros(8, 3, 4, 4)}, tmp_path / "open_clip_model.safetensors")
        with pytest.raises(EncoderError, match=r"--start-from .*: does not fit this recipe"):
            pretrain(pictures, SMALL, tmp_path / "out", reporter, device=CPU, start_from=tmp_path)
        with pytest.raises(EncoderError, match=r"--start-from .*: does not fit this recipe"):
            pretrain(pictures, SMALL, tmp_path / "out", reporter, device=CPU, start_from=tmp_path / "none")

    @pytest.mark.parametrize("recipe", RECIPES)
    def test_the_recipes_stay_within_what_the_demo_may_weigh(self, recipe):
        with torch.device("meta"):
            clip = open_clip.CLIP(**architecture(RECIPES[recipe].width))
        assert sum(p.numel() for p in clip.visual.parameters()) <= 10e6
        assert 2 * sum(p.numel() for p in clip.parameters()) <= 40e6


class TestCommand:
    def run(self, *arguments):
        command = [sys.executable, "-m", "tgems_export.demo", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    def test_packs_that_are_missing_end_in_one_line_and_exit_code_2(self, tmp_path):
        done = self.run("pretrain", tmp_path, "--out", tmp_path / "out")
        assert done.returncode == 2 and not (tmp_path / "out").exists()
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1

    def test_trains_and_unpacks(self, packs, tmp_path):
        options = ("--recipe", "cpu", "--batch", "24", "--epochs", "1", "--quiet")
        done = self.run("pretrain", packs, "--out", tmp_path / "clip", *options, "--device", "cpu")
        assert (done.returncode, done.stderr) == (0, "")
        assert load_encoder(f"local-dir:{tmp_path / 'clip'}").tower.points[-1].width == 128
        done = self.run("unpack", tmp_path / "pictures", packs / TRAINING[0], packs / TRAINING[1])
        assert done.stdout == f"75 pictures in {tmp_path / 'pictures'}\n"
