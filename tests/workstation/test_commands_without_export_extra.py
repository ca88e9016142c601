"""Commands of the missing export extra still show, and say in one line what to install."""

import subprocess
import sys

import pytest

BLOCKED = ["torch", "torchvision", "open_clip", "onnx", "onnxsim", "onnxscript", "safetensors"]
RUN = """
import sys
sys.modules.update(dict.fromkeys({blocked}))  # None there makes an import fail
from tgems_edge.cli import main
main(sys.argv[1:])
"""


def run(*arguments, blocked=BLOCKED):
    command = [sys.executable, "-c", RUN.format(blocked=blocked), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_commands_show_only_where_their_package_is():
    result = run("--help", blocked=["tgems_export"])
    assert result.returncode == 0
    commands = [line.split()[0] for line in result.stdout.split("Commands:\n")[1].splitlines()]
    assert "classify" in commands and "train" not in commands
    result = run("train", "pictures", blocked=["tgems_export"])
    assert result.returncode == 2
    assert result.stderr.startswith("error: this command needs tgems_export")


def test_help_shows_the_commands_of_the_workstation():
    result = run("--help")
    assert result.returncode == 0
    assert "train" in result.stdout and "export" in result.stdout


@pytest.mark.parametrize(("command", "option"), [("train", "--epochs"), ("export", "--opset")])
def test_help_of_a_command_shows_its_options(command, option):
    result = run(command, "--help")
    assert result.returncode == 0
    assert option in result.stdout


@pytest.mark.parametrize("arguments", [("train", "pictures"), ("export", "--layer", "5")], ids=lambda a: a[0])
def test_running_a_command_names_what_to_install(arguments):
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: this command needs ") and result.stderr.count("\n") == 1
    assert result.stderr.endswith("which is not installed: pip install 'tgems-edge[export]'\n")
