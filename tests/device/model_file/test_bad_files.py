"""Damaged files, many of them: every one is noticed or refused in one line, and none hangs or crashes."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tgems_edge.errors import ImageError, ModelFileError, ParityError
from tgems_edge.model_file.card import METADATA_KEY, Preprocessing
from tgems_edge.model_file.default import built_in_model
from tgems_edge.model_file.onnx_file import read_header
from tgems_edge.model_file.seal import seal
from tgems_edge.runtime.images import read_pixels
from tgems_edge.runtime.verification import check_unchanged

EXAMPLE = Path(__file__).parents[3] / "examples" / "chelsea.jpg"
PLACES = 1000
PICTURES = 1000
FORMATS = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "GIF": {},
    "WEBP": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
}


def is_noticed(path):
    """Whether `verify` says that something is wrong with a file before it runs it."""
    try:
        check_unchanged(path)
    except (ModelFileError, ParityError) as error:
        return "\n" not in str(error)
    return False


def run(*arguments):
    """The command, as a user starts it: it ends soon, and without a traceback."""
    command = [sys.executable, "-m", "tgems_edge", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def card():
    """The text of the built-in file's card."""
    return read_header(built_in_model()).metadata[METADATA_KEY]


@pytest.fixture
def copy(tmp_path):
    """The built-in file, to be damaged."""
    return Path(shutil.copy(built_in_model(), tmp_path / "model.onnx"))


class TestFlippedBytes:
    @pytest.mark.parametrize("pictures", [100, pytest.param(2500, marks=pytest.mark.large)])
    def test_every_byte_of_the_card(self, write_model, card, pictures):
        """Write a file without a graph and with fewer samples."""
        data = json.loads(card)
        data["file_sha256"] = "0" * 64
        data["calibration"]["images"] = pictures
        data["calibration"]["digests"] = data["calibration"]["digests"][: 8 * pictures]
        unsealed = json.dumps(data, ensure_ascii=False)
        path = write_model([], {}, unsealed, "card.onnx")
        path.write_bytes(seal(path.read_bytes()))
        begin = path.read_bytes().index(unsealed[:20].encode())
        end = begin + len(unsealed.encode())
        check_unchanged(path)
        with path.open("r+b", buffering=0) as file:
            for place in range(begin, end):
                (byte,) = os.pread(file.fileno(), 1, place)
                os.pwrite(file.fileno(), bytes([byte ^ 1 << place % 8]), place)
                assert is_noticed(path), f"byte {place - begin} of the card"
                os.pwrite(file.fileno(), bytes([byte]), place)
        check_unchanged(path)

    @pytest.mark.parametrize("found", [b"airplane", b'{"accuracy"', b"ArgMin"], ids=bytes.decode)
    def test_the_command_says_so_in_one_line(self, copy, found):
        data = copy.read_bytes()
        copy.write_bytes(data.replace(found, bytes([found[0] ^ 4]) + found[1:]))
        done = run("verify", copy)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1)


class TestTruncated:
    def test_anywhere(self, copy):
        """Evenly, and closely behind the graph, whose length already says that it was cut."""
        size = copy.stat().st_size
        places = {*range(0, size, -(-size // (PLACES - 100))), *range(size - 1, size - 40_000, -400)}
        assert len(places) >= PLACES - 1
        for length in sorted(places, reverse=True):
            os.truncate(copy, length)
            assert is_noticed(copy), f"cut to {length} bytes"

    @pytest.mark.parametrize("share", [0, 0.5, 0.9999])
    def test_commands_say_so_in_one_line(self, copy, share):
        os.truncate(copy, int(share * copy.stat().st_size))
        for command in (["verify", copy], ["classify", "--model", copy, EXAMPLE]):
            done = run(*command)
            assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


class TestPictures:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_a_mutated_picture_is_read_or_refused(self, draw, kind):
        generator = random.Random(kind)
        wanted = Preprocessing((32, 32), "shortest", "bicubic", 0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        file = io.BytesIO()
        draw(3, 48, 40).save(file, kind, **FORMATS[kind])
        refused = 0
        for _ in range(-(-PICTURES // len(FORMATS))):
            try:
                assert read_pixels(mutated(file.getvalue(), generator), wanted).shape == (32, 32, 3)
            except ImageError as error:
                refused += 1
                assert "\n" not in str(error)
        assert refused > 0

    def test_a_command_reports_those_it_cannot_read(self, draw, tmp_path):
        generator = random.Random(0)
        for kind, options in FORMATS.items():
            file = io.BytesIO()
            draw(4, 48, 40).save(file, kind, **options)
            for number in range(5):
                (tmp_path / f"{number}.{kind.lower()}").write_bytes(mutated(file.getvalue(), generator))
        done = run("classify", tmp_path, "--json")
        assert done.returncode in (0, 1)
        assert len(done.stdout.splitlines()) == 5 * len(FORMATS)


def mutated(data, generator):
    """Bytes flipped, replaced, cut out, doubled or cut off; the beginning is hit as often as the rest."""
    damaged = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 5, 20])):
        place = generator.randrange(generator.choice([min(64, len(damaged)), len(damaged)]))
        part = slice(place, place + generator.choice([1, 4, 100]))
        match generator.randrange(5):
            case 0:
                damaged[place] ^= 1 << generator.randrange(8)
            case 1:
                damaged[part] = generator.randbytes(len(damaged[part]))
            case 2:
                del damaged[part]
            case 3:
                damaged[place:place] = damaged[part]
            case 4:
                del damaged[generator.randrange(place, len(damaged)) :]
        if not damaged:
            break
    return bytes(damaged)
