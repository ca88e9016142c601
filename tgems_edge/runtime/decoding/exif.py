"""Directories of TIFF and EXIF, before a library follows what they say.

Every entry of a directory may point at the whole file, and a library reads all that they point at: 64 KB
would become gigabytes. A directory that points at more than there is was made to do so.
"""

from __future__ import annotations

import re
import struct
from typing import Any, NamedTuple

__all__ = ["is_plausible", "orientation"]

_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_ORIENTATION = 0x0112
_SUB_DIRECTORIES = {330, 34665, 34853, 40965}  # others, EXIF, GPS, interoperability
_MOST_ENTRIES = 0xFFFF  # that a directory can state, but for those of BigTIFF
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:="|>)([0-9])""")


class _Entry(NamedTuple):
    tag: int
    type: int
    number: int
    value: bytes  # itself, or where it is

    @property
    def size(self) -> int:
        return self.number * _SIZES.get(self.type, 0)


class _Tiff:
    """The header of a block that may be cut short or damaged anywhere."""

    def __init__(self, data: bytes):
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = data[2:4] in (b"+\0", b"\0+")
        self.entry_size = 20 if self.big else 12
        self.first = self._number(data[8:16] if self.big else data[4:8])

    def _number(self, value: bytes) -> int:
        return int.from_bytes(value, "little" if self.order == "<" else "big")

    def directory(self, at: int) -> tuple[list[_Entry], int]:
        """Entries, and where the next directory is, or 0."""
        head, layout = (8, "HHQ8s") if self.big else (2, "HHI4s")
        size = self.entry_size
        count = min(self._number(self.data[at : at + head]), _MOST_ENTRIES)
        count = max(0, min(count, (len(self.data) - at - head) // size))
        end = at + head + count * size
        block = self.data[at + head : end]
        entries = [_Entry(*fields) for fields in struct.iter_unpack(self.order + layout, block)]
        return entries, self._number(self.data[end : end + (8 if self.big else 4)])

    def pointed_at(self, entry: _Entry) -> int:
        """Bytes outside of the directory that an entry makes a library read."""
        if entry.size <= len(entry.value):
            return 0
        return max(0, min(entry.size, len(self.data) - self._number(entry.value)))

    def value(self, entry: _Entry) -> int:
        return self._number(entry.value[: _SIZES.get(entry.type, 0)])


def _tiff_block(exif: bytes) -> bytes:
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    return exif


def is_plausible(exif: bytes) -> bool:
    """Whether no directory of a TIFF file or EXIF block points at more than the block holds."""
    tiff = _Tiff(_tiff_block(exif))
    waiting, seen, directories = [tiff.first], set(), 0
    while waiting:
        at = waiting.pop()
        if at in seen or not 0 < at < len(tiff.data):
            continue
        seen.add(at)
        entries, following = tiff.directory(at)
        directories += len(entries) * tiff.entry_size
        if max(directories, sum(map(tiff.pointed_at, entries))) > len(tiff.data):
            return False
        waiting.append(following)
        waiting += [tiff.value(entry) for entry in entries if entry.tag in _SUB_DIRECTORIES]
    return True


def orientation(info: dict[Any, Any]) -> int:
    """The orientation, 1 to 8, that the metadata of an opened picture state; 1 where they state none."""
    exif = info.get("exif")
    if exif is None and isinstance(text := info.get("Raw profile type exif"), str):
        try:
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:
            exif = None
    if isinstance(exif, bytes):
        tiff = _Tiff(_tiff_block(exif))
        entries, _ = tiff.directory(tiff.first)
        for entry in entries:
            if entry.tag == _ORIENTATION and entry.number >= 1:
                return tiff.value(entry)
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp")
    xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    found = _XMP_ORIENTATION.search(xmp) if isinstance(xmp, bytes) else None
    return int(found[1]) if found else 1
