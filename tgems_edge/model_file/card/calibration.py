"""The calibration."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tgems_edge.errors import InputError
from tgems_edge.maths.sets import rank
from tgems_edge.model_file.digests import beginnings, join_beginnings

__all__ = ["CalibrationData", "is_level", "look_up"]


@dataclass(frozen=True)
class CalibrationData:
    """The pictures that temperature, conformal quantiles and rejection thresholds were fitted on."""

    images: int
    sha256: str  # of their files' SHA-256, sorted
    digests: str  # base64: the first 6 bytes of each file's SHA-256, so that nobody measures on them

    @classmethod
    def of(cls, digests: Sequence[bytes]) -> CalibrationData:
        """From the SHA-256 of each picture's file."""
        whole = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
        return cls(len(digests), whole, base64.b64encode(join_beginnings(digests)).decode())

    def beginnings(self) -> list[bytes]:
        """The first 6 bytes of each file's SHA-256.

        Raises:
            ValueError: they are no base64, or cut short.
        """
        return beginnings(base64.b64decode(self.digests, validate=True))

    def is_whole(self) -> bool:
        """Whether there is one digest for each picture."""
        try:
            return len(self.beginnings()) == self.images
        except ValueError:
            return False


def is_level(text: str, pictures: int) -> bool:
    """Whether a key is a share as `look_up` writes it, and so many pictures have its quantile."""
    try:
        share = float(text)
    except ValueError:
        return False
    return 0 < share < 1 and f"{share:g}" == text and rank(pictures, max(share, 1 - share)) <= pictures


def look_up(table: dict[str, float] | None, level: float, option: str, purpose: str) -> float:
    """Returns the bound of a level; raises InputError where the file has none."""
    if table is None:
        raise InputError(
            f"the file was exported without calibration, so it has no {purpose}; "
            "export it with --data or --calibration"
        )
    if (found := table.get(f"{level:g}")) is None:
        raise InputError(f"{option} {level:g}: the file has {', '.join(table)}; choose one of them")
    return found
