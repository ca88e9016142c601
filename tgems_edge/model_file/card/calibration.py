"""Values fitted on pictures that neither trained nor measure, for all exits of a file together."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tgems_edge.errors import InputError
from tgems_edge.maths.sets import SetMethod, rank
from tgems_edge.model_file.card.require import require
from tgems_edge.model_file.digests import beginnings, join_beginnings

__all__ = ["Calibration"]


@dataclass(frozen=True)
class Calibration:
    """Quantiles that label sets and `unknown` are made with, and the pictures that they were fitted on."""

    images: int
    sha256: str  # of the SHA-256 of the pictures' files, sorted
    digests: str  # base64: the first 6 bytes of each file's SHA-256, so that nobody measures on them
    conformal: dict[str, float]  # for each coverage, of threshold sets (`tgems_edge.maths.sets`)
    conformal_adaptive: dict[str, float]  # the same of adaptive sets
    rejection: dict[str, float]  # what a share of known pictures exceeds: smallest rate - `surprise`

    @classmethod
    def of(
        cls,
        digests: Sequence[bytes],
        conformal: dict[str, float],
        conformal_adaptive: dict[str, float],
        rejection: dict[str, float],
    ) -> Calibration:
        """Describes the pictures by the SHA-256 of each one's file."""
        whole = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
        text = base64.b64encode(join_beginnings(digests)).decode()
        return cls(len(digests), whole, text, conformal, conformal_adaptive, rejection)

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

    def validate(self) -> None:
        """Checks digests and levels.

        Raises:
            ModelFileError: what is wrong with them.
        """
        require(self.is_whole(), "digests that are cut short")
        tables = (self.conformal, self.conformal_adaptive, self.rejection)
        possible = all(_is_level(level, self.images) for table in tables for level in table)
        require(possible, "a level that its calibration cannot give")

    def set_bounds(self, method: SetMethod) -> dict[str, float]:
        """The quantile for each coverage of label sets of this method."""
        return self.conformal if method == "threshold" else self.conformal_adaptive

    def set_bound(self, coverage: float, method: SetMethod) -> float:
        """The quantile for one coverage.

        Raises:
            InputError: it was not fitted for this one.
        """
        return _look_up(self.set_bounds(method), coverage, "coverage")

    def rejection_bound(self, reject: float) -> float:
        """Return the bound on the surprisal beyond which a picture is `unknown`.

        Raises:
            InputError: it was not fitted for this share.
        """
        return _look_up(self.rejection, reject, "reject")


def _is_level(text: str, pictures: int) -> bool:
    """Whether a key is a share as `_look_up` writes it, and so many pictures have its quantile."""
    try:
        share = float(text)
    except ValueError:
        return False
    return 0 < share < 1 and f"{share:g}" == text and rank(pictures, max(share, 1 - share)) <= pictures


def _look_up(table: dict[str, float], level: float, option: str) -> float:
    if (found := table.get(f"{level:g}")) is None:
        raise InputError(f"{option} {level:g}: the file has {', '.join(table)}; choose one of them")
    return found
