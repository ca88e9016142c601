"""Decoding of colour profiles, files without an end, formats, sources, limits and threads."""

import io
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Barrier, Lock
from time import sleep

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from tgems_edge.errors import ImageError, InputError, PictureWarning
from tgems_edge.model_file.card import Preprocessing
from tgems_edge.model_file.default import built_in_model
from tgems_edge.runtime.classifier import load
from tgems_edge.runtime.decoding.limits import MAX_PIXELS, PIXELS, Budget, Limits
from tgems_edge.runtime.images import decode, read_pixels
from tgems_edge.sources import formats

spec = spec_from_file_location("profiles", Path(__file__).parent / "profiles.py")
profiles = module_from_spec(spec)
spec.loader.exec_module(profiles)

REPORTED = Path(__file__).parents[4] / "shared" / "data" / "reports" / "pictures"
CONVERTING = Preprocessing((8, 8), "squash", "bilinear", 0, (0.0,) * 3, (1.0,) * 3, "srgb")


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def colour(mode, value):
    return Image.new(mode, (16, 16), value)


def first(picture):
    return np.asarray(picture, int)[8, 8].tolist()


class TestProfiles:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
    def test_colours_are_converted_or_left_as_asked(self, kind):
        options = {"quality": 100, "lossless": True}
        data = encoded(colour("RGB", (255, 0, 0)), kind, icc_profile=profiles.red_is_green(), **options)
        assert_allclose(first(decode(data)), [255, 0, 0], atol=3)
        assert_allclose(first(decode(data, colour="srgb")), [0, 255, 0], atol=3)
        assert_allclose(read_pixels(data, CONVERTING)[4, 4], [0, 255, 0], atol=3)

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
    def test_a_profile_of_srgb_changes_no_bit(self, draw, mode):
        data = encoded(draw(1, 40, 30).convert(mode), "PNG", icc_profile=profiles.srgb())
        assert_array_equal(decode(data, colour="srgb"), decode(data))

    def test_alpha_is_composited_after_conversion(self):
        data = encoded(colour("RGBA", (255, 0, 0, 128)), "PNG", icc_profile=profiles.red_is_green())
        assert_allclose(first(decode(data, colour="srgb")), [0, 128, 0], atol=2)

    def test_a_palette_is_converted(self):
        picture = colour("P", 0)
        picture.putpalette([255, 0, 0])
        data = encoded(picture, "PNG", icc_profile=profiles.red_is_green())
        assert_allclose(first(decode(data, colour="srgb")), [0, 255, 0], atol=2)

    @pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
    def test_grey_is_converted_by_a_grey_profile(self, mode):
        picture = colour("LA", (128, 255)) if mode == "LA" else colour(mode, {"L": 128, "I;16": 0x8000}[mode])
        data = encoded(picture, "PNG", icc_profile=profiles.linear_grey())
        assert first(decode(data)) == [128] * 3
        assert_allclose(first(decode(data, colour="srgb")), [188] * 3, atol=1)

    def test_grey_is_converted_by_a_profile_of_colours(self):
        data = encoded(colour("L", 128), "PNG", icc_profile=profiles.red_is_green())
        assert_allclose(first(decode(data, colour="srgb")), [128] * 3, atol=2)

    def test_inks_are_converted(self):
        data = encoded(
            colour("CMYK", (255, 0, 0, 0)), "JPEG", quality=100, icc_profile=profiles.cyan_is_grey()
        )
        assert_allclose(first(decode(data)), [0, 255, 255], atol=3)
        assert_allclose(first(decode(data, colour="srgb")), [119] * 3, atol=4)

    @pytest.mark.parametrize("size", [(2000, 700), (3, 400_000)])
    def test_a_large_picture_is_converted_whole(self, size):
        picture = Image.new("RGB", size, (255, 0, 0))
        data = encoded(picture, "PNG", icc_profile=profiles.red_is_green(), compress_level=1)
        converted = np.asarray(decode(data, colour="srgb"))
        assert converted.shape == (size[1], size[0], 3)
        assert_allclose(converted.reshape(-1, 3).min(0), [0, 255, 0], atol=2)
        assert_array_equal(converted.reshape(-1, 3).min(0), converted.reshape(-1, 3).max(0))

    @pytest.mark.parametrize(
        ("profile", "reason"),
        [
            (profiles.srgb()[:200], "damaged"),
            (profiles.srgb()[:130] + bytes(300), "damaged"),
            (b"no profile at all", "damaged"),
            (profiles.cyan_is_grey(), "describes CMYK, and the picture is RGB"),
            (profiles.linear_grey(), "describes GRAY, and the picture is RGB"),
            (profiles.red_is_green().ljust(17 * 2**20, b"\0"), "it has 18 MB"),
        ],
        ids=["cut", "zeros", "text", "inks", "grey", "large"],
    )
    def test_a_profile_that_cannot_be_used_does_not_cost_the_picture(self, profile, reason):
        data = encoded(colour("RGB", (255, 0, 0)), "TIFF", icc_profile=profile)
        with pytest.warns(PictureWarning, match=f"the picture: its colour profile was ignored: .*{reason}"):
            assert first(decode(data, colour="srgb")) == [255, 0, 0]
        assert first(decode(data)) == [255, 0, 0]  # and nobody warns of what is ignored

    @given(st.integers(0), st.integers(1, 255))
    @settings(max_examples=60)
    def test_any_damage_to_a_profile_leaves_a_picture(self, position, flip):
        profile = bytearray(profiles.red_is_green())
        profile[position % len(profile)] ^= flip
        data = encoded(colour("RGB", (255, 0, 0)), "TIFF", icc_profile=bytes(profile))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PictureWarning)
            assert decode(data, colour="srgb").size == (16, 16)

    def test_a_profile_of_which_a_part_is_missing_is_ignored_with_a_warning(self):
        data = encoded(colour("RGB", (255, 0, 0)), "JPEG", icc_profile=profiles.red_is_green(), quality=100)
        at = data.index(b"ICC_PROFILE\0")
        data = data[: at + 13] + b"\2" + data[at + 14 :]  # the first of two parts
        with pytest.warns(PictureWarning, match="parts of it are missing"):
            assert_allclose(first(decode(data, colour="srgb")), [255, 0, 0], atol=3)

    @pytest.mark.skipif(not REPORTED.exists(), reason="the reported pictures are not beside this checkout")
    def test_one_picture_in_three_colour_spaces_is_one_picture(self):
        names = ("coffee_srgb.png", "coffee_p3.jpg", "coffee_adobe.jpg")
        reference, *others = (np.asarray(decode(REPORTED / name, colour="srgb"), int) for name in names)
        assert all(np.abs(other - reference).mean() < 2 for other in others)


