"""Files that are no pictures, or pictures made to cost time and memory; each small, and made here."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageCms

SIZE = 48, 32


@dataclass(frozen=True)
class Attack:
    """A file, and how `classify` answers it."""

    name: str  # of the file; its suffix is what it pretends to be
    make: Callable[[], bytes]
    says: str  # on standard error, as a regular expression; "" for nothing
    exit_code: int = 1

    def __str__(self):
        return self.name


def encoded(kind, *, mode="RGB", size=SIZE, **options):
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, kind, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*extra, width=SIZE[0], height=SIZE[1], depth=8, rows=None):
    """A grey PNG with more chunks, which need not hold what its header says."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    rows = (b"\0" + bytes(range(width)) * (depth // 8)) * height if rows is None else rows
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def webp(width, height):
    """34 bytes whose decoder would take gigabytes."""
    bits = (width - 1) | (height - 1) << 14
    body = b"WEBPVP8L" + struct.pack("<IBI", 9, 0x2F, bits) + b"\0" * 5
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(screen, frame):
    """A first frame that is to be disposed of, which takes memory as soon as the file is opened."""
    control = b"!\xf9\x04\x08\0\0\0\0"
    described = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0)
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0, 0, 0) + control + described + b"\x02\x02\x44\x01\0;"


def directory(entries, size, *, first=8):
    """A TIFF directory of which every entry points at the whole block."""
    packed = b"".join(struct.pack("<HHII", 5_000 + n, 7, size, 0) for n in range(entries))
    block = b"II*\0" + struct.pack("<I", first) + struct.pack("<H", entries) + packed + b"\0" * 4
    return block.ljust(size, b"\0")


def segment(marker, data):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(*segments, **options):
    data = encoded("JPEG", quality=95, **options)
    return data[:2] + b"".join(segments) + data[2:]


