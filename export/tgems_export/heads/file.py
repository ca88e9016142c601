"""The head file, in which training and export meet.

One head belongs to one exit, one pool and one encoder, and its file says which.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from tgems_edge.errors import HeadError
from tgems_edge.model_file import records
from tgems_edge.model_file.card import Calibration, EncoderId, Preprocessing
from tgems_edge.model_file.digests import beginnings, join_beginnings
from tgems_edge.sources.data import ImageFolder
from tgems_export.encoders.checkpoints.loading import RANDOM, is_shipped
from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.towers.base import Pool
from tgems_export.heads.base import ExitHead, HeadKindName
from tgems_export.heads.registry import DEFAULT_KIND, KINDS
from tgems_export.storage.files import write_atomically
from tgems_export.storage.tensors import read_tensors, write_tensors

__all__ = [
    "HeadCalibration",
    "HeadCard",
    "check_named_encoder",
    "head_file",
    "list_pictures",
    "load_head",
    "load_head_card",
    "load_trained_pictures",
    "save_head",
    "save_trained_pictures",
]

METADATA_KEY = "tgems_head"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class HeadCalibration:
    """Values fitted on pictures that trained nothing; a file of the same classes has them from its head."""

    temperature: float
    quantiles: Calibration


@dataclass(frozen=True)
class HeadCard:
    """The card of a head file: its statement about itself."""

    encoder: EncoderId
    preprocessing: Preprocessing  # of the pictures it was trained on
    layer: int
    pool: Pool
    k: int
    classes: tuple[str, ...]
    templates: tuple[str, ...]  # trained on, and averaged over when tables are made
    templates_held_out: tuple[str, ...]
    settings: dict[str, str]  # how it was trained, for the record
    data_sha256: str
    pictures: int  # trained on
    accuracy: float  # top-1 on pictures held out of the training folder
    accuracy_held_out_templates: float | None  # the same, with templates never trained on
    warnings: tuple[str, ...]
    versions: dict[str, str]
    trained_pictures_sha256: str | None = None  # of the list of them; None in files of earlier versions
    kind: HeadKindName | None = None  # None is the default kind, as in files from before there were two
    calibration: HeadCalibration | None = None
    schema: int = SCHEMA_VERSION

    @property
    def head_kind(self) -> HeadKindName:
        """The kind of head that the file holds."""
        return self.kind or DEFAULT_KIND


def head_file(folder: Path, layer: int, kind: HeadKindName = DEFAULT_KIND) -> Path:
    """Return the file of the head of a layer in a folder of heads, which may be of several kinds."""
    return folder / f"{KINDS[kind].prefix}layer-{layer:02d}.safetensors"


def trained_pictures_file(folder: Path, data_sha256: str) -> Path:
    """Return the file in which a folder of heads lists the pictures that some of them were trained on."""
    return folder / f"pictures-{data_sha256[:12]}.sha256"


def list_pictures(pictures: ImageFolder) -> bytes:
    """Six bytes of the SHA-256 of each picture's file, sorted."""
    return join_beginnings(pictures.digests)


def save_trained_pictures(folder: Path, pictures: ImageFolder) -> None:
    """Lists pictures that heads are trained on.

    Heads of one folder mostly share their pictures, so the list lies beside them and not in each; a head
    has its digest.
    """
    write_atomically(trained_pictures_file(folder, pictures.sha256), list_pictures(pictures))


def load_trained_pictures(head: Path, card: HeadCard) -> list[bytes] | None:
    """Six bytes of the SHA-256 of each picture a head was trained on; None without a list.

    Raises:
        HeadError: a list that is cut short or otherwise damaged.
    """
    path = trained_pictures_file(head.parent, card.data_sha256)
    try:
        content = path.read_bytes()
        listed = beginnings(content)
    except FileNotFoundError:
        return None
    except ValueError:
        listed = []
    if card.trained_pictures_sha256 is None:  # what can be said of one that no digest is known of
        whole = len(listed) >= card.pictures and listed == sorted(listed)
    else:
        whole = hashlib.sha256(content).hexdigest() == card.trained_pictures_sha256
    if not whole:
        raise HeadError(f"{path}: cut short or damaged; copy it again, or train the heads again")
    return listed


