"""`tgems-edge` as users run it, and files of ViT-B-32 that are made with it.

Imports nothing large: a process that measures another's memory must be small itself, because the system
counts the memory of the parent until the child has started.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["CLASSES", "COMMAND", "ENCODER", "LAYER", "make_files", "run"]

COMMAND = [sys.executable, "-m", "tgems_edge"]
ENCODER, LAYER = "ViT-B-32", 5
CLASSES = 10
TRAINING, CALIBRATION = 200, 64  # pictures: a head of this speed and size, of whatever accuracy

# Draws an image folder of noise of some strength.
DRAW = """
import sys
from pathlib import Path
from PIL import Image
root, pictures, classes, strength = Path(sys.argv[1]), *map(int, sys.argv[2:])
for number in range(pictures):
    folder = root / f"class {number % classes}"
    folder.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((256, 224), strength).convert("RGB").save(folder / f"{number}.jpg")
"""


def run(*arguments: object, cache: Path) -> str:
    """Run a command with a cache of its own and return its standard output."""
    environment = os.environ | {"TGEMS_CACHE_DIR": str(cache)}
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def make_files(folder: Path, precisions: dict[str, tuple[object, ...]]) -> dict[str, Path]:
    """Make exit 5 of ViT-B-32 with random weights.

    Args:
        folder: for everything.
        precisions: options of `export`, by the name of the file.
    """
    pictures, others, heads = folder / "pictures", folder / "others", folder / "heads"
    # What a head learned from does not calibrate, so the two differ.
    for root, number, strength in ((pictures, TRAINING, 80), (others, CALIBRATION, 90)):
        draw = [sys.executable, "-c", DRAW, root, str(number), str(CLASSES), str(strength)]
        subprocess.run(draw, check=True)
    encoder = ("--encoder", ENCODER, "--pretrained", "random", "--layer", LAYER)
    cache = folder / "cache"
    run("train", pictures, *encoder, "--pool", "cls", "--epochs", 1, "--out", heads, cache=cache)
    files = {}
    for name, options in precisions.items():
        files[name] = folder / f"{name}.onnx"
        options = (*options, "--calibration", others) if "int8" in options else options
        run("export", *encoder, "--head", heads, *options, "--output", files[name], cache=cache)
    return files