class TestEndMark:
    @pytest.mark.parametrize(
        "options",
        [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}, {"subsampling": 0}],
        ids=str,
    )
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    def test_a_jpeg_cut_anywhere_is_whole_or_refused(self, draw, options, mode):
        data = encoded(draw(3, 60, 40).convert(mode), "JPEG", **options)
        whole = np.asarray(decode(data))
        for tail in (b"", bytes(600), b"garbage" * 9):
            with pytest.warns(PictureWarning, match="the picture: its end mark is missing"):
                assert_array_equal(decode(data[:-2] + tail), whole)
        refused = 0
        for length in range(len(data) - 3, data.index(b"\xff\xda"), -max(1, len(data) // 40)):
            refused += not self.is_whole(data[:length], whole)
        assert refused > 10

    def is_whole(self, data, whole):
        """Whether it is read, and then nothing of it is missing: the last bits of a scan may say nothing."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PictureWarning)
                assert_array_equal(decode(data), whole)
        except ImageError as error:
            assert "damaged or cut short" in str(error)
            return False
        return True

    def test_the_reduced_picture_is_the_same_too(self, draw):
        data = encoded(draw(3, 640, 480), "JPEG")
        with pytest.warns(PictureWarning, match="end mark"):
            assert_array_equal(decode(data[:-2], shorter_side=100), decode(data, shorter_side=100))


class TestSources:
    def test_all_that_hold_the_bytes_of_a_file_are_the_same_picture(self, draw, tmp_path):
        path = tmp_path / "picture.png"
        draw(2, 21, 13).save(path)
        data, expected = path.read_bytes(), np.asarray(decode(path))

        class Named:
            def __fspath__(self):
                return str(path)

        with path.open("rb") as file, path.open("rb", buffering=0) as raw:
            sources = [
                data,
                bytearray(data),
                memoryview(data),
                io.BytesIO(data),
                file,
                raw,
                str(path),
                Named(),
            ]
            for source in sources:
                assert_array_equal(decode(source), expected)
        assert load(built_in_model()).classify(io.BytesIO(data)).label

    @pytest.mark.parametrize("source", [None, 3, ["a.jpg"], {}, object(), 1.5])
    def test_anything_else_is_refused_with_its_type(self, source):
        with pytest.raises(ImageError, match=f"an object of type {type(source).__name__} is not a picture"):
            decode(source)

    def test_a_file_opened_as_text_is_refused(self):
        with pytest.raises(ImageError, match="StringIO gives text; open it as binary"):
            decode(io.StringIO("text"))

    def test_a_closed_file_is_refused(self, tmp_path):
        (tmp_path / "a.png").touch()
        with (tmp_path / "a.png").open("rb") as file:
            pass
        with pytest.raises(ImageError, match="cannot be read"):
            decode(file)

    def test_a_pillow_image_of_a_format_that_is_not_read_is_refused_until_it_is_pixels(self):
        opened = Image.open(io.BytesIO(encoded(colour("RGB", "red"), "TGA")))
        with pytest.raises(ImageError, match="TGA is not read here"):
            decode(opened)
        assert first(decode(opened.convert("RGB"))) == [255, 0, 0]


class TestFormats:
    @pytest.mark.parametrize(
        ("brand", "advice"),
        [(b"heic", r"pip install 'tgems-edge\[heif\]'"), (b"avif", "pip install 'Pillow>=11.3'")],
    )
    def test_a_missing_decoder_is_named(self, monkeypatch, brand, advice):
        monkeypatch.setattr(formats, "_has_decoder", lambda name: False)
        with pytest.raises(ImageError, match=f"no decoder for it is installed; {advice}"):
            decode(b"\0\0\0\x14ftyp" + brand + b"\0\0\0\0mif1" + bytes(99))

    def test_heic_is_read_where_its_decoder_is(self):
        if not formats.register_heif():
            pytest.skip("pillow-heif is not installed")
        data = encoded(colour("RGB", (255, 0, 0)), "HEIF", quality=100)
        assert_allclose(first(decode(data)), [255, 0, 0], atol=8)

    def test_several_pictures_in_a_jpeg_are_the_first(self, draw):
        data = encoded(draw(1, 40, 30), "MPO", save_all=True, append_images=[draw(2, 40, 30)])
        assert_allclose(decode(data), draw(1, 40, 30), atol=60)

    def test_a_picture_loads_no_decoder_but_its_own(self):
        data = encoded(colour("RGB", "red"), "WEBP")
        script = (
            "import sys; from tgems_edge.runtime.images import decode; "
            "decode(sys.stdin.buffer); print(*sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
        loaded = done.stdout.decode().split()
        assert "PIL.WebPImagePlugin" in loaded
        assert not {"PIL.EpsImagePlugin", "PIL.IcoImagePlugin", "PIL.ImageCms"} & set(loaded)


class TestLimits:
    def test_a_jpeg_at_reduced_scale_counts_what_is_decoded(self, draw):
        data = encoded(draw(1, 800, 600), "JPEG")
        with pytest.raises(ImageError, match="800x600 pixels are more than the limit of 30,000"):
            decode(data, max_pixels=30_000)
        assert decode(data, shorter_side=100, max_pixels=30_000).size == (200, 150)

    @pytest.mark.parametrize("value", [0, -1])
    def test_a_limit_has_to_be_positive(self, value):
        with pytest.raises(InputError, match="from 1 up"):
            load(built_in_model(), max_pixels=value)

    def test_a_classifier_has_a_limit_of_its_own(self, draw):
        with pytest.raises(ImageError, match="the limit of 100,"):
            load(built_in_model(), max_pixels=100).classify(draw(1, 20, 20))

    def test_bytes_follow_pixels(self):
        assert Limits(MAX_PIXELS).file_bytes == 4 * MAX_PIXELS + 2**24
        with pytest.raises(ImageError, match="more than 17 MB, the limit for a file of 100 pixels"):
            decode(bytes(20_000_000), max_pixels=100)


class TestBudget:
    def test_threads_wait_while_too_little_is_left(self):
        budget, lock, held, most = Budget(), Lock(), [0], [0]

        def work(amount):
            with budget.hold(amount, 100):
                with lock:
                    held[0] += amount
                    most[0] = max(most[0], held[0])
                sleep(0.001)
                with lock:
                    held[0] -= amount

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, [30, 60, 10, 100, 50, 20, 90, 40] * 5))
        assert 50 < most[0] <= 100

    def test_what_is_larger_than_the_budget_is_held_alone(self):
        with Budget().hold(1000, 100):
            pass

    def test_an_error_gives_back_what_was_held(self):
        with pytest.raises(ImageError):
            decode(encoded(Image.new("L", (50, 50)), "PNG")[:60])
        assert PIXELS._held == 0

    def test_pictures_of_all_threads_share_one_budget(self, draw, monkeypatch):
        data, start, most = encoded(draw(1, 40, 25), "PNG"), Barrier(6), []

        def read(_):
            start.wait()
            return read_pixels(data, CONVERTING, max_pixels=2500)

        to_pixels = read_pixels.__globals__["to_pixels"]
        monkeypatch.setitem(
            read_pixels.__globals__,
            "to_pixels",
            lambda *given, **more: (most.append(PIXELS._held), sleep(0.01), to_pixels(*given, **more))[2],
        )
        with ThreadPoolExecutor(6) as threads:
            assert len(list(threads.map(read, range(6)))) == 6
        assert max(most) == 2000  # two pictures of 1000 pixels
