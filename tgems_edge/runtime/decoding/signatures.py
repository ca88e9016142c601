"""Recognise a file by its first bytes: a format that is decoded here, or its name and what to do."""

from __future__ import annotations

import re
import struct
from pathlib import PurePath

from tgems_edge.errors import ImageError
from tgems_edge.sources import formats

__all__ = ["identify", "stated_size"]

_DECODED = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    *((b"P%d" % kind, "PPM") for kind in range(1, 7)),
)

_CONVERT = "convert it to JPEG or PNG"
_RAW = "develop it to JPEG"
_OTHERS = (
    (b"%PDF", "a PDF", "export its pages as PNG"),
    (b"%!PS", "PostScript", "export it as PNG"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)", "export it as PNG"),
    (b"\0\0\1\0", "an icon (ICO)", _CONVERT),
    (b"icns", "an icon (ICNS)", _CONVERT),
    (b"8BPS", "a Photoshop file (PSD)", _CONVERT),
    (b"gimp xcf", "a GIMP file (XCF)", _CONVERT),
    (b"\0\0\0\x0cjP  ", "JPEG 2000", _CONVERT),
    (b"\xff\x4f\xff\x51", "JPEG 2000", _CONVERT),
    (b"\0\0\0\x0cJXL ", "JPEG XL", _CONVERT),
    (b"\xff\x0a", "JPEG XL", _CONVERT),
    (b"DDS ", "a DirectDraw surface (DDS)", _CONVERT),
    (b"\x76\x2f\x31\x01", "OpenEXR", _CONVERT),
    (b"#?RADIANCE", "Radiance HDR", _CONVERT),
    (b"qoif", "QOI", _CONVERT),
    (b"FLIF", "FLIF", _CONVERT),
    (b"BPG\xfb", "BPG", _CONVERT),
    (b"SIMPLE  =", "FITS", _CONVERT),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile", "export it as PNG"),
    (b"/* XPM", "XPM", _CONVERT),
    (b"P7", "PAM", _CONVERT),
    (b"FUJIFILM", "a raw file of a camera (RAF)", _RAW),
    (b"IIRO", "a raw file of a camera (ORF)", _RAW),
    (b"IIU\0", "a raw file of a camera (RW2)", _RAW),
    (b"FOVb", "a raw file of a camera (X3F)", _RAW),
    (b"version https://git-lfs", "a Git LFS pointer, not the picture itself", "git lfs pull"),
    (b"version https://hawser", "a Git LFS pointer, not the picture itself", "git lfs pull"),
    (b"PK\3\4", "a ZIP archive", "unpack it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\x1a\x45\xdf\xa3", "a video (Matroska)", "take frames out of it"),
    (b"\x93NUMPY", "a NumPy array", "np.load it and give the array"),
)

# Of ISO base media files, of which HEIC and AVIF are two kinds among videos.
_AVIF = {b"avif", b"avis"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"miaf"}

_HTML = re.compile(rb"<(!doctype html|html|head|body)\b", re.IGNORECASE)
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)
_MARKUP_WITHIN = 1000  # bytes


def identify(data: bytes, name: str) -> str:
    """Pillow's name of the format of a file.

    Args:
        data: its content.
        name: its name, whose suffix helps to say what is wrong.

    Raises:
        ImageError: it is of no format that is decoded here; the message says what it is and what to do.
    """
    for signature, format in _DECODED:
        if data.startswith(signature):
            return _decoder(format)
    if data[:4] == b"RIFF":
        if data[8:12] == b"WEBP":
            return _decoder("WEBP")
        raise ImageError("a RIFF file (sound or video), not a picture; take frames out of it")
    if data[4:8] == b"ftyp":
        return _identify_media(data)
    for signature, what, remedy in _OTHERS:
        if data.startswith(signature):
            raise ImageError(f"{what}, which is not read here; {remedy}")
    _refuse_text(data)
    if not data.strip(b"\0"):
        raise ImageError("nothing but zero bytes; copy it again")
    suffix = PurePath(name).suffix
    hint = _CONVERT if formats.can_decode(suffix) else formats.advice(suffix)
    raise ImageError(f"not a picture that is read here; {hint}")


def _decoder(format: str) -> str:
    """The format, if Pillow has its decoder here."""
    suffix = {"HEIF": ".heic", "AVIF": ".avif", "WEBP": ".webp"}.get(format)
    if suffix and not formats.can_decode(suffix):
        what = {"HEIF": "HEIC", "AVIF": "AVIF", "WEBP": "WebP"}[format]
        raise ImageError(f"a {what} picture, and no decoder for it is installed; {formats.advice(suffix)}")
    return format


def _identify_media(data: bytes) -> str:
    length = min(struct.unpack(">I", data[:4])[0], 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, length - 3, 4))]
    if _AVIF.intersection(brands):
        return _decoder("AVIF")
    if _HEIF.intersection(brands):
        return _decoder("HEIF")
    if brands[0] == b"crx ":
        raise ImageError(f"a raw file of a camera (CR3), which is not read here; {_RAW}")
    raise ImageError("a video, not a picture; take frames out of it")


def _refuse_text(data: bytes) -> None:
    beginning = data[:_MARKUP_WITHIN].lstrip(b"\xef\xbb\xbf \t\r\n")
    if _SVG.search(beginning):
        raise ImageError("an SVG drawing, which is not read here; export it as PNG")
    if _HTML.search(beginning):
        raise ImageError("an HTML page saved as a picture; download the picture itself")
    if beginning[:1] in (b"{", b"["):
        raise ImageError("text such as a server's answer in JSON, not a picture; download the picture itself")


def stated_size(data: bytes, format: str) -> tuple[int, int] | None:
    """(width, height) in the header of a format whose decoder allocates memory as soon as it opens a file.

    None for other formats, and for headers that are damaged, which their decoders refuse.
    """
    try:
        if format == "WEBP":
            return _webp_size(data)
        return _gif_size(data) if format == "GIF" else None
    except (struct.error, IndexError):
        return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _gif_size(data: bytes) -> tuple[int, int]:
    """Return the size of the screen, or of a first frame that reaches beyond it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
    while data[at] == 0x21:  # extensions: a label, and blocks up to an empty one
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    if data[at] == 0x2C:
        left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
        width, height = max(width, left + wide), max(height, top + high)
    return width, height
