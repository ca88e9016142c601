"""The metadata in the ONNX file of a full image tower, the baseline of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tgems_edge.errors import ModelFileError
from tgems_edge.model_file import records
from tgems_edge.model_file.card import Preprocessing

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["TOWER_KEY", "TowerCard", "read_tower_card"]

TOWER_KEY = "tgems_tower"  # the metadata key
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TowerCard:
    """Card of a full tower: float32 (B, 3, H, W), scaled and normalized, to embeddings (B, E)."""

    encoder: str
    weights: Literal["trained", "random"]  # latency does not depend on their values
    preprocessing: Preprocessing
    schema: int = SCHEMA_VERSION


def read_tower_card(session: onnxruntime.InferenceSession, name: str) -> TowerCard:
    """Return the card in a loaded tower; errors call the file by `name`.

    Raises:
        ModelFileError: the file is not a full tower, or was written by a newer version.
    """
    text = session.get_modelmeta().custom_metadata_map.get(TOWER_KEY)
    if text is None:
        raise ModelFileError(
            f"{name}: not the full tower of an encoder; make one with "
            "`python -m tgems_edge.bench.make_tower full ViT-B-32 full.onnx`"
        )
    try:
        return records.from_json(TowerCard, text, schema=SCHEMA_VERSION)
    except ValueError as error:
        raise ModelFileError(f"{name}: its card cannot be read: {error}; make the tower again") from None
