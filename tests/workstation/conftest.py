"""The demo CLIP, a drawn folder that a head can learn, heads trained on it, and the command line."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from tgems_edge.cli import app
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import to_pixels
from tgems_edge.runtime.session import open_session
from tgems_edge.sources.data import read_labelled
from tgems_export.encoders.checkpoints.loading import DEMO_FOLDER
from tgems_export.encoders.encoder import load_encoder
from tgems_export.encoders.prompts import load_templates
from tgems_export.exporting.graph.assembly import flat
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.heads.learning import TrainingSettings, train_heads
from tgems_export.heads.tgem import TGemHead
from tgems_export.heads.training.tgem import TGemSettings
from tgems_export.pictures import SHAPES, draw

FIGURES = {"red_circle": "ellipse", "green_square": "rectangle", "blue_cross": "line"}
SIZES = ((40, 30), (33, 61), (96, 96), (200, 57), (31, 32))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The matrices of these tests are so small that threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for every test."""
    monkeypatch.setenv("TGEMS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def encoder():
    return load_encoder()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """tiny(name, vision={}, **model): registers a variant of the demo's architecture with open_clip."""
    original = json.loads((DEMO_FOLDER / "open_clip_config.json").read_text())["model_cfg"]

    def tiny(name, vision=None, **model):
        folder = tmp_path_factory.mktemp("architectures")
        changed = {**original, **model, "vision_cfg": original["vision_cfg"] | (vision or {})}
        (folder / f"{name}.json").write_text(json.dumps(changed))
        open_clip.add_model_config(folder)
        return name

    return tiny


@pytest.fixture
def reporter():
    return Reporter(quiet=True)


@pytest.fixture(scope="session")
def random_head():
    """random_head(encoder, k, layer): a head whose weights and statistics are those of no training."""

    def random_head(encoder, k=16, layer=1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(k)
            head = TGemHead(encoder.tower.at(layer).width, encoder.embedding_width, k)
            head.jumper.norm.running_mean.normal_()
            head.jumper.norm.running_var.uniform_(0.5, 2)
        return head.eval().requires_grad_(False)

    return random_head


class Exit:
    """An exit with a random head, as a graph, and the rates that the encoder's own library gives."""

    def __init__(self, encoder, layer, pool, head, pictures=7, **options):
        self.text = encoder.text.encode(["a cat", "a dog", "a truck"])
        self.graph = ExitGraph(encoder, [Cut(layer, pool, head)], self.text, **options)
        self.layer = layer
        self.size, self.pool = encoder.preprocessing.size, pool
        drawn = [draw(seed, *SHAPES[seed % len(SHAPES)]) for seed in range(pictures)]
        self.pixels = np.stack([to_pixels(picture, encoder.preprocessing) for picture in drawn])
        images = torch.stack([encoder.reference_transform(picture) for picture in drawn])
        self.rates = head.rates(encoder.exit_activation(images, layer, pool), self.text).numpy()

    def check_in_torch(self):
        self.check(self.graph(torch.from_numpy(self.pixels))[0])

    def to_onnx(self, opset=18):
        """The graph of a file with this exit alone."""
        return flat(to_onnx(self.graph, self.size, opset), [self.layer])

    def check_in_onnx(self, opset=18):
        session = open_session(self.to_onnx(opset).SerializeToString())
        for batch in (1, len(self.pixels)):
            self.check(session.run(["rates"], {INPUT: self.pixels[:batch]})[0])

    def check(self, rates):
        """The rates of the first pictures, to rounding; and pictures have different ones."""
        assert np.ptp(self.rates, axis=0).max() > 1e-4
        torch.testing.assert_close(np.asarray(rates), self.rates[: len(rates)], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="session")
def make_exit(random_head):
    """make_exit(encoder, layer, pool, ...): see `Exit`."""

    def make_exit(encoder, layer, pool, head=None, **options):
        return Exit(encoder, layer, pool, head or random_head(encoder, layer=layer), **options)

    return make_exit


@pytest.fixture(scope="session")
def make_folder():
    """make_folder(root, {"cat": 3}): an image folder with that many drawn pictures a class."""

    def make_folder(root, counts):
        for number, (name, count) in enumerate(counts.items()):
            (root / name).mkdir(parents=True)
            for i in range(count):
                draw(1000 * number + i, 32 + i, 40).save(root / name / f"{i:02d}.png")
        return root

    return make_folder


def draw_figures(root, per_class, seed):
    """JPEG and PNG of different sizes, whose colour and shape give the class away."""
    for label, (name, shape) in enumerate(FIGURES.items()):
        (root / name).mkdir()
        for i in range(per_class):
            rng = np.random.RandomState(seed + per_class * label + i)
            width, height = SIZES[i % len(SIZES)]
            picture = Image.fromarray(rng.randint(90, 165, (height, width, 3)).astype(np.uint8))
            colour = tuple(int(c) for c in rng.randint(0, 60, 3) + 180 * np.eye(3, dtype=int)[label])
            box = [(width // 8, height // 8), (7 * width // 8, 7 * height // 8)]
            options = {"width": height // 3} if shape == "line" else {}
            getattr(ImageDraw.Draw(picture), shape)(box, fill=colour, **options)
            picture.save(root / name / f"{i:02d}.{('jpg', 'png')[i % 2]}")
    return root


@pytest.fixture(scope="session")
def figures(tmp_path_factory):
    """40 pictures a class, to train on."""
    return draw_figures(tmp_path_factory.mktemp("figures"), 40, seed=0)


@pytest.fixture(scope="session")
def fresh_figures(tmp_path_factory):
    """70 other pictures a class, to calibrate and to measure on."""
    return draw_figures(tmp_path_factory.mktemp("fresh-figures"), 70, seed=1000)


@pytest.fixture(scope="session")
def many_figures(tmp_path_factory):
    """170 pictures a class: a fifth of them is enough to calibrate."""
    return draw_figures(tmp_path_factory.mktemp("many-figures"), 170, seed=5000)


@pytest.fixture(scope="session")
def heads(tmp_path_factory, encoder, figures):
    """A folder with heads for the layers 1 and 2, trained on the figures."""
    folder = read_labelled(figures)
    plan = TrainingSettings((1, 2), folder.classes, load_templates(), head=TGemSettings(k=16, epochs=30))
    out = tmp_path_factory.mktemp("heads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TGEMS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        train_heads(encoder, folder, plan, out, Reporter(quiet=True))
    return out


@pytest.fixture(scope="session")
def command():
    """command("export", "--layer", 5): the command line, in this process."""
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
