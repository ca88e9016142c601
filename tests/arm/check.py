"""The device's image on arm64, under emulation, beside the same image on x86: are the answers the same?

    python tests/arm/check.py
    python tests/arm/check.py fp32.onnx dynamic.onnx --pictures photos/

Builds docker/device.Dockerfile for both, and runs `verify` and `classify` on the built-in INT8 file and on
those given; without any, on an fp32 and a dynamic file made of the demo CLIP. Writes
benchmarks/results/arm64.md; the exit code is 1 where a label differs. An hour on two cores.
tests/docker/chroot.py says what it needs; where that is missing, the reason is printed and nothing done.
Emulation says nothing about time, so no time is taken.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgems_edge.model_file.default import built_in_model
from tgems_edge.runtime.classifier import load
from tgems_edge.sources.folders import find_pictures
from tgems_export.pictures import draw, draw_many

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "docker"))
from chroot import ROOTS, Image, build, obstacle  # noqa: E402

REPORT = ROOT / "benchmarks" / "results" / "arm64.md"
QEMU = "qemu-aarch64-static"
PICTURES = 40  # drawn ones, of all shapes, beside the examples
TO_CALIBRATE = 10  # drawn ones for each class: enough for a dynamic file, whatever that is worth
ALL = 1000  # --top: every class of any of these files
# Emulated, by qemu's names. onnxruntime has INT8 products for each: qemu's log showed sdot on the second and
# smmla on the third, and neither on the others.
PROCESSORS = {
    "cortex-a72": "that of a Raspberry Pi 4, with neither dot products nor i8mm",
    "cortex-a76": "that of a Raspberry Pi 5, with dot products",
    "max,sve=off,sme=off": "one with i8mm",
    "max": "all that qemu knows, SVE too",
}
SHOWN = 1  # the processor whose output is in the report
SHOWN_PICTURES = 3
VERSIONS = """
import numpy, onnxruntime, PIL, platform, tgems_edge
print(
    f"{platform.machine()}: tgems-edge {tgems_edge.__version__}, onnxruntime {onnxruntime.__version__}, "
    f"numpy {numpy.__version__}, Pillow {PIL.__version__}, Python {platform.python_version()}, "
    f"{platform.freedesktop_os_release()['PRETTY_NAME']}"
)
"""


@dataclass(frozen=True)
class Device:
    """The device's image with the files to compare in /data; on arm64, one of the processors."""

    image: Image
    data: Path
    processor: str | None = None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`tgems-edge` with these arguments; what it prints is kept."""
        emulated = {"QEMU_CPU": self.processor} if self.processor else {}
        volumes = [(self.data, "/data")]
        return self.image.run(arguments, env=emulated, volumes=volumes, stdout=subprocess.PIPE)

    def answers(self, model: str) -> list[dict[str, Any]]:
        """Return the output of `classify --json` for every picture, with the rates of all classes."""
        done = self.run("classify", "--model", model, "--json", "--quiet", "--top", str(ALL), "pictures")
        done.check_returncode()
        return [json.loads(line) for line in done.stdout.splitlines()]

    def transcript(self, models: list[str]) -> str:
        """Return the output of `verify` and `classify` for every file, with the commands."""
        pictures = [
            f"pictures/{path.name}" for path in find_pictures(self.data / "pictures").paths[:SHOWN_PICTURES]
        ]
        lines = []
        for model in models:
            for arguments in (["verify", model], ["classify", "--model", model, *pictures]):
                lines.append(f"$ {shlex.join(['tgems-edge', *arguments])}")
                lines += self.run(*arguments).stdout.splitlines()
        return "\n".join(lines)

    def versions(self) -> str:
        """Return a description of this machine and of what is installed on it."""
        done = self.image.enter(["python3", "-c", VERSIONS], stdout=subprocess.PIPE)
        done.check_returncode()
        return done.stdout.strip()


@dataclass(frozen=True)
class Comparison:
    """One file on one emulated processor beside x86."""

    processor: str
    model: str
    verified: int  # exit code of `verify`
    pictures: int
    labels: int  # that are equal
    exits: int  # that are equal
    difference: float  # the largest |ΔR| of all pictures and classes

    @property
    def passed(self) -> bool:
        """The file was verified, and every label is that of x86."""
        return self.verified == 0 and self.labels == self.pictures


def compare(x86: Device, arm: Device, model: str) -> Comparison:
    """Runs one file on both."""
    pairs = list(zip(arm.answers(model), x86.answers(model), strict=True))
    return Comparison(
        processor=str(arm.processor),
        model=model,
        verified=arm.run("verify", model).returncode,
        pictures=len(pairs),
        labels=sum(ours["label"] == theirs["label"] for ours, theirs in pairs),
        exits=sum(ours["exit_layer"] == theirs["exit_layer"] for ours, theirs in pairs),
        difference=max(difference for pair in pairs for difference in _differences(*pair)),
    )


def _differences(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[float]:
    """|ΔR| of every class, for one picture."""
    expected = {entry["label"]: entry["rate"] for entry in theirs["top"]}
    return (abs(entry["rate"] - expected[entry["label"]]) for entry in ours["top"])


def gather(data: Path, models: list[Path], pictures: Path | None) -> list[str]:
    """Copies or makes what is compared; returns the names of the model files, the built-in one first."""
    data.chmod(0o755)  # a temporary folder is its owner's alone, and the image has a user of its own
    for model in models:
        shutil.copy2(model, data)
    if not models:
        _make_models(data)
    names = sorted(path.name for path in data.iterdir())
    shutil.copy2(built_in_model(), data / "built-in.onnx")
    (data / "pictures").mkdir()
    for picture in find_pictures(pictures or ROOT / "examples").paths:
        shutil.copy2(picture, data / "pictures" / "-".join(picture.parts[-2:]))
    if not pictures:
        for number, drawn in enumerate(draw_many(PICTURES)):
            drawn.save(data / "pictures" / f"drawn-{number:02d}.{('jpg', 'png')[number % 2]}")
    return ["built-in.onnx", *names]


def _make_models(folder: Path) -> None:
    """An fp32 file of the demo CLIP, and one with three exits that drawn pictures calibrate."""
    _export(folder / "fp32.onnx", "--layer", "5")
    with tempfile.TemporaryDirectory() as drawn:
        for label, name in enumerate(load(built_in_model()).names):
            (Path(drawn) / name).mkdir()
            for number in range(TO_CALIBRATE):
                draw(TO_CALIBRATE * label + number, 60, 40).save(Path(drawn) / name / f"{number}.png")
        _export(folder / "dynamic.onnx", "--dynamic", "--exits", "3,5,8", "--calibration", drawn)


def _export(output: Path, *options: str) -> None:
    command = [sys.executable, "-m", "tgems_edge", "export", "--quiet", "--output", output, *options]
    subprocess.run(command, check=True, stdout=sys.stderr)


def write_report(
    path: Path, command: list[str], compared: list[Comparison], x86: Device, arm: Device
) -> None:
    """The files, a table of all comparisons, what one processor printed, and the versions."""
    header = ["processor", "file", "exit code of verify", "equal labels", "equal exits", "largest \\|ΔR\\|"]
    rows = [
        [
            each.processor, each.model, str(each.verified), f"{each.labels} of {each.pictures}",
            f"{each.exits} of {each.pictures}", f"{each.difference:.1e}",
        ]
        for each in compared
    ]  # fmt: skip
    table = "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
    kinds = "; ".join(f"{name} is {meaning}" for name, meaning in PROCESSORS.items())
    models = list(dict.fromkeys(each.model for each in compared))
    described = "; ".join(f"{model} has {load(arm.data / model).card.description}" for model in models)
    qemu = subprocess.run([QEMU, "--version"], check=True, capture_output=True, text=True).stdout
    parts = [
        "# arm64 beside x86",
        f"`{shlex.join(['python', 'tests/arm/check.py', *command])}`",
        "The image of docker/device.Dockerfile, built for arm64 and for amd64 without a Docker engine, on "
        f"the same files and pictures. Processors are emulated: {kinds}. Emulation is no board and says "
        f"nothing about time, so no time was taken. {described}.",
        table,
        f"What it prints on {arm.processor}:",
        f"```console\n{arm.transcript(models)}\n```",
        *(device.versions() for device in (arm, x86)),
        f"Emulated by {qemu.splitlines()[0]}.",
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    """Compare files on arm64 and x86; the exit code is 1 where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, help="model files")
    parser.add_argument(
        "--pictures", type=Path, help="a folder to classify, instead of examples and drawn ones"
    )
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--roots", type=Path, default=ROOTS, help="where the images lie")
    given = parser.parse_args()
    for reason in filter(None, map(obstacle, ("amd64", "arm64"))):
        print(f"skipped: {reason}")
        return
    dockerfile = ROOT / "docker" / "device.Dockerfile"
    images = {arch: build(dockerfile, arch, roots=given.roots) for arch in ("amd64", "arm64")}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        models = gather(data, given.models, given.pictures)
        x86 = Device(images["amd64"], data)
        arms = [Device(images["arm64"], data, processor) for processor in PROCESSORS]
        compared = []
        for arm in arms:
            for model in models:
                compared.append(compare(x86, arm, model))
                print(compared[-1], flush=True)
        command = [*map(str, given.models), *(["--pictures", str(given.pictures)] if given.pictures else [])]
        write_report(given.report, command, compared, x86, arms[SHOWN])
    raise SystemExit(not all(each.passed for each in compared))


if __name__ == "__main__":
    main()
