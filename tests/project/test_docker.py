"""Dockerfiles agree with the package: what they copy, install, run and leave out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import read_dockerfile

from tgems_edge.cli import DEVICE_COMMANDS

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
NAMES = [path.stem for path in DOCKERFILES]
HEAVY = {"torch", "open-clip-torch", "onnx", "onnxscript", "timm", "scikit-learn"}


@pytest.fixture(params=DOCKERFILES, ids=NAMES)
def instructions(request):
    return read_dockerfile(request.param)


def last_stage(instructions):
    """Its instructions by name, the last of each."""
    start = max(i for i, instruction in enumerate(instructions) if instruction.name == "FROM")
    return {instruction.name: instruction for instruction in instructions[start:]}


def installed(name):
    """Distributions that the image's list of requirements names."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return {line.split("==")[0] for line in lines if line[:1].isalnum()}


def test_what_is_installed_is_locked_and_the_base_is_fixed(instructions):
    base = next(instruction for instruction in instructions if instruction.name == "FROM")
    assert re.fullmatch(r"\S+:\S+@sha256:[0-9a-f]{64} AS base", base.text)
    commands = [part for i in instructions if i.name == "RUN" for part in i.text.split("&&")]
    for command in [command for command in commands if "pip" in command and "install" in command]:
        if "apt-get" not in command:
            assert "--require-hashes" in command or "--no-deps" in command
        assert "index" not in command


def test_there_is_one_for_each_place():
    assert NAMES == ["device", "jetson", "workstation"]


def test_an_image_runs_the_command_as_a_user_and_checks_itself(instructions):
    last = last_stage(instructions)
    assert last["ENTRYPOINT"].command == ["tgems-edge"]
    assert last["USER"].text == "edge"
    program, command, *_ = last["HEALTHCHECK"].command
    assert program == "tgems-edge"
    assert command in {*DEVICE_COMMANDS, "export"}


def test_what_an_image_copies_is_there_and_not_ignored(instructions):
    let_through = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    copies = [i for i in instructions if i.name == "COPY" and "from" not in i.flags]
    for source in [source for copy in copies for source in copy.words[:-1]]:
        if source == "$ONNXRUNTIME_WHEEL":
            assert "*.whl" in let_through
        else:
            assert (ROOT / source).exists()
            assert source.split("/")[0] in let_through


@pytest.mark.parametrize("name", ["device", "jetson"])
def test_an_image_for_a_device_has_nothing_of_the_workstation(name):
    path = ROOT / "docker" / f"{name}.Dockerfile"
    assert not installed(name) & HEAVY
    copied = [word for i in read_dockerfile(path) if i.name == "COPY" for word in i.words]
    assert "tgems_edge" in copied and "export" not in copied


def test_each_image_has_the_onnxruntime_of_its_place():
    runtimes = {name: {n for n in installed(name) if n.startswith("onnxruntime")} for name in NAMES}
    assert runtimes == {"device": {"onnxruntime"}, "jetson": set(), "workstation": {"onnxruntime"}}


def test_the_workstation_has_all_that_export_needs():
    assert installed("workstation") >= HEAVY


def test_an_instruction_that_nobody_carries_out_is_refused(tmp_path):
    path = tmp_path / "device.Dockerfile"
    path.write_text("FROM scratch\nVOLUME /data\n")
    with pytest.raises(ValueError, match="VOLUME"):
        read_dockerfile(path)


@pytest.mark.parametrize("script", ["tests/docker/check.py device", "tests/arm/check.py"])
def test_without_the_tools_a_check_says_why_it_does_nothing(script, monkeypatch):
    monkeypatch.setenv("PATH", "")
    command = [sys.executable, *script.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("skipped: ") and done.stdout.count("\n") == 1
    assert "only root" in done.stdout or "apt-get install debootstrap" in done.stdout


@pytest.mark.chroot
@pytest.mark.parametrize("name", ["device", "jetson"])
def test_an_image_can_be_built_and_is_healthy(name, tmp_path):
    command = [
        sys.executable,
        ROOT / "tests" / "docker" / "check.py",
        name,
        "--report",
        tmp_path / "sizes.md",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout
