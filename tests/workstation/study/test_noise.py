"""The noise profile: its formulas, its pictures, and the report of `study --noise`."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tgems_edge.errors import DataError
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import to_pixels
from tgems_edge.runtime.session import open_session
from tgems_edge.sources.data import read_unlabelled
from tgems_export.encoders.checkpoints.loading import DEMO_FOLDER
from tgems_export.encoders.checkpoints.recipes import CONFIG_FILE
from tgems_export.encoders.encoder import load_encoder
from tgems_export.exporting.graph.exit_graph import TowerGraph
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.exporting.quantization.products import find_products
from tgems_export.exporting.quantization.ranges import METHODS
from tgems_export.pictures import draw_many
from tgems_export.study import noise as noise_module
from tgems_export.study.noise import RECIPES, Drift, Noise, Profile, measure_noise, read_halves
from tgems_export.study.reporting.noise_report import page_of
from tgems_export.study.reporting.page import to_markdown

QUIET = Reporter(quiet=True)
LAYERS = 2


@pytest.fixture(scope="module")
def small(tiny):
    """A random encoder of two blocks."""
    return load_encoder(tiny("tiny-noise", {"layers": LAYERS}), "random")


@pytest.fixture(scope="module")
def pixels(small):
    return np.stack([to_pixels(picture, small.preprocessing) for picture in draw_many(12)])


@pytest.fixture(scope="module")
def graph(small):
    return TowerGraph(small, LAYERS)


@pytest.fixture(scope="module")
def pictures(make_folder, tmp_path_factory):
    """A plain folder."""
    return make_folder(tmp_path_factory.mktemp("noise") / "pictures", {"all": 36})


@pytest.fixture(scope="module")
def measured(small, pixels):
    return measure_noise(small, pixels[:8], pixels[8:], QUIET)


class TestTheGraphOfAllBlocks:
    def test_its_outputs_are_what_the_library_computes(self, small, graph, pixels):
        tokens = graph(torch.from_numpy(pixels))
        assert len(tokens) == len(graph.outputs) == LAYERS + 1
        pools = small.activations(pixels).pools
        for layer in range(1, LAYERS + 1):
            torch.testing.assert_close(tokens[layer][0], pools["cls"][layer - 1], rtol=1e-4, atol=1e-4)
            patches = tokens[layer][small.tower.prefix :].mean(0)
            torch.testing.assert_close(patches, pools["mean"][layer - 1], rtol=1e-4, atol=1e-4)

    def test_every_product_of_its_onnx_model_has_a_part(self, small, graph, pixels):
        model = to_onnx(graph, small.preprocessing.size, 18)
        parts = [product.part for product in find_products(model)]
        assert parts == ["patch embedding"] + 4 * ["block 1"] + 4 * ["block 2"]
        found = open_session(model.SerializeToString()).run(None, {INPUT: pixels})
        for ours, theirs in zip(found, graph(torch.from_numpy(pixels)), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


class TestFormulas:
    PICTURES, PREFIX = 5, 1

    @pytest.fixture
    def tokens(self):
        """Tokens of 5 pictures behind 3 blocks, 4 tokens of width 6, exact and noisy."""
        rng = np.random.default_rng(0)
        exact = rng.standard_normal((self.PICTURES, 3, 4, 6))
        return exact, exact + 0.1 * rng.standard_normal(exact.shape)

    def profile(self, exact, noisy):
        drift = Drift()
        for one, other in zip(exact, noisy, strict=True):
            drift.add(one, other, self.PREFIX)
        return drift.profile(exact[:, :, self.PREFIX :].mean((0, 2)))

    def test_distances_and_cosines_are_over_tokens_and_channels(self, tokens):
        found = self.profile(*tokens)
        exact, noisy = (part.reshape(self.PICTURES, 3, -1) for part in tokens)
        for block in range(3):
            pairs = list(zip(exact[:, block], noisy[:, block], strict=True))
            distance = np.mean([np.linalg.norm(b - a) for a, b in pairs])
            cosine = np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs])
            assert found.quantisation[block] == pytest.approx(distance)
            assert found.drift[block] == pytest.approx(1 - cosine)

    def test_inr_is_equation_5_of_the_mean_patch_token(self, tokens):
        found = self.profile(*tokens)
        exact, noisy = (part[:, :, self.PREFIX :].mean(2) for part in tokens)
        for block in range(3):
            signal = np.linalg.norm(exact[:, block].mean(0)) ** 2
            error = noisy[:, block] - exact[:, block]
            variance = np.mean([np.linalg.norm(e - error.mean(0)) ** 2 for e in error])
            assert found.inr[block] == pytest.approx(signal / variance)

    def test_a_common_shift_is_no_noise_to_inr(self, tokens):
        exact, noisy = tokens
        shifted = self.profile(exact, noisy + 3)
        plain = self.profile(exact, noisy)
        np.testing.assert_allclose(shifted.inr, plain.inr)
        assert (shifted.quantisation > plain.quantisation).all()

    def test_the_ratio_is_one_distance_by_the_other(self):
        profile = Profile(np.array([1.0, 3.0]), np.ones(2), np.zeros(2))
        noise = Noise(np.array([4.0, 6.0]), {"dynamic": profile}, 8, 8)
        assert noise.ratio("dynamic").tolist() == [0.25, 0.5]


class TestMeasured:
    def test_every_recipe_is_measured_behind_every_block(self, measured):
        assert list(measured.profiles) == list(RECIPES)
        assert len(RECIPES) == 1 + 2 * len(METHODS)
        assert (measured.observed, measured.measured) == (8, 4)
        for profile in measured.profiles.values():
            for figures in (profile.quantisation, profile.inr, profile.drift):
                assert figures.shape == (LAYERS,) and (figures > 0).all() and np.isfinite(figures).all()
            assert (profile.drift < 0.05).all()

    def test_a_block_adds_what_its_tokens_differ(self, graph, pixels, measured):
        tokens = np.stack([part.numpy() for part in graph(torch.from_numpy(pixels[8:]))])
        steps = np.linalg.norm(np.diff(tokens, axis=0).swapaxes(1, 2).reshape(LAYERS, 4, -1), axis=-1)
        np.testing.assert_allclose(measured.natural, steps.mean(1), rtol=1e-4)


class TestHalves:
    def test_they_share_no_picture_and_no_copy(self, small, make_folder, tmp_path):
        root = make_folder(tmp_path / "plain", {"all": 40})
        for path in sorted(root.rglob("*.png"))[:20]:
            path.with_name(f"copy of {path.name}").write_bytes(path.read_bytes())
        halves = read_halves(read_unlabelled(root), small.preprocessing, QUIET)
        assert [half.shape for half in halves] == 2 * [(20, *small.preprocessing.size, 3)]
        assert len({pixels.tobytes() for half in halves for pixels in half}) == 40

    def test_many_pictures_are_spread_over_the_folder(self, small, make_folder, tmp_path, monkeypatch):
        monkeypatch.setattr(noise_module, "MOST_PICTURES", 32)
        folder = read_unlabelled(make_folder(tmp_path / "many", {"a": 50, "b": 50}))
        first, second = read_halves(folder, small.preprocessing, QUIET)
        assert len(first) == len(second) == 16
        ends = [to_pixels_of(folder, small, index) for index in (0, 99)]
        np.testing.assert_array_equal(first[0], ends[0])
        np.testing.assert_array_equal(second[-1], ends[1])

    def test_too_few_that_can_be_read_are_refused(self, small, make_folder, tmp_path, capsys):
        root = make_folder(tmp_path / "few", {"all": 32})
        next(root.rglob("*.png")).write_bytes(b"no picture")
        with pytest.raises(DataError, match=r"few: 31 different pictures that can be read.* at least 32"):
            read_halves(read_unlabelled(root), small.preprocessing, QUIET)
        assert "warning: left out: " in capsys.readouterr().err


def to_pixels_of(folder, encoder, index):
    return to_pixels(Image.open(folder.path(index)), encoder.preprocessing)


def made_up(ratios):
    """A noise whose recipes have these ratios behind each block."""
    profiles = {
        name: Profile(np.array(ratio), np.array([8.0, 8.0, 1.0]), np.full(3, 2e-4))
        for name, ratio in ratios.items()
    }
    return Noise(np.ones(3), profiles, 100, 200)


def test_sentences_are_computed_from_the_figures():
    ratios = {"dynamic": [0.2, 0.4, 0.6], "minmax": [0.05, 0.08, 0.3], "minmax, equalised": [0.1, 0.2, 0.3]}
    heading = {"title": "noise", "command": "tgems-edge study", "made": "Made."}
    said = to_markdown(page_of(made_up(ratios), heading), plots="")
    for sentence in (
        "The least noisy recipe is “minmax”: on average over layers, its noise is 14.3 % of what a block",
        "The noisiest is “dynamic”, with 40.0 %.",
        "With “minmax” it is under 10 % at layers 1 and 2, and largest at layer 3: 30.0 %.",
        "Equalising changes the average from 14.3 to 20.0 % (minmax).",
        "with “minmax”, those at layer 3.",
        "somebody else's figures: of ViT-B/32",
        "| 3 | 60.0 | 30.0 | 30.0 |\n| mean | 40.0 | 14.3 | 20.0 |",
        "100 pictures gave the ranges; on 200 others",
        "](noise.svg)",
    ):
        assert sentence in said


class TestCommand:
    @pytest.mark.slow
    def test_it_writes_three_files_and_nothing_else(self, pictures, tmp_path):
        clip = pictures.parent / "clip"
        clip.mkdir()
        config = json.loads((DEMO_FOLDER / CONFIG_FILE).read_text())
        config["model_cfg"]["vision_cfg"]["layers"] = LAYERS
        (clip / CONFIG_FILE).write_text(json.dumps(config))
        words = ["study", pictures.name, "--noise", "--out", tmp_path / "out", "--overwrite", "--quiet"]
        words += ["--encoder", "local-dir:clip", "--pretrained", "random"]
        run = [sys.executable, "-m", "tgems_edge", *map(str, words)]
        done = subprocess.run(run, capture_output=True, text=True, cwd=pictures.parent)
        assert (done.returncode, done.stderr) == (0, "")
        paths = [tmp_path / "out" / f"noise.{kind}" for kind in ("json", "md", "svg")]
        assert sorted((tmp_path / "out").iterdir()) == paths
        assert done.stdout.splitlines()[-3:] == [str(path) for path in paths]
        found = json.loads(paths[0].read_text())
        assert found["pictures"] == {"observed": 18, "measured": 18}
        assert list(found["recipes"]) == list(RECIPES) and len(found["d_nat"]) == LAYERS
        for figures in found["recipes"].values():
            quotient = np.array(figures["d_quant"]) / found["d_nat"]
            np.testing.assert_allclose(figures["ratio"], quotient, rtol=1e-4)
        text = paths[1].read_text()
        assert text.startswith("# What INT8 does to local-dir:clip on pictures\n")
        options = "--encoder local-dir:clip --pretrained random --noise"
        assert f"\ntgems-edge study pictures {options} --out {tmp_path / 'out'}\n" in text
        assert paths[2].read_text().startswith("<svg") and "percentile, equalised" in paths[2].read_text()

    def test_an_earlier_report_is_kept(self, command, pictures, tmp_path):
        (tmp_path / "noise.json").write_text("{}")
        result = command("study", pictures, "--noise", "--out", tmp_path)
        assert result.exit_code == 2
        assert "noise.json: exists already; give --overwrite or another --out" in result.stderr

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--k", 64), "--k: has no part in --noise; leave it out"),
            (("--calibration", "nowhere"), "--calibration: has no part in --noise"),
            (
                ("--encoder", "RN50", "--pretrained", "random"),
                "RN50: --noise compares blocks of one width; give a ViT",
            ),
        ],
        ids=str,
    )
    def test_what_has_no_part_in_it_is_refused(self, command, pictures, tmp_path, options, message):
        result = command("study", pictures, "--noise", "--out", tmp_path / "out", *options)
        assert result.exit_code == 2 and message in result.stderr
        assert not (tmp_path / "out").exists()

    def test_too_few_pictures_are_refused_in_one_line(self, command, make_folder, tmp_path):
        root = make_folder(tmp_path / "few", {"all": 5})
        result = command("study", root, "--noise", "--out", tmp_path / "out", "--quiet")
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
        assert "5 different pictures" in result.stderr and not (tmp_path / "out").exists()
