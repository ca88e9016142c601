"""Picture formats: which are decoded, and what to do about files of the others.

Decoders are an allow-list. Pillow brings dozens, some of which nobody maintains, start other programs or
only recognise a file; pictures to classify come in a few formats.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec

from PIL import Image, features

__all__ = ["advice", "can_decode", "decoded_formats", "picture_suffixes", "register_heif"]

# By Pillow's name of a format. Pillow knows the first five from the start, and loads all others together when
# it gets to a sixth; so that most pictures are opened without, these come first.
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),  # once opened, files with several pictures are "MPO"
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),  # of data sets such as the German traffic signs
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),
}
_FORMAT = {suffix: name for name, suffixes in _SUFFIXES.items() for suffix in suffixes}

_CAMERA = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf "
    ".raw .rw2 .rwl .sr2 .srf .srw .x3f"
)
_DRAWING = ".ai .cdr .emf .eps .pdf .ps .svg .svgz .wmf"
_OTHER = (
    ".bpg .cin .cur .dcm .dcx .dds .dib .dicom .dpx .exr .fits .fit .flif .hdr .icns .ico .j2c .j2k .jng "
    ".jp2 .jpf .jpx .jxl .jxr .kra .mng .nii .pam .pcd .pct .pcx .pfm .pict .psb .psd .qoi .ras .rgb "
    ".rgba .sgi .tga .wdp .xbm .xcf .xpm"
)
_CONVERT = {
    **dict.fromkeys(_CAMERA.split(), "develop raw files to JPEG"),
    **dict.fromkeys(_DRAWING.split(), "export as PNG"),
    **dict.fromkeys(_OTHER.split(), "convert to JPEG or PNG"),
}


@cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes of all files that people call pictures, decoded here or not: `.jpg`, `.heic`, `.psd`."""
    return frozenset(_FORMAT) | frozenset(_CONVERT)


def can_decode(suffix: str) -> bool:
    """Whether files with this suffix are read here; looks for a decoder when it first meets one it needs."""
    name = _FORMAT.get(suffix.lower())
    return name is not None and _has_decoder(name)


def advice(suffix: str) -> str:
    """Return what to do about pictures with a suffix that `can_decode` denies, in a few words."""
    name = _FORMAT.get(suffix.lower())
    if name == "HEIF":
        return "pip install 'tgems-edge[heif]'"
    if name == "AVIF":
        return "pip install 'Pillow>=11.3'"
    return _CONVERT.get(suffix.lower(), "convert to JPEG or PNG")


def decoded_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are decoded here, for `Image.open(formats=...)`.

    HEIF is among them once `register_heif` has found its decoder. What is opened may call itself MPO, too.
    """
    absent = set()
    if "HEIF" not in Image.OPEN:
        absent.add("HEIF")
    if not find_spec("PIL.AvifImagePlugin"):  # Pillow before 11.3
        absent.add("AVIF")
    return tuple(name for name in _SUFFIXES if name not in absent)


@cache
def register_heif() -> bool:
    """Lets Pillow open HEIC and HEIF where pillow-heif is installed, and says whether it is.

    Call it when such a file is met, not before: loading it delays the start.
    """
    try:
        import pillow_heif
    except ImportError:  # not there, or its libraries do not load
        return False
    pillow_heif.register_heif_opener()
    return True


@cache
def _has_decoder(name: str) -> bool:
    if name == "HEIF":
        return register_heif()
    if name in ("AVIF", "WEBP"):  # Pillow can be built without
        with warnings.catch_warnings():  # before 11.3 it warns that it has never heard of AVIF
            warnings.simplefilter("ignore")
            return bool(features.check(name.lower()))
    return True
