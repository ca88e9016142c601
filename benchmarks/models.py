"""Which of open_clip's image towers can be cut behind a block.

    python benchmarks/models.py

The same as `tgems-edge export --list-models`, grouped. Half a minute, no weights. Writes
benchmarks/results/models.md.
"""

from __future__ import annotations

from importlib.metadata import version
from itertools import groupby

from report import write_report

from tgems_edge.progress import Reporter
from tgems_export.encoders.catalogue import Architecture, list_architectures


def family(architecture: Architecture) -> tuple[bool, str, str]:
    """What architectures of one row have in common; those that can be cut first."""
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
        rows.append([kind, answer, len(names), ", ".join(names)])
    supported = sum(architecture.reason is None for architecture in architectures)
    write_report(
        "models",
        "Architectures",
        "python benchmarks/models.py",
        f"{supported} of {len(architectures)} architectures of open_clip {version('open_clip_torch')} can "
        "be cut behind any of their blocks. An exit reads cls, the class token, or mean, the mean of the "
        "patch tokens; training finds out which is better.",
        ["image tower", "can be cut, exits read", "", "architectures"],
        rows,
    )


if __name__ == "__main__":
    main()
