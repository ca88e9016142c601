"""The image towers of open_clip that can be cut.

    python benchmarks/models.py

The same as `tgems-edge models`, grouped. Half a minute, no weights. Expect all towers whose
blocks have one width.
"""

from __future__ import annotations

from importlib.metadata import version
from itertools import groupby

from measuring.result import save

from tgems_edge.progress import Reporter
from tgems_export.encoders.catalogue import Architecture, list_architectures


def family(architecture: Architecture) -> tuple[bool, str, str]:
    """Return what architectures of one row have in common; those that can be cut first."""
    if architecture.reason is None:
        return False, architecture.kind, f"yes: {' or '.join(architecture.pools)}"
    why = architecture.reason.removeprefix(f"its image tower is a {architecture.kind}: ")
    return True, architecture.kind, f"no: {why}"


def main() -> None:
    """List all architectures."""
    architectures = sorted(list_architectures(Reporter()), key=family)
    rows = []
    for (_, kind, answer), members in groupby(architectures, key=family):
        names = [architecture.name for architecture in members]
        rows.append({"tower": kind, "answer": answer, "count": len(names), "architectures": names})
    facts = {
        "supported": sum(architecture.reason is None for architecture in architectures),
        "all": len(architectures),
        "open_clip": version("open_clip_torch"),
    }
    save("models", {"towers": rows}, facts)


if __name__ == "__main__":
    main()
