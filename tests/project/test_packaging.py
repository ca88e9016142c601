"""The distribution holds what a device needs, and leaves what collides to extras."""

import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


LOCKED = ROOT / "requirements"
PLATFORMS = [
    {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine}
    for python in ("3.10", "3.11", "3.12", "3.13", "3.14")
    for machine in ("x86_64", "aarch64")
]


def locked(name: str, platform: dict[str, str]) -> dict[str, str]:
    """The versions that a file of requirements/ has for a platform."""
    lines = (LOCKED / name).read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line.rstrip(" \\")) for line in lines if line and line[0] not in "# "]
    environment = {"sys_platform": "linux", "implementation_name": "cpython", **platform}
    chosen = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]
    names = [canonicalize_name(pin.name) for pin in chosen]
    assert len(names) == len(set(names))
    return dict(zip(names, (str(pin.specifier).removeprefix("==") for pin in chosen), strict=True))


def wanted(extra: str, platform: dict[str, str]) -> list[Requirement]:
    """What an extra of pyproject.toml asks for on a platform, with the extras that it names."""
    environment = {"sys_platform": "linux", **platform}
    found = []
    for requirement in REQUIREMENTS:
        if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra}):
            if requirement.name == "tgems-edge":
                found += [inner for name in requirement.extras for inner in wanted(name, platform)]
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda p: "-".join(list(p.values())[::2]))
@pytest.mark.parametrize(
    ("file", "extra"), [("dev.txt", "dev"), ("device.txt", "cpu"), ("workstation.txt", "export")]
)
def test_what_is_locked_is_what_is_allowed(file: str, extra: str, platform: dict[str, str]) -> None:
    versions = locked(file, platform)
    for requirement in wanted(extra, platform):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("file", ["device.txt", "workstation.txt"])
def test_what_an_image_installs_has_hashes(file: str) -> None:
    text = (LOCKED / file).read_text(encoding="utf-8")
    pins = [line for line in text.splitlines() if line and line[0] not in "# "]
    assert pins
    assert all(line.endswith("\\") for line in pins)  # the next lines are its hashes
    assert text.count("--hash=sha256:") >= len(pins)
