"""The device package loads no workstation package, and offers its public names."""

import ast
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

import tgems_edge

DEVICE = {"numpy", "PIL", "onnxruntime", "typer"}
WORKSTATION = {"torch", "torchvision", "open_clip", "onnx", "onnxsim", "safetensors", "transformers", "timm"}
PACKAGE = Path(tgems_edge.__file__).parent

REPORT_MODULES = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
"""


def loaded_by(code, *arguments):
    """Top-level modules that a fresh interpreter has loaded when `code` has run."""
    command = [sys.executable, "-c", REPORT_MODULES + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_by("import tgems_edge")
    assert "tgems_edge" in loaded
    assert not loaded & (DEVICE | WORKSTATION)


COMMAND = "from tgems_edge.cli import main; main(sys.argv[1:])"


def test_classifying_a_picture_loads_nothing_of_the_workstation(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (32, 32), "teal").save(path)
    loaded = loaded_by(COMMAND, "classify", str(path))
    assert loaded > DEVICE
    assert not loaded & (WORKSTATION | {"tgems_export"})


def test_classifying_loads_nothing_that_only_other_commands_need(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (32, 32), "teal").save(path)
    loaded = loaded_by(COMMAND, "classify", str(path))
    assert not loaded & {
        "rich",
        "tgems_edge.sources.data",
        "tgems_edge.runtime.evaluation",
        "tgems_edge.progress",
    }


def test_evaluating_loads_nothing_of_the_workstation(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32), "teal").save(tmp_path / name / "picture.png")
    assert not loaded_by(COMMAND, "evaluate", str(tmp_path)) & (WORKSTATION | {"tgems_export"})


def test_doctor_needs_nothing_that_may_be_broken():
    loaded = loaded_by("import tgems_edge.cli.doctor, tgems_edge.cli")
    assert "tgems_edge.doctor.checks" in loaded
    assert not loaded & {"numpy", "PIL", "onnxruntime"}


def test_inspecting_loads_nothing_that_runs_models():
    loaded = loaded_by(COMMAND, "inspect")
    assert "tgems_edge.model_file.onnx_file" in loaded
    assert not loaded & (WORKSTATION | {"tgems_export", "onnxruntime"})


def test_verifying_loads_nothing_of_the_workstation():
    assert not loaded_by(COMMAND, "verify") & (WORKSTATION | {"tgems_export"})


def test_measuring_loads_nothing_of_the_workstation():
    assert not loaded_by(COMMAND, "bench", "--quiet", "--seconds", "0.1") & (WORKSTATION | {"tgems_export"})


def test_help_loads_nothing_of_the_workstation_libraries():
    assert not loaded_by(COMMAND, "--help") & WORKSTATION


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_device_module_imports_the_workstation(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert not imported & (WORKSTATION | {"tgems_export"})


def test_the_public_names_are_the_documented_ones():
    assert sorted(tgems_edge.__all__) == ["Classifier", "Result", "TgemsError", "__version__", "load"]
    for name in tgems_edge.__all__:
        assert getattr(tgems_edge, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        tgems_edge.nonsense  # noqa: B018


def test_the_version_is_that_of_the_installed_package():
    assert tgems_edge.__version__ == version("tgems-edge")
