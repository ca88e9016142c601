"""Any file to 8-bit RGB, and from there exactly open_clip's pixels."""

import hashlib
import io
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from tgems_edge.errors import ImageError
from tgems_edge.model_file.card import Preprocessing, noise_pixels
from tgems_edge.runtime.images import decode, read_pixels, to_pixels

Transpose = Image.Transpose


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def pixels_of(picture):
    return np.asarray(picture).tolist()


def preprocessing(size, resize_mode="shortest", interpolation="bicubic", fill=0):
    return Preprocessing(size, resize_mode, interpolation, fill, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def png(width, height, depth, rows):
    """A grey PNG, which need not hold what its header says."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


class TestFormats:
    @pytest.mark.parametrize(
        ("kind", "options", "tolerance"),
        [
            ("PNG", {}, 0),
            ("BMP", {}, 0),
            ("PPM", {}, 0),
            ("TIFF", {}, 0),
            ("TIFF", {"compression": "tiff_lzw"}, 0),
            ("WEBP", {"lossless": True}, 0),
            ("WEBP", {"quality": 95}, 40),
            ("JPEG", {"quality": 95}, 40),
            ("JPEG", {"quality": 95, "progressive": True}, 40),
        ],
    )
    def test_a_format_gives_back_the_picture(self, draw, kind, options, tolerance):
        picture = draw(1, 40, 30)
        decoded = decode(encoded(picture, kind, **options))
        assert decoded.mode == "RGB"
        assert_allclose(np.asarray(decoded, int), np.asarray(picture, int), atol=tolerance)

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
    def test_an_animation_gives_its_first_frame(self, kind):
        red, *others = (Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue"))
        data = encoded(red, kind, save_all=True, append_images=others, lossless=True)
        assert pixels_of(decode(data)) == pixels_of(red)

    def test_a_palette_is_looked_up(self):
        picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
        picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        assert pixels_of(decode(encoded(picture, "PNG"))) == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]

    def test_cmyk_becomes_rgb(self):
        red = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
        assert_allclose(np.asarray(decode(red), int)[8, 8], [255, 0, 0], atol=3)

    def test_grey_fills_the_three_channels(self):
        grey = Image.fromarray(np.array([[0, 100, 255]], np.uint8))
        assert pixels_of(decode(encoded(grey, "PNG"))) == [[[0] * 3, [100] * 3, [255] * 3]]

    def test_one_bit_is_black_and_white(self):
        grey = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
        assert pixels_of(decode(encoded(grey, "PNG"))) == [[[0] * 3, [255] * 3]]

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_16_bit_grey_keeps_the_high_byte(self, kind):
        grey = Image.fromarray(np.array([[0x0000, 0x12FF, 0xFF00, 0xFFFF]], np.uint16))
        expected = [[[0] * 3, [0x12] * 3, [0xFF] * 3, [0xFF] * 3]]
        assert pixels_of(decode(encoded(grey, kind))) == expected

    @pytest.mark.parametrize(
        ("array", "reason"),
        [
            (np.array([[0.5, 1.0]], np.float32), "float"),
            (np.array([[0, 70_000]], np.int32), "more than 16 bits"),
            (np.array([[-1, 0]], np.int32), "more than 16 bits"),
        ],
    )
    def test_pixels_without_an_agreed_range_are_refused(self, array, reason):
        with pytest.raises(ImageError, match=reason):
            decode(encoded(Image.fromarray(array), "TIFF"))


QUADRANTS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
UPRIGHT = Image.fromarray(QUADRANTS.repeat(16, 0).repeat(32, 1))
# how a camera stores an upright picture under each orientation
STORED = {
    1: UPRIGHT,
    2: UPRIGHT.transpose(Transpose.FLIP_LEFT_RIGHT),
    3: UPRIGHT.transpose(Transpose.ROTATE_180),
    4: UPRIGHT.transpose(Transpose.FLIP_TOP_BOTTOM),
    5: UPRIGHT.transpose(Transpose.TRANSPOSE),
    6: UPRIGHT.transpose(Transpose.ROTATE_90),
    7: UPRIGHT.transpose(Transpose.TRANSVERSE),
    8: UPRIGHT.transpose(Transpose.ROTATE_270),
}


class TestReducedScale:
    @pytest.mark.parametrize(
        ("size", "shorter_side", "expected"),
        [
            ((800, 600), 600, (800, 600)),
            ((800, 600), 301, (800, 600)),
            ((800, 600), 300, (400, 300)),
            ((600, 800), 200, (300, 400)),
            ((801, 603), 150, (201, 151)),
            ((800, 600), 1, (100, 75)),
        ],
    )
    def test_a_jpeg_keeps_what_its_shorter_side_has_to(self, draw, size, shorter_side, expected):
        data = encoded(draw(1, *size), "JPEG", quality=95)
        assert decode(data, shorter_side=shorter_side).size == expected

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
    def test_other_formats_stay_as_they_are(self, draw, kind):
        data = encoded(draw(1, 80, 60), kind)
        assert pixels_of(decode(data, shorter_side=5)) == pixels_of(decode(data))

    @pytest.mark.parametrize("orientation", [1, 6])
    @pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
    @pytest.mark.parametrize("model_size", [(64, 64), (40, 72)])
    def test_pixels_are_nearly_the_same(self, draw, tmp_path, model_size, resize_mode, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "photograph.jpg"
        draw(1, 1600, 1200).save(path, quality=95, exif=exif)
        wanted = preprocessing(model_size, resize_mode)
        whole = read_pixels(path, wanted).astype(int)
        reduced = read_pixels(path, wanted, fast_decode=True)
        assert reduced.shape == whole.shape
        assert 0 < np.abs(whole - reduced).mean() < 2

    def test_a_small_picture_is_the_same(self, draw, tmp_path):
        path = tmp_path / "small.jpg"
        draw(1, 255, 255).save(path)
        wanted = preprocessing((64, 64))
        assert_array_equal(read_pixels(path, wanted), read_pixels(path, wanted, fast_decode=True))

    def test_a_graph_that_resizes_gets_the_reduced_picture(self, draw, tmp_path):
        path = tmp_path / "photograph.jpg"
        draw(1, 640, 512).save(path)
        pixels = read_pixels(path, preprocessing((64, 64)), resize=False, fast_decode=True)
        assert pixels.shape == (128, 160, 3)

    def test_an_open_pillow_image_is_left_alone(self, draw):
        opened = Image.open(io.BytesIO(encoded(draw(1, 800, 600), "JPEG")))
        assert decode(opened, shorter_side=10).size == (800, 600)


class TestOrientation:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
    @pytest.mark.parametrize("orientation", STORED)
    def test_exif_orientation_is_applied(self, orientation, kind):
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
        decoded = decode(encoded(STORED[orientation], kind, exif=exif, **options))
        assert_allclose(np.asarray(decoded, int), np.asarray(UPRIGHT, int), atol=4)

    def test_a_broken_exif_block_does_not_cost_the_picture(self):
        data = encoded(UPRIGHT, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
        assert pixels_of(decode(data)) == pixels_of(UPRIGHT)


def rgba(alpha):
    return Image.fromarray(np.array([[[200, 100, 50, alpha], [200, 100, 50, 255]]], np.uint8))


def grey_alpha(alpha):
    return Image.fromarray(np.array([[[200, alpha], [200, 255]]], np.uint8), "LA")


class TestAlpha:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    def test_rgba_is_composited_on_black(self, kind):
        data = encoded(rgba(128), kind, lossless=True, exact=True)
        assert pixels_of(decode(data)) == [[[100, 50, 25], [200, 100, 50]]]

    def test_grey_with_alpha_is_composited_on_black(self):
        assert pixels_of(decode(encoded(grey_alpha(128), "PNG"))) == [[[100] * 3, [200] * 3]]

    def test_a_colour_under_zero_alpha_is_black(self):
        assert pixels_of(decode(encoded(rgba(0), "PNG"))) == [[[0, 0, 0], [200, 100, 50]]]

    @pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
    def test_a_transparent_palette_entry_is_black(self, transparency):
        picture = Image.fromarray(np.array([[0, 1]], np.uint8))
        picture.putpalette([255, 0, 0, 0, 255, 0])
        data = encoded(picture, "PNG", transparency=transparency)
        assert pixels_of(decode(data)) == [[[0, 0, 0], [0, 255, 0]]]

    def test_a_transparent_colour_of_a_gif_is_black(self):
        picture = Image.fromarray(np.array([[0, 1]], np.uint8))
        picture.putpalette([255, 0, 0, 0, 255, 0])
        assert pixels_of(decode(encoded(picture, "GIF", transparency=0))) == [[[0, 0, 0], [0, 255, 0]]]

    def test_a_transparent_grey_level_is_black(self):
        grey = Image.fromarray(np.array([[200, 100]], np.uint8))
        assert pixels_of(decode(encoded(grey, "PNG", transparency=200))) == [[[0] * 3, [100] * 3]]

    def test_a_transparent_rgb_colour_is_black(self):
        picture = Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8))
        data = encoded(picture, "PNG", transparency=(9, 8, 7))
        assert pixels_of(decode(data)) == [[[0, 0, 0], [1, 2, 3]]]


class TestInputs:
    def test_path_bytes_array_and_pillow_image_are_the_same_picture(self, draw, tmp_path):
        picture = draw(2, 21, 13)
        path = tmp_path / "picture.png"
        picture.save(path)
        for source in (path, str(path), path.read_bytes(), np.asarray(picture), picture, Image.open(path)):
            assert pixels_of(decode(source)) == pixels_of(picture)

    def test_an_array_of_two_dimensions_is_grey(self):
        assert pixels_of(decode(np.array([[0, 7]], np.uint8))) == [[[0] * 3, [7] * 3]]

    def test_an_array_need_not_be_contiguous(self, draw):
        array = np.asarray(draw(3, 20, 10))[::2, ::-1]
        assert_array_equal(np.asarray(decode(array)), array)

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 4, 3), np.float32),
            np.zeros((4, 4, 3), np.int64),
            np.zeros((4, 4), bool),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((4, 4, 1), np.uint8),
            np.zeros((3, 4, 4), np.uint8),
            np.zeros(4, np.uint8),
            np.zeros((1, 4, 4, 3), np.uint8),
            np.zeros((0, 4, 3), np.uint8),
            np.zeros((4, 0), np.uint8),
        ],
        ids=lambda array: f"{array.dtype}{array.shape}",
    )
    def test_an_array_of_another_kind_is_refused_with_its_shape(self, array):
        with pytest.raises(ImageError, match=re.escape(str(array.shape))):
            decode(array)


class TestDamage:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (None, "no such file"),
            ("folder", "a folder"),
            (b"", "empty"),
            (b"a shopping list\n", "not a picture"),
            (b"\x89PNG\r\n\x1a\n", "damaged or cut short"),
            (png(20_000, 20_000, 8, b""), "20000x20000 pixels are more than the limit of 52,000,000"),
            (png(8, 8, 8, b"\0\0\0"), "damaged or cut short"),
        ],
        ids=["missing", "folder", "empty", "text", "signature", "bomb", "short"],
    )
    def test_one_line_names_the_file_and_the_reason(self, tmp_path, content, reason):
        path = tmp_path / "holiday.png"
        if content == "folder":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        with pytest.raises(ImageError, match=reason) as raised:
            decode(path)
        message = str(raised.value)
        assert message.startswith(str(path))
        assert "\n" not in message

    @pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
    def test_a_file_cut_anywhere_is_an_image_error_or_a_whole_picture(self, draw, kind):
        data = encoded(draw(4, 24, 16), kind)
        refused = 0
        for length in range(0, len(data), max(1, len(data) // 150)):
            try:
                assert decode(data[:length]).size == (24, 16)
            except ImageError:
                refused += 1
        assert refused > 50

    @settings(max_examples=150)
    @given(st.sampled_from(["GIF", "JPEG", "PNG", "WEBP"]), st.integers(0), st.integers(1, 255))
    def test_a_flipped_byte_is_an_image_error_or_a_picture(self, draw, kind, position, flip):
        data = bytearray(encoded(draw(4, 24, 16), kind))
        data[position % len(data)] ^= flip
        try:
            assert decode(bytes(data)).mode == "RGB"
        except ImageError as error:
            assert "\n" not in str(error)

    @given(st.binary())
    def test_random_bytes_are_an_image_error(self, data):
        with pytest.raises(ImageError):
            decode(data)

    def test_a_truncated_pillow_image_is_an_image_error(self, draw):
        data = encoded(draw(4, 64, 64), "JPEG")
        with pytest.raises(ImageError):
            to_pixels(decode(Image.open(io.BytesIO(data[: len(data) // 2]))), preprocessing((32, 32)))

    def test_a_pillow_image_without_pixels_is_an_image_error(self):
        with pytest.raises(ImageError):
            to_pixels(decode(Image.new("RGB", (0, 5))), preprocessing((32, 32)))

    def test_a_path_with_a_zero_byte_is_an_image_error(self):
        with pytest.raises(ImageError):
            decode("a\0b.png")


SHAPES = [(32, 32), (1, 1), (31, 33), (48, 64), (64, 48), (7, 200), (200, 7), (17, 23), (333, 500)]  # (H, W)


@pytest.fixture(scope="module")
def open_clip_pixels():
    """open_clip_pixels(picture, preprocessing): what its own transform makes of a picture."""
    transforms = pytest.importorskip("open_clip.transform")

    def open_clip_pixels(picture, wanted):
        transform = transforms.image_transform(
            wanted.size,
            is_train=False,
            mean=wanted.mean,
            std=wanted.std,
            resize_mode=wanted.resize_mode,
            interpolation=wanted.interpolation,
            fill_color=wanted.fill_color,
        )
        return (transform(picture).numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)

    return open_clip_pixels


class TestPixels:
    @pytest.mark.parametrize("size", [(32, 32), (24, 40), (40, 24)])
    @pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
    @pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
    def test_pixels_equal_those_of_open_clip(self, draw, open_clip_pixels, resize_mode, interpolation, size):
        wanted = preprocessing(size, resize_mode, interpolation, fill=7)
        for seed, (height, width) in enumerate(SHAPES):
            picture = draw(seed, width, height)
            assert_array_equal(to_pixels(picture, wanted), open_clip_pixels(picture, wanted))

    @given(
        st.tuples(st.integers(16, 40), st.integers(16, 40)),
        st.sampled_from(["shortest", "longest", "squash"]),
        st.sampled_from(["bicubic", "bilinear"]),
        st.integers(0, 255),
        st.tuples(st.integers(8, 90), st.integers(8, 90)),
    )
    def test_pixels_equal_those_of_open_clip_for_any_shape(
        self, draw, open_clip_pixels, size, resize_mode, interpolation, fill, shape
    ):
        wanted = preprocessing(size, resize_mode, interpolation, fill)
        picture = draw(5, *shape)
        assert_array_equal(to_pixels(picture, wanted), open_clip_pixels(picture, wanted))

    @pytest.mark.parametrize(
        ("wanted", "shape", "sha256"),
        [
            (
                preprocessing((32, 32)),
                (57, 38),
                "0e0b222b07c673c3121c6f5e2b061cd738a208bc4bf277bb58203d6c2ddc1253",
            ),
            (
                preprocessing((32, 32)),
                (20, 90),
                "242bbcf04121550049eb54ff9b5b98e0bc3c5b98eda65ac75ecaa03b1571c028",
            ),
            (
                preprocessing((224, 224)),
                (64, 48),
                "b55a3f83e562455c1ece20466defc526c46f0145061a35f200fc2d5ee979cd4c",
            ),
            (
                preprocessing((32, 32), interpolation="bilinear"),
                (57, 38),
                "3bad6667682f89f3c26cccf09fb8cf243c304ce7fd8ac20cbea1c637541122e4",
            ),
            (
                preprocessing((24, 40)),
                (57, 38),
                "67e91cb241962501980c74bfbfecd970dcaed06c06129b847ef52c62342555e0",
            ),
            (
                preprocessing((32, 32), "longest", fill=128),
                (57, 38),
                "45316362d7c65428a281383a023d3a4438c3b90eae48afd0f247c1bf03e942f1",
            ),
            (
                preprocessing((40, 24), "squash"),
                (57, 38),
                "a4267c2d5ff73a0995ac2e69d334ec0887fa8a7d071d0d0f3d21dd5c0cfc0f37",
            ),
        ],
    )
    def test_golden_pixels(self, wanted, shape, sha256):
        pixels = to_pixels(Image.fromarray(noise_pixels("golden", shape)), wanted)
        assert pixels.shape == (*wanted.size, 3)
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == sha256

    def test_a_picture_of_the_right_size_is_left_alone(self):
        pixels = noise_pixels("as it is", (32, 32))
        assert_array_equal(to_pixels(Image.fromarray(pixels), preprocessing((32, 32))), pixels)

    def test_the_longest_edge_fits_and_the_rest_is_filled(self):
        white = Image.new("RGB", (64, 32), "white")
        pixels = to_pixels(white, preprocessing((32, 32), "longest", fill=9))
        assert np.all(pixels[8:24] == 255)
        assert np.all(pixels[:8] == 9) and np.all(pixels[24:] == 9)

    @pytest.mark.parametrize("size", [(1000, 1), (1, 1000)])
    @pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
    def test_long_thin_pictures_are_resized(self, size, resize_mode):
        pixels = to_pixels(Image.new("RGB", size, "white"), preprocessing((32, 32), resize_mode))
        assert pixels.shape == (32, 32, 3)
        assert pixels.max() == 255

    def test_a_picture_too_thin_for_memory_is_an_image_error(self):
        with pytest.raises(ImageError, match="1000000x1 is too long and thin"):
            to_pixels(Image.new("RGB", (1_000_000, 1)), preprocessing((32, 32)))