def save_head(path: Path, head: ExitHead, card: HeadCard, *, overwrite: bool = True) -> None:
    """Writes a head file; equal heads with equal cards are equal bytes.

    Raises:
        OSError: see `write_atomically`.
    """
    write_tensors(path, head.state_dict(), {METADATA_KEY: records.to_json(card)}, overwrite=overwrite)


def load_head_card(path: Path) -> HeadCard:
    """The card of a head file: its statement about itself.

    Raises:
        HeadError: missing, truncated, damaged, not a head file, or of a newer schema.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[HeadCard, dict[str, Tensor]]:
    """The card and the weights of a head file; raises as `load_head_card`."""
    try:
        weights, metadata = read_tensors(path)
        text = metadata.get(METADATA_KEY)
    except FileNotFoundError:
        raise HeadError(f"{path}: no such head file; make one with `tgems-edge train`") from None
    except (SafetensorError, OSError) as error:
        raise HeadError(f"{path}: not a head file, or cut short ({error}); train it again") from None
    except ValueError as error:
        raise HeadError(f"{path}: damaged: {error}; copy it again, or train it again") from None
    if text is None:
        raise HeadError(f"{path}: not a head file of tgems-edge; make one with `tgems-edge train`")
    try:
        return records.from_json(HeadCard, text, schema=SCHEMA_VERSION), weights
    except records.NewerSchema as error:
        raise HeadError(f"{path}: {error}") from None
    except ValueError as error:
        raise HeadError(f"{path}: its card is broken: {error}; train it again") from None


def check_named_encoder(path: Path, encoder: EncoderId, pretrained: str | None = None) -> None:
    """Refuses to load an encoder because the card of a file names it, unless everybody has the same.

    A card that names a folder, a repository or a checkpoint could name one that its author prepared.

    Args:
        path: the file.
        encoder: that its card names.
        pretrained: what the user chose instead of the weights in the card.

    Raises:
        HeadError: the encoder is neither built in nor one of open_clip's; the message has what to type.
    """
    if is_shipped(encoder.name, RANDOM if pretrained else encoder.pretrained):
        return
    weights = pretrained or encoder.pretrained
    line = shlex.join(["--encoder", encoder.name, *(["--pretrained", weights] if weights else [])])
    if not line.isprintable():
        raise HeadError(f"{path}: the encoder that its card names cannot be one; train it again")
    raise HeadError(
        f"{path}: its card names an encoder that does not come with open_clip, and is not loaded on a file's "
        f"word; give {line} if you trust it"
    )


def load_head(path: Path, encoder: Encoder, kind: HeadKindName = DEFAULT_KIND) -> tuple[ExitHead, HeadCard]:
    """A trained head and its card.

    Args:
        path: the head file.
        encoder: that it has to belong to.
        kind: of head that it has to hold.

    Raises:
        HeadError: see `load_head_card`; or it is of another kind, or was trained on another encoder.
    """
    card, weights = _read(path)
    if card.head_kind != kind:
        raise HeadError(
            f"{path}: a head of the kind {card.head_kind}, not {kind}; give --head-kind {card.head_kind} or "
            "another --head"
        )
    if card.encoder.sha256 != encoder.id.sha256:
        raise HeadError(
            f"{path}: trained on {card.encoder.name} with weights {card.encoder.sha256[:12]}, not on "
            f"{encoder.id.name} with weights {encoder.id.sha256[:12]}; train a head for this encoder"
        )
    if replace(card.preprocessing, colour=encoder.colour) != encoder.preprocessing:
        raise HeadError(
            f"{path}: trained on pictures that were resized or normalised otherwise than {encoder.id.name} "
            f"({encoder.id.pretrained}) has it now; train a head for this encoder"
        )
    head = KINDS[kind].make(encoder.tower.at(card.layer).width, encoder.embedding_width, card.k)
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())  # torch writes several lines
        raise HeadError(f"{path}: its weights do not fit its card ({reason}); train it again") from None
    return head.eval().requires_grad_(False), card
