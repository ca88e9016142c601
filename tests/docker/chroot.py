"""Builds and runs images without a Docker engine: debootstrap makes the base, chroot enters it.

Needs Debian or a relative of it, root rights, debootstrap and a network; for another architecture also
qemu-user-static and binfmt-support. Images lie in build/roots, their bases beside them for the next time.
Mounts live in a namespace of their own and end with the command. Plain Debian stands in for a base that is
not made of it.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import Any

from dockerfile import Instruction, read_dockerfile

__all__ = ["ARCHITECTURES", "ROOTS", "Image", "build", "obstacle"]

CONTEXT = Path(__file__).parents[2]
ROOTS = CONTEXT / "build" / "roots"
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}  # Debian's names, and everybody else's
HANDLERS = Path("/proc/sys/fs/binfmt_misc")
PYTHON_IMAGE = re.compile(r"python:(3\.\d+)-slim-(\w+)(@sha256:[0-9a-f]{64})?")
PYTHON_PACKAGES = ("python3", "python3-pip", "python3-venv", "ca-certificates")
STAND_IN = "bookworm"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NETWORK = ("http_proxy", "https_proxy", "no_proxy", "PIP_CERT")  # an engine passes on the first three as well


@dataclass(frozen=True)
class Image:
    """A root file system, and what Docker keeps beside it."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "root"
    folder: str = "/"
    health: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    def run(self, arguments: Sequence[str] = (), **options: Any) -> subprocess.CompletedProcess[str]:
        """The entry point with these arguments, else with the usual ones; options as for `enter`."""
        return self.enter([*self.entrypoint, *(arguments or self.command)], **options)

    def enter(
        self,
        command: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        volumes: Sequence[tuple[Path, str]] = (),
        stdout: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command as the image's user, in its folder and with its variables.

        Args:
            command: the program, found on the image's PATH, and its arguments.
            env: more variables.
            volumes: folders of this machine and where the image sees them.
            stdout: as for `subprocess.run`.
        """
        # Not /sys: with this machine's topology in sight, onnxruntime for arm64 dies under emulation.
        steps = [["mount", "-t", "proc", "proc", self.inside("/proc")]]
        for source, target in volumes:
            self.inside(target).mkdir(parents=True, exist_ok=True)
            steps.append(["mount", "--bind", source.resolve(), self.inside(target)])
        home = "/root" if self.user == "root" else f"/home/{self.user}"
        variables = {"HOME": home, **self.env, **(env or {})}
        settings = [f"{name}={value}" for name, value in variables.items()]
        prepared = ["env", "-i", f"--chdir={self.folder}", *settings, *command]
        steps.append(["exec", "chroot", f"--userspec={self.user}", self.root, *prepared])
        script = " && ".join(shlex.join(map(str, step)) for step in steps)
        return subprocess.run(["unshare", "--mount", "sh", "-c", script], stdout=stdout, text=True)

    def inside(self, path: str) -> Path:
        """Return the place of an absolute path of the image on this machine."""
        return self.root / path.lstrip("/")


def obstacle(arch: str) -> str | None:
    """Why images for this architecture cannot be built here; None if they can.

    Asks the kernel to run the architecture's programs with qemu, where it does not yet.
    """
    if os.geteuid():
        return "only root may make and enter a root file system"
    missing = [tool for tool in ("debootstrap", "unshare", "chroot") if not shutil.which(tool)]
    if missing:
        return f"{missing[0]} is not installed; on Debian: apt-get install debootstrap"
    machine = ARCHITECTURES[arch]
    handler = HANDLERS / f"qemu-{machine}"
    if machine == platform.machine() or handler.exists():
        return None
    if shutil.which("update-binfmts"):
        if not (HANDLERS / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "none", HANDLERS])
        subprocess.run(["update-binfmts", "--enable", handler.name])
    if handler.exists():
        return None
    return (
        f"nothing here runs programs for {arch}; on Debian: apt-get install qemu-user-static binfmt-support"
    )


def build(
    dockerfile: Path, arch: str, *, roots: Path = ROOTS, arguments: dict[str, str] | None = None
) -> Image:
    """Carries out a Dockerfile and returns the image of its last stage.

    Args:
        dockerfile: FOLDER/NAME.Dockerfile, for the image NAME-ARCH.
        arch: amd64 or arm64.
        roots: where images and bases lie; an image of the same name is replaced.
        arguments: values for ARG. A file to COPY may be named by an absolute path.

    Raises:
        subprocess.CalledProcessError: a step failed.
        ValueError: an instruction that is not known here, or a base with another Python than its name says.
    """
    roots.mkdir(parents=True, exist_ok=True)
    stages: dict[str, Image] = {}
    for instruction in read_dockerfile(dockerfile):
        match instruction.name:
            case "FROM":
                base, *alias = instruction.words
                stage = alias[-1] if alias else ""  # the last one has no name
                parent = stages.get(base) or Image(_base_root(base, arch, roots))
                name = "-".join(filter(None, (dockerfile.stem, arch, stage)))
                image = replace(parent, root=_copy_root(parent.root, roots / name))
                variables: dict[str, str] = {}  # an ARG ends with its stage
            case "ARG":
                key, _, default = instruction.text.partition("=")
                variables[key] = (arguments or {}).get(key, default)
            case "RUN":
                _run(image, instruction.text, variables)
            case "COPY":
                words = shlex.split(Template(instruction.text).safe_substitute(image.env | variables))
                _copy(words, stages[origin] if (origin := instruction.flags.get("from")) else None, image)
            case _:
                image = _set(image, instruction)
        stages[stage] = image
    for stage, left in stages.items():
        if stage:
            shutil.rmtree(left.root)
    return image


def _run(image: Image, script: str, variables: dict[str, str]) -> None:
    """RUN: with the ARGs that have a value as variables, and the way to the network."""
    network = {key: os.environ[key] for key in NETWORK if key in os.environ}
    given = {key: value for key, value in variables.items() if value}
    image.enter(["sh", "-c", script], env=network | given, stdout=sys.stderr.fileno()).check_returncode()


def _copy(words: Sequence[str], stage: Image | None, image: Image) -> None:
    """COPY: files into a folder, or what is in a folder; from another stage, else from the checkout."""
    *sources, target = words
    ignored = None if stage else shutil.ignore_patterns("__pycache__")
    for source in sources:
        path = stage.inside(source) if stage else CONTEXT / source
        if path.is_dir():
            shutil.copytree(path, image.inside(target), symlinks=True, ignore=ignored, dirs_exist_ok=True)
        else:
            image.inside(target).mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, image.inside(target))


def _set(image: Image, instruction: Instruction) -> Image:
    """The image with what an instruction says about it."""
    match instruction.name:
        case "ENV":
            words = [Template(word).safe_substitute(image.env) for word in instruction.words]
            return replace(image, env=image.env | dict(word.split("=", 1) for word in words))
        case "WORKDIR":
            image.inside(instruction.text).mkdir(parents=True, exist_ok=True)
            return replace(image, folder=instruction.text)
        case "USER":
            return replace(image, user=instruction.text)
        case "HEALTHCHECK":
            return replace(image, health=tuple(instruction.command))
        case "ENTRYPOINT":
            return replace(image, entrypoint=tuple(instruction.command))
        case _:
            return replace(image, command=tuple(instruction.command))


def _base_root(base: str, arch: str, roots: Path) -> Path:
    """A root like that of an image of Docker's; made once."""
    root = roots / f"{re.sub(r'[^a-z0-9.]+', '-', base)}-{arch}"
    if root.exists():
        return root
    python = PYTHON_IMAGE.fullmatch(base)
    suite, packages = (python[2], PYTHON_PACKAGES) if python else (STAND_IN, ("ca-certificates",))
    unfinished = root.with_name(f"{root.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    options = [f"--arch={arch}", "--variant=minbase", f"--include={','.join(packages)}"]
    command = ["unshare", "--mount", "debootstrap", *options, suite, unfinished]
    subprocess.run(command, check=True, stdout=sys.stderr)
    image = Image(unfinished)
    if CERTIFICATES.exists():  # of the network's proxy, if there is one
        shutil.copy2(CERTIFICATES, image.inside(str(CERTIFICATES)))
    if python:
        version = image.enter(["python3", "--version"], stdout=subprocess.PIPE).stdout.split()[1]
        if not version.startswith(f"{python[1]}."):
            raise ValueError(f"{base} has Python {python[1]}, but {suite} has {version}")
    return unfinished.rename(root)


def _copy_root(source: Path, target: Path) -> Path:
    """A root with its devices and owners; `target` is replaced."""
    if target.exists():
        shutil.rmtree(target)
    subprocess.run(["cp", "--archive", source, target], check=True)
    return target
