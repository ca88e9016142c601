"""The markers of a JPEG file, read before a library decodes it."""

from __future__ import annotations

from dataclasses import dataclass

from tgems_edge.errors import ImageError
from tgems_edge.runtime.decoding.exif import is_plausible

__all__ = ["END", "Jpeg", "read_jpeg"]

START, END, SCAN, EXIF, ICC = b"\xff\xd8", b"\xff\xd9", b"\xff\xda", 0xE1, 0xE2
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_ALONE = {0x01, *range(0xD0, 0xDA)}  # markers without a length

# Encoders write about ten. Each goes over all coefficients again, however few bytes it has.
_MOST_SCANS = 100

_RESTARTS = [b"\xff" + bytes([0xD0 + number]) for number in range(8)]

_OWN_ZEROS = 16  # bytes that a scan may end in

# What stands in for data that may be missing: pictures that need any of it come out different.
_FILLERS = bytes(range(1, 127)), bytes(range(254, 128, -1))


@dataclass(frozen=True)
class Jpeg:
    """A file, with what would make a library read more than the first picture taken out."""

    data: bytes
    scans_at: int  # where the first scan begins
    has_profile: bool
    notes: tuple[str, ...]  # what was wrong and does not matter

    @property
    def has_end(self) -> bool:
        """Whether there is an end mark."""
        return self.data.rfind(END, self.scans_at) >= 0

    def check_scans(self) -> None:
        """Raise ImageError for so many scans that decoding would take minutes."""
        scans = self.data.count(SCAN, self.scans_at)
        if scans > _MOST_SCANS and len(self._scans()) > _MOST_SCANS:
            raise ImageError(f"a JPEG of more than {_MOST_SCANS} scans, made to take long; save it again")

    def completed(self) -> tuple[bytes, bytes]:
        """The file with an end mark, twice: decoded, both are the same if nothing but the mark was missing.

        Raises:
            ImageError: a scan is missing.
        """
        if not self._all_scans_there():
            raise ImageError("damaged or cut short (scans are missing); copy or save it again")
        data = self.data.rstrip(b"\0")
        data = self.data[: len(data) + _OWN_ZEROS]  # a file that was never written to its end ends in zeros
        if data.endswith(b"\xff"):
            data += b"\0"
        one, other = (data + self._filled(filler) + END for filler in _FILLERS)
        return one, other

    def _filled(self, filler: bytes) -> bytes:
        """A filler, and more of it after the restart that a decoder may be waiting for and the next ones."""
        last_scan = self.data.rfind(SCAN)
        places = [self.data.rfind(mark, last_scan) for mark in _RESTARTS]
        expected = places.index(max(places)) + 1 if max(places) >= 0 else 0
        marks = _RESTARTS[expected:] + _RESTARTS[:expected]
        return filler + b"".join(mark + filler for mark in marks + marks)

    def _scans(self) -> list[bytes]:
        """Headers of the scans of the first picture."""
        headers: list[bytes] = []
        at = self.scans_at
        while 0 <= at < len(self.data) - 3 and len(headers) <= _MOST_SCANS:
            marker = self.data[at + 1]
            if marker == END[1]:
                break
            if marker in (0x00, 0xFF) or marker in _ALONE:
                at += 1 if marker == 0xFF else 2
            else:
                length = int.from_bytes(self.data[at + 2 : at + 4], "big")
                if marker == SCAN[1]:
                    headers.append(self.data[at + 4 : at + 2 + length])
                at += 2 + max(2, length)
            at = self.data.find(b"\xff", at)
        return headers

    def _all_scans_there(self) -> bool:
        """Whether every coefficient of every component came with its last bit."""
        seen: dict[int, set[int]] = {}
        for header in self._scans():
            count = header[0] if header else 0
            if len(header) < 4 + 2 * count:
                return False
            first, last, bits = header[1 + 2 * count : 4 + 2 * count]
            for component in header[1 : 1 + 2 * count : 2]:
                done = seen.setdefault(component, set())
                if bits & 15 == 0:
                    done |= set(range(first, last + 1))
        return len(seen) >= self._components() and all(len(done) >= 64 for done in seen.values())

    def _components(self) -> int:
        for marker, at, end in _segments(self.data):
            if marker in _FRAMES and end - at >= 10:
                return self.data[at + 9]
        return 0


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, where it begins, where it ends) up to the first scan, which is the last of them.

    Empty without a scan: such a file is for the library to refuse.
    """
    found: list[tuple[int, int, int]] = []
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at < len(data) - 3:
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        found.append((marker, at, end))
        if marker == SCAN[1]:
            return found
        at = end
    return []


def read_jpeg(data: bytes) -> Jpeg | None:
    """Read the markers of a file; None without a scan."""
    segments = _segments(data)
    if not segments:
        return None
    notes = []
    exif = [
        (at, end) for marker, at, end in segments if marker == EXIF and data[at + 4 : at + 10] == b"Exif\0\0"
    ]
    drop = [
        (at, end) for marker, at, end in segments if marker == ICC and data[at + 4 : at + 8] == b"MPF\0"
    ]  # points at further pictures
    if not is_plausible(b"".join(data[at + 10 : end] for at, end in exif)):
        notes.append("its EXIF block is damaged and was left out")
        drop += exif
    scans_at = segments[-1][1]
    for at, end in sorted(drop, reverse=True):
        data = data[:at] + data[end:]
        scans_at -= end - at
    profile = any(m == ICC and data[at + 4 : at + 16] == b"ICC_PROFILE\0" for m, at, _ in _segments(data))
    return Jpeg(data, scans_at, profile, tuple(notes))
