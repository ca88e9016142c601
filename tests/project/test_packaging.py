"""The distribution holds what a device needs, and leaves what collides to extras."""

import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tgems_edge.model import built_in_model

ROOT = Path(__file__).parents[2]
REQUIREMENTS = [Requirement(text) for text in requires("tgems-edge")]


def names(extra: str) -> set[str]:
    return {
        requirement.name.lower()
        for requirement in REQUIREMENTS
        if (requirement.marker is None) == (extra == "")
        and (not extra or requirement.marker.evaluate({"extra": extra}))
    }


def test_a_device_installs_four_packages_and_chooses_its_onnxruntime() -> None:
    assert names("") == {"numpy", "pillow", "rich", "typer"}
    assert names("cpu") == {"onnxruntime"}
    assert names("gpu") == {"onnxruntime-gpu"}


def test_the_release_that_dies_on_a_raspberry_pi_is_excluded() -> None:
    for requirement in REQUIREMENTS:
        if requirement.name.startswith("onnxruntime"):
            assert "1.21.0" not in requirement.specifier


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_the_demo(tmp_path: Path) -> None:
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", tmp_path]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, ROOT], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"tgems_edge/demo/model.onnx", "tgems_edge/py.typed", "tgems_export/exporting/graph.py"} <= held
    for heads in ("heads", "heads-190"):
        files = {f"tgems_export/demo/{heads}/layer-{layer:02d}.safetensors" for layer in range(1, 13)}
        assert files <= held
    assert "tgems_export/demo/clip/open_clip_model.safetensors" in held
    assert not [name for name in held if name.startswith(("tests/", "export/", "benchmarks/"))]


def test_the_built_in_model_is_small_enough_to_ship() -> None:
    assert built_in_model().stat().st_size < 10_000_000
