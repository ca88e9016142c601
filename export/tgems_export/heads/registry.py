"""The kinds of head there are; nothing else asks which kind it has before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tgems_export.heads.base import ExitHead, HeadKindName
from tgems_export.heads.ssa import SsaHead
from tgems_export.heads.tgem import TGemHead
from tgems_export.heads.training.base import HeadSettings
from tgems_export.heads.training.ssa import SsaSettings
from tgems_export.heads.training.tgem import TGemSettings

__all__ = ["DEFAULT_KIND", "KINDS", "HeadKind", "kind_of"]

DEFAULT_KIND: HeadKindName = "tgem"


@dataclass(frozen=True)
class HeadKind:
    """One kind of head."""

    name: HeadKindName
    title: str
    settings: type[HeadSettings]  # how it is trained
    make: Callable[[int, int, int], ExitHead]  # an untrained one, of D, E and K

    def make_settings(self, **chosen: Any) -> HeadSettings:
        """Settings with some fields chosen and the others as they are by default."""
        make: Any = self.settings
        return make(**chosen)

    @property
    def option(self) -> str:
        """The option of `train` and `export` that chooses this kind; empty for the default."""
        return "" if self.name == DEFAULT_KIND else f" --head-kind {self.name}"

    @property
    def prefix(self) -> str:
        """The prefix of its files' names; a folder may hold heads of several kinds."""
        return "" if self.name == DEFAULT_KIND else f"{self.name}-"


KINDS: dict[HeadKindName, HeadKind] = {
    kind.name: kind
    for kind in (
        HeadKind("tgem", "T-GEM", TGemSettings, TGemHead),
        HeadKind("ssa", "SSA", SsaSettings, lambda width, embedding, _: SsaHead(width, embedding)),
    )
}


def kind_of(settings: HeadSettings) -> HeadKind:
    """The kind of head that settings are for."""
    return next(kind for kind in KINDS.values() if kind.settings is type(settings))
