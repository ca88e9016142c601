"""The architectures of open_clip and their exit points, read from configurations alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import open_clip

from tgems_edge.errors import EncoderError
from tgems_edge.progress import Reporter
from tgems_export.encoders.checkpoints.loading import outlined_tower
from tgems_export.encoders.towers.base import ExitPoint, Pool
from tgems_export.encoders.towers.families import kind_of, read_tower

__all__ = ["Architecture", "list_architectures", "read_architecture"]


@dataclass(frozen=True)
class Architecture:
    """An architecture of open_clip; where its tower cannot be cut, `reason` says why."""

    name: str
    kind: str  # of the image tower
    image_size: tuple[int, int]  # (H, W)
    parameters: int  # of the image tower
    tags: tuple[str, ...]  # of its trained weights
    reason: str | None = None
    blocks: int | None = None  # and below: None, or empty, for a tower that cannot be cut
    width: int | None = None  # D behind the last block
    pools: tuple[Pool, ...] = ()
    operations: int | None = None  # of one picture
    points: tuple[ExitPoint, ...] = ()  # `full` is the last


def list_architectures(reporter: Reporter) -> list[Architecture]:
    """All of them, in open_clip's order."""
    names = open_clip.list_models()
    found = []
    with reporter.task("reading open_clip's architectures", len(names), unit="architectures") as task:
        for name in names:
            found.append(read_architecture(name))
            task.advance(1)
    return found


def read_architecture(name: str) -> Architecture:
    """One of them.

    Raises:
        EncoderError: open_clip has no such architecture.
    """
    module = outlined_tower(name)
    size = module.image_size
    architecture = Architecture(
        name=name,
        kind=kind_of(module),
        image_size=size if isinstance(size, tuple) else (size, size),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        tags=tuple(open_clip.list_pretrained_tags_by_model(name)),
    )
    try:
        tower = read_tower(module)
    except EncoderError as error:
        return replace(architecture, reason=str(error))
    return replace(
        architecture,
        blocks=len(tower.points),
        width=tower.points[-1].width,
        pools=tower.pools,
        operations=tower.operations,
        points=(*tower.points, tower.full),
    )
