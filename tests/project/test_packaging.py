"""The distribution holds what a device needs, and leaves what collides to extras."""

import subprocess
import sys
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tgems_edge
from tgems_edge.model_file.default import built_in_model

ROOT = Path(__file__).parents[2]
REQUIREMENTS = [Requirement(text) for text in requires("tgems-edge")]
OURS = {"tgems-edge", "tgems-export"}


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


def test_both_distributions_are_one_release() -> None:
    assert version("tgems-edge") == version("tgems-export") == tgems_edge.__version__
    assert f"tgems-edge[cpu]=={tgems_edge.__version__}" in requires("tgems-export")
    assert any(text.startswith(f"tgems-export=={tgems_edge.__version__};") for text in requires("tgems-edge"))


def held_by_wheel(source: Path, folder: Path) -> zipfile.ZipFile:
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.mark.slow
def test_the_device_gets_no_workstation_code_and_under_10_mb(tmp_path: Path) -> None:
    wheel = held_by_wheel(ROOT, tmp_path)
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"tgems_edge", f"tgems_edge-{tgems_edge.__version__}.dist-info"}
    assert {"tgems_edge/demo/model.onnx", "tgems_edge/py.typed"} <= set(wheel.namelist())
    assert sum(file.file_size for file in wheel.infolist()) < 10_000_000


@pytest.mark.slow
def test_the_workstation_gets_the_demo_encoder_and_its_heads(tmp_path: Path) -> None:
    held = set(held_by_wheel(ROOT / "export", tmp_path).namelist())
    for heads in ("heads", "heads-190"):
        files = {f"tgems_export/demo/{heads}/layer-{layer:02d}.safetensors" for layer in range(1, 13)}
        assert files <= held
    assert {"tgems_export/demo/clip/open_clip_model.safetensors", "tgems_export/py.typed"} <= held
    photo = ROOT / "export" / "tgems_export" / "builtin" / "photo" / "clip"
    assert {str(path.relative_to(ROOT / "export")) for path in photo.iterdir()} <= held
    templates = (ROOT / "export" / "tgems_export" / "study" / "reporting" / "templates").rglob("*.*")
    assert {str(path.relative_to(ROOT / "export")) for path in templates} <= held
    assert not [name for name in held if not name.startswith(("tgems_export/", "tgems_export-"))]


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


def wanted(distribution: str, extra: str, platform: dict[str, str]) -> list[Requirement]:
    """Return the requirements of a distribution of ours on a platform, with those of ours that it names."""
    environment = {"sys_platform": "linux", "extra": extra, **platform}
    found = []
    for requirement in map(Requirement, requires(distribution)):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            if requirement.name in OURS:
                for name in requirement.extras or {""}:
                    found += wanted(requirement.name, name, platform)
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda p: "-".join(list(p.values())[::2]))
@pytest.mark.parametrize(
    ("file", "extra"),
    [("dev.txt", "dev"), ("device.txt", "cpu"), ("jetson.txt", ""), ("workstation.txt", "export")],
)
def test_what_is_locked_is_what_is_allowed(file: str, extra: str, platform: dict[str, str]) -> None:
    versions = locked(file, platform)
    for requirement in wanted("tgems-edge", extra, platform):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("file", ["build.txt", "device.txt", "jetson.txt", "workstation.txt"])
def test_what_an_image_installs_has_hashes(file: str) -> None:
    text = (LOCKED / file).read_text(encoding="utf-8")
    pins = [line for line in text.splitlines() if line and line[0] not in "# "]
    assert pins
    assert all(line.endswith("\\") for line in pins)  # the next lines are its hashes
    assert text.count("--hash=sha256:") >= len(pins)
