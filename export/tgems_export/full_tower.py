"""The full image tower as people run it today: the library's own module, exported by torch.onnx.

It takes pictures that are scaled and normalised already, float32 (B, 3, H, W), and gives embeddings (B, E).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from tgems_edge.bench.tower_card import TOWER_KEY, TowerCard
from tgems_edge.errors import InputError
from tgems_edge.model_file.records import to_json
from tgems_export.encoders.checkpoints.loading import BUILT_IN, RANDOM
from tgems_export.encoders.encoder import load_encoder
from tgems_export.exporting.graph.onnx_graph import IR_VERSION

__all__ = ["export_plain", "write_full_tower"]

OPSET = 18


def export_plain(
    tower: nn.Module, size: tuple[int, int], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a tower as torch.onnx exports it; weights of 2 GB and more lie beside the file.

    Args:
        tower: any that takes pictures of one size.
        size: (H, W).
        path: the file.
        metadata: to put into it.
    """
    program = torch.onnx.export(
        tower,
        (torch.zeros(2, 3, *size),),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=({0: torch.export.Dim("B")},),
        verbose=False,
    )
    if program is None:
        raise InputError("torch.onnx exported nothing; please report this model")
    program.model.ir_version = IR_VERSION
    program.model.metadata_props.update(metadata or {})
    program.save(path)


def write_full_tower(name: str, path: Path) -> None:
    """Writes the full image tower of an encoder, for `bench --against`.

    Speed does not depend on weights, so only the CLIPs that ship have their own; nothing is fetched.

    Args:
        name: as `--encoder` takes it.
        path: the file.

    Raises:
        EncoderError: the encoder is not known here.
    """
    encoder = load_encoder(name, None if name in BUILT_IN else RANDOM)
    card = TowerCard(name, "trained" if name in BUILT_IN else "random", encoder.preprocessing)
    export_plain(encoder.tower.module, encoder.preprocessing.size, path, {TOWER_KEY: to_json(card)})
