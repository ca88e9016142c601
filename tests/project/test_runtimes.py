"""Exported files run on the oldest onnxruntime we promise, on Python 3.10 and on arm64."""

import json
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tgems_edge.model_file.default import built_in_model
from tgems_edge.progress import Reporter
from tgems_edge.runtime.classifier import Classifier
from tgems_export.exporting.pipeline import export_model
from tgems_export.exporting.settings import (
    DynamicSettings,
    ExitSettings,
    ExportSettings,
    GraphSettings,
    Int8Settings,
    PictureSettings,
)
from tgems_export.pictures import draw

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
OLDEST = ("onnxruntime==1.17.0", "numpy<2")  # built for Python 3.8 to 3.12, against numpy 1


def pip(*arguments, python=sys.executable):
    command = [python, "-m", "pip", *map(str, arguments), "--disable-pip-version-check"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def index():
    """pip's index, or a reason to skip."""
    if pip("index", "versions", "numpy").returncode:
        pytest.skip("pip cannot reach an index from here")


@pytest.fixture(scope="module")
def oldest(index, tmp_path_factory):
    """A virtual environment with the oldest onnxruntime and the device package."""
    if sys.version_info >= (3, 13):
        pytest.skip(f"{OLDEST[0]} was not built for Python {sys.version_info.major}.{sys.version_info.minor}")
    folder = tmp_path_factory.mktemp("oldest")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    installed = pip("install", "--quiet", *OLDEST, ROOT, python=python)
    assert installed.returncode == 0, installed.stderr
    return python


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Ten pictures in each of the demo's classes, to calibrate on."""
    root = tmp_path_factory.mktemp("drawn")
    for label, name in enumerate(Classifier(built_in_model()).names):
        (root / name).mkdir()
        for number in range(10):
            draw(10 * label + number, 60, 40).save(root / name / f"{number}.png")
    return root


INT8, ONE, TWO = GraphSettings(precision="int8"), ExitSettings((2,)), ExitSettings((1, 2))
CHOSEN = {
    "image": {"exits": ONE, "graph": GraphSettings("image")},
    "fp16": {"exits": ONE, "graph": GraphSettings(precision="fp16")},
    "int8": {"exits": ONE, "graph": INT8},
    "int8-vnni-image": {
        "exits": ONE,
        "graph": GraphSettings("image", "int8"),
        "int8": Int8Settings("x86-vnni"),
    },
    "int8-dynamic": {"exits": ONE, "graph": GraphSettings(precision="int8-dynamic")},
    "exits-int8": {"exits": TWO, "graph": INT8},
    "exits-flat-image": {
        "exits": TWO,
        "graph": GraphSettings("image"),
        "dynamic": DynamicSettings(nested=False),
    },
    "exits-int8-dynamic": {"exits": TWO, "graph": GraphSettings(precision="int8-dynamic")},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["built-in", *CHOSEN])
def test_the_oldest_onnxruntime_gives_the_same_answers(oldest, drawn, tmp_path, name):
    model = built_in_model()
    if name in CHOSEN:
        model = tmp_path / "model.onnx"
        pictures = PictureSettings(calibration=drawn)
        export_model(ExportSettings(model, pictures=pictures, **CHOSEN[name]), Reporter(quiet=True))
    command = [oldest, "-m", "tgems_edge", "classify", "--json", "--model", model, *EXAMPLES]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    classifier = Classifier(model)
    expected = [classifier.classify(picture) for picture in EXAMPLES]  # dynamic INT8 depends on the batch
    assert [answer["label"] for answer in answers] == [result.label for result in expected]
    tolerance = 1e-4 if classifier.card.precision == "fp32" else 1e-2  # else a runtime rounds as it likes
    for answer, result in zip(answers, expected, strict=True):
        assert answer["exit_layer"] == result.exit_layer
        assert answer["rate"] == pytest.approx(float(result.rates.min()), abs=tolerance)


@pytest.mark.slow
def test_the_device_package_resolves_for_python_3_10_on_arm64(index, tmp_path):
    wanted = [Requirement(text) for text in requires("tgems-edge")]
    board = {"extra": "cpu", "python_version": "3.10", "platform_machine": "aarch64"}
    needed = [r for r in wanted if r.marker is None or r.marker.evaluate(board)]
    platforms = [f"--platform=manylinux{tag}_aarch64" for tag in ("2014", "_2_27", "_2_28")]
    options = ["--only-binary=:all:", "--python-version=3.10", *platforms, f"--target={tmp_path}"]
    plain = [f"{r.name}{r.specifier}" for r in needed]
    resolved = pip("install", "--dry-run", "--quiet", "--report=-", *options, *plain)
    assert resolved.returncode == 0, resolved.stderr
    names = {item["metadata"]["name"].lower() for item in json.loads(resolved.stdout)["install"]}
    assert {"numpy", "pillow", "typer", "onnxruntime"} <= names
    assert not names & {"torch", "open-clip-torch", "onnx"}
