"""Fuzzers of everything that reads what others wrote: model files, their cards, pictures.

    pip install atheris
    python tests/fuzz/fuzz.py header -max_total_time=300      # or card, picture

Coverage leads the search, so that it gets further than the random bytes of the test suite, which leaves this
out. What comes after the name goes to libFuzzer: a folder for its corpus, or a file that crashed once. It
ends with a traceback and a file `crash-*` at the first exception that users should never see.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tgems_edge", "PIL"]):
    from tgems_edge.errors import ImageError, ModelFileError
    from tgems_edge.model_file.card import METADATA_KEY, Card, Preprocessing
    from tgems_edge.model_file.default import built_in_model
    from tgems_edge.model_file.gate import check_model_file
    from tgems_edge.model_file.onnx_file import read_header
    from tgems_edge.model_file.seal import is_sealed
    from tgems_edge.runtime.images import read_pixels

WANTED = Preprocessing((32, 32), "shortest", "bicubic", 0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def header(data: bytes) -> None:
    is_sealed(data)
    with contextlib.suppress(ModelFileError):
        check_model_file(data)


def card(data: bytes) -> None:
    with contextlib.suppress(ModelFileError):
        Card.from_json(data.decode(errors="surrogateescape"))


def picture(data: bytes) -> None:
    with contextlib.suppress(ImageError):
        read_pixels(data, WANTED)


# IR version 8, a graph of one Add and two floats, opset 18, an empty card.
SMALL_MODEL = (
    b"\x08\x08:\x17\x0a\x05\x22\x03Add\x2a\x0e\x08\x02\x10\x01\x4a\x08" + bytes(8) + b"B\x02\x10\x12"
    b"\x72\x0b\x0a\x05tgems\x12\x02{}"
)


def seeds(name: str) -> list[bytes]:
    """What the search begins with."""
    if name == "header":
        return [SMALL_MODEL]
    if name == "card":
        return [read_header(built_in_model()).metadata[METADATA_KEY].encode()]
    return [path.read_bytes() for path in (Path(__file__).parents[2] / "examples").glob("*.jpg")]


def main() -> None:
    targets = {target.__name__: target for target in (header, card, picture)}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(targets)} [options of libFuzzer]")
    name = sys.argv[1]
    warnings.simplefilter("ignore")
    begin = Path(tempfile.mkdtemp())
    for number, seed in enumerate(seeds(name)):
        (begin / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *sys.argv[2:], str(begin)], targets[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
