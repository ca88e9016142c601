"""Reads our Dockerfiles: the instructions they use, and no others."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Instruction", "read_dockerfile"]

KNOWN = {
    "FROM", "ARG", "ENV", "COPY", "RUN", "USER", "WORKDIR", "HEALTHCHECK", "ENTRYPOINT", "CMD",
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One instruction, such as `COPY --from=build /opt/a /opt/b`."""

    name: str
    flags: dict[str, str]  # {"from": "build"}
    text: str  # what follows them; a list in JSON for ENTRYPOINT and CMD

    @property
    def words(self) -> list[str]:
        """The text, split as a shell splits it."""
        return shlex.split(self.text)

    @property
    def command(self) -> list[str]:
        """The command of ENTRYPOINT, CMD or HEALTHCHECK, which has to be a list: no shell, no surprises."""
        return list(json.loads(self.text.removeprefix("CMD ")))


def read_dockerfile(path: Path) -> list[Instruction]:
    """The instructions of a Dockerfile, in their order.

    Raises:
        ValueError: an instruction that none of ours uses.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text)
    return [_read(line) for line in joined.splitlines() if line.strip()]


def _read(line: str) -> Instruction:
    name, _, rest = line.partition(" ")
    if name not in KNOWN:
        raise ValueError(f"{name} is none of {', '.join(sorted(KNOWN))}")
    flags = {}
    while found := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        flags[found[1]] = found[2]
        rest = rest[found.end() :]
    return Instruction(name, flags, rest)
