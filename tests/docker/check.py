"""Builds images without a Docker engine, runs each as its user, and says what the device's weighs.

    python tests/docker/check.py device --arch amd64 --arch arm64
    python tests/docker/check.py jetson
    python tests/docker/check.py workstation

`device` writes benchmarks/results/device_size.md, and fails if it weighs too much. `jetson` has plain Debian
in place of NVIDIA's base and PyPI's onnxruntime in place of NVIDIA's wheel. A minute each for amd64, ten for
`workstation` and for arm64, which is emulated. tests/docker/chroot.py says what this needs; where that is
missing, the reason is printed and nothing done.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

from chroot import ARCHITECTURES, ROOTS, Image, build, obstacle

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
REPORT = ROOT / "benchmarks" / "results" / "device_size.md"
VENV = "/opt/tgems"
AIM = 200  # MB
OUTSIDE = "outside of distributions"
STAND_IN_PYTHON = "3.11"  # of the Debian that stands in for JetPack


def check(image: Image) -> None:
    """Runs the health check, the usual command and `classify` as the image's user, who must not be root.

    Raises:
        subprocess.CalledProcessError: one of them failed.
        RuntimeError: the user is root, or no picture was classified.
    """
    if _output(image.enter(["id", "-u"], stdout=subprocess.PIPE)) == "0":
        raise RuntimeError("the image's user is root")
    image.enter(image.health).check_returncode()
    image.run(stdout=subprocess.DEVNULL).check_returncode()
    shown = _output(image.run(["classify", "."], volumes=[(EXAMPLES, "/data")], stdout=subprocess.PIPE))
    if "chelsea.jpg" not in shown:
        raise RuntimeError(f"classify said {shown!r}")
    print(shown)


def _output(done: subprocess.CompletedProcess[str]) -> str:
    done.check_returncode()
    return done.stdout.strip()


def sizes(image: Image) -> dict[str, int]:
    """Bytes of every distribution in the image's virtual environment, with its compiled files."""
    venv = image.inside(VENV)
    site = next(venv.glob("lib/python3.*/site-packages"))
    found = {
        f"{distribution.name} {distribution.version}": sum(
            Path(file.locate()).stat().st_size for file in distribution.files or ()
        )
        for distribution in importlib.metadata.distributions(path=[str(site)])
    }
    return found | {OUTSIDE: _weigh(venv) - sum(found.values())}


def _weigh(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def write_sizes(path: Path, measured: dict[str, dict[str, int]]) -> None:
    """Writes a table with a column for each architecture, the largest first; sizes in 10⁶ bytes."""
    names = sorted(
        {name for column in measured.values() for name in column},
        key=lambda name: -max(column.get(name, 0) for column in measured.values()),
    )
    rows = [[name, *(_megabytes(column.get(name)) for column in measured.values())] for name in names]
    rows.append(["all", *(_megabytes(sum(column.values())) for column in measured.values())])
    header = ["distribution", *measured]
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---", *["---:"] * len(measured)], *rows)]
    archs = " ".join(f"--arch {arch}" for arch in measured)
    path.write_text(
        "# What the device's Python part weighs\n\n"
        f"`python tests/docker/check.py device {archs}`\n\n"
        f"{VENV} in the image of docker/device.Dockerfile, in MB (10⁶ bytes), compiled files included. The "
        f"aim is {AIM} MB at most. The image was built without a Docker engine; its health check, its usual "
        "command and `classify` ran as its user. It leaves out the workstation's part of the package, which "
        f"is another {_megabytes(_weigh(ROOT / 'export'))} MB, most of it the demo CLIP.\n\n"
        + "\n".join(lines)
        + "\n",
        encoding="utf-8",
    )


def _megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:.1f}"


def fetch_stand_in(arch: str, folder: Path) -> Path:
    """PyPI's onnxruntime as a wheel, in place of the one that NVIDIA builds for a Jetson."""
    machine = ARCHITECTURES[arch]
    options = ["--no-deps", "--quiet", "--only-binary=:all:", f"--python-version={STAND_IN_PYTHON}"]
    platforms = [f"--platform=manylinux_2_{glibc}_{machine}" for glibc in (27, 28)]
    download = [sys.executable, "-m", "pip", "download", *options, *platforms]
    subprocess.run([*download, f"--dest={folder}", "onnxruntime"], check=True)
    return next(folder.glob("*.whl"))


def main() -> None:
    """Check one image on one or more architectures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=("device", "jetson", "workstation"))
    parser.add_argument("--arch", choices=ARCHITECTURES, action="append")
    parser.add_argument("--report", type=Path, default=REPORT, help="where the sizes go")
    parser.add_argument("--roots", type=Path, default=ROOTS, help="where images lie")
    given = parser.parse_args()
    archs = given.arch or ["amd64"]
    for reason in filter(None, map(obstacle, archs)):
        print(f"skipped: {reason}")
        return
    measured = {}
    for arch in archs:
        with tempfile.TemporaryDirectory() as wheels:
            arguments = {}
            if given.name == "jetson":
                arguments["ONNXRUNTIME_WHEEL"] = str(fetch_stand_in(arch, Path(wheels)))
            image = build(
                ROOT / "docker" / f"{given.name}.Dockerfile", arch, roots=given.roots, arguments=arguments
            )
        check(image)
        measured[arch] = sizes(image)
    if given.name == "device":
        write_sizes(given.report, measured)
        if any(sum(column.values()) > AIM * 1e6 for column in measured.values()):
            raise SystemExit(f"more than {AIM} MB; see {given.report}")


if __name__ == "__main__":
    main()