def many_scans(count):
    """A progressive JPEG that repeats its last scan."""
    data = encoded("JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def hidden_scans(count):
    """The same, behind an end mark in a comment."""
    data = encoded("JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + segment(0xFE, b"\xff\xd9") + data[last:-2] * count + data[-2:]


def profile_segments(profile, *, total=None):
    parts = [profile[at : at + 65_000] for at in range(0, len(profile), 65_000)]
    head = b"ICC_PROFILE\0"
    return [segment(0xE2, head + bytes([n, total or len(parts)]) + part) for n, part in enumerate(parts, 1)]


def srgb():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def tiff(width, height, *entries, data=b""):
    """One grey strip, with tags of our own."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    tags |= dict(entries)
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + packed + b"\0" * 4
    )


def media(brand):
    return struct.pack(">I4s4sI4s", 20, b"ftyp", brand, 0, brand) + b"\0" * 100


LIMIT = "are more than the limit of 52,000,000"
CUT = "damaged or cut short"

BOMBS = [
    Attack(
        "bomb.webp",
        lambda: webp(16_383, 16_383),
        f"16383x16383 pixels of WEBP, which count twice, {LIMIT}.*--max-pixels",
    ),
    Attack("bomb.png", lambda: png(width=20_000, height=20_000, rows=b""), f"20000x20000 pixels {LIMIT}"),
    Attack("screen.gif", lambda: gif((65_535, 65_535), (1, 1)), LIMIT),
    Attack("frame.gif", lambda: gif((8, 8), (65_535, 65_535)), LIMIT),
    Attack(
        "bomb.bmp",
        lambda: b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, 30_000, 30_000, 1, 24, *[0] * 6),
        LIMIT,
    ),
    Attack("bomb.ppm", lambda: b"P6 99999 99999 255\n", LIMIT),
    Attack("bomb.tif", lambda: tiff(60_000, 60_000), LIMIT),
    Attack(
        "bomb.jpg", lambda: encoded("JPEG").replace(struct.pack(">HH", 32, 48), b"\xff\xdc\xff\xdc"), LIMIT
    ),
    Attack("thin.png", lambda: encoded("PNG", mode="L", size=(1_000_000, 1)), "too long and thin"),
    Attack(
        "directory.tif", lambda: directory(60_000, 800_000), "directory points at more than the file holds"
    ),
    Attack("strips.tif", lambda: tiff(48, 32, (279, 0xFFFFFFF0), data=bytes(48)), CUT),
    Attack("rows.tif", lambda: tiff(48, 32, (278, 1), (273, 0xFFFFFFF0), data=bytes(48)), CUT),
    Attack("scans.jpg", lambda: many_scans(400), "JPEG of more than 100 scans"),
    Attack("hidden.jpg", lambda: hidden_scans(400), "JPEG of more than 100 scans"),
    Attack(
        "exif.jpg",
        lambda: with_segments(segment(0xE1, b"Exif\0\0" + directory(5_000, 65_000))),
        "warning: .*EXIF block is damaged",
        0,
    ),
    Attack("exif.png", lambda: png(chunk(b"eXIf", directory(60_000, 800_000))), "", 0),
    Attack("pages.jpg", lambda: with_segments(segment(0xE2, b"MPF\0" + directory(5_000, 65_000))), "", 0),
    Attack("text.png", lambda: png(*[chunk(b"zTXt", b"a\0\0" + ZEROS)] * 5), "warning: .*too large", 0),
    Attack("icc.png", lambda: png(chunk(b"iCCP", b"a\0\0" + ZEROS)), "warning: .*profile are too large", 0),
]
ZEROS = zlib.compress(bytes(100_000_000))

STRANGERS = [
    Attack("page.jpg", lambda: b"<!DOCTYPE html>\n<html><body>404", "an HTML page saved as a picture"),
    Attack("later.jpg", lambda: b"\xef\xbb\xbf\n<?xml version='1.0'?><html xmlns='x'>", "an HTML page"),
    Attack(
        "lfs.jpg",
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
        "a Git LFS pointer.*git lfs pull",
    ),
    Attack("answer.png", lambda: b'{"error": "not found"}', "a server's answer in JSON"),
    Attack("zeros.jpg", lambda: bytes(5_000), "nothing but zero bytes"),
    Attack("notes.png", lambda: b"a shopping list\n", "not a picture that is read here"),
    Attack("drawing.png", lambda: b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "an SVG drawing.*PNG"),
    Attack("page.png", lambda: b"%PDF-1.7\n", "a PDF"),
    Attack("script.jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    Attack("script.tif", lambda: b"\xc5\xd0\xd3\xc6" + bytes(30), r"PostScript \(EPS\)"),
    Attack("nested.jpg", lambda: b"\x1c\x02\x78\0\x10%!PS-Adobe-3.0\n", "not a picture that is read here"),
    Attack("icon.png", lambda: encoded("ICO"), r"an icon \(ICO\), which is not read here; convert"),
    Attack("layers.jpg", lambda: b"8BPS\0\1" + bytes(30), "a Photoshop file"),
    Attack("wavelet.jpg", lambda: b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    Attack("new.jpg", lambda: b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    Attack("film.jpg", lambda: media(b"isom"), "a video, not a picture"),
    Attack("raw.jpg", lambda: media(b"crx "), r"CR3.*develop"),
    Attack("sound.webp", lambda: b"RIFF\4\0\0\0WAVE", "not a picture"),
    Attack("archive.jpg", lambda: b"PK\3\4" + bytes(30), "a ZIP archive"),
    Attack("targa.tga", lambda: encoded("TGA"), "not a picture that is read here; convert to JPEG or PNG"),
    Attack("empty.jpg", lambda: b"", r"empty \(0 bytes\)"),
]

DAMAGED = [
    Attack("half.jpg", lambda: encoded("JPEG")[:-200], CUT),
    Attack("half_progressive.jpg", lambda: encoded("JPEG", progressive=True)[:-100], CUT),
    Attack("half_zeros.jpg", lambda: encoded("JPEG")[:-200] + bytes(99), CUT),
    Attack("no_end.jpg", lambda: encoded("JPEG")[:-2], "warning: .*end mark is missing", 0),
    Attack("half_end.jpg", lambda: encoded("JPEG")[:-1], "warning: .*end mark is missing", 0),
    Attack(
        "no_end_zeros.jpg", lambda: encoded("JPEG")[:-2] + bytes(999), "warning: .*end mark is missing", 0
    ),
    Attack("no_end_garbage.jpg", lambda: encoded("JPEG")[:-2] + b"garbage" * 9, "warning: .*end mark", 0),
    Attack("after_end.jpg", lambda: encoded("JPEG") + b"garbage" * 9, "", 0),
    Attack("half.png", lambda: encoded("PNG")[:-40], CUT),
    Attack("short.png", lambda: png(rows=b"\0\0\0"), CUT),
    Attack("10_in_16.png", lambda: deep(10), "warning: .*uses only the lower 10 of 16 bits", 0),
    Attack("12_in_16.png", lambda: deep(12), "warning: .*uses only the lower 12 of 16 bits", 0),
    Attack("14_in_16.png", lambda: deep(14), "warning: .*uses only the lower 14 of 16 bits", 0),
    Attack("16_in_16.png", lambda: deep(16), "", 0),
]


def deep(bits):
    """A grey PNG of 16 bits, of which some are used."""
    values = [(2**bits - 1) * n // (SIZE[0] - 1) for n in range(SIZE[0])]
    return png(depth=16, rows=(b"\0" + struct.pack(f">{SIZE[0]}H", *values)) * SIZE[1])


PICTURES = BOMBS + STRANGERS + DAMAGED
