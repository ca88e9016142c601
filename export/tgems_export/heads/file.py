"""The two kinds of head, and the file in which training and export meet.

Jumper and T-GEM (arXiv 2605.17499): the Jumper J projects an activation (D) to z (K). The T-GEM Psi
predicts, from the text embedding of a class (E), the Gaussian N(mu_c, diag(sigma_c^2)) of z. For ViT-B/32
and K = 128 both have 295 552 parameters, 4.17 % of one residual block.

SSA (LRA-EE, arXiv 2605.26415, eq. 3): an MLP takes the activation to the joint embedding (E), where the
cosine to the text embedding of a class says how well that class fits. For ViT-B/32 it has 985 856
parameters, 13.9 % of a block.

One head belongs to one block, one pool and one encoder, and its file says which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tgems_edge import records
from tgems_edge.card import EncoderId
from tgems_edge.data import ImageFolder
from tgems_edge.digests import beginnings, join_beginnings
from tgems_edge.errors import HeadError
from tgems_edge.images import Preprocessing
from tgems_edge.rates import class_rates
from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.towers.vit import Pool
from tgems_export.files import write_atomically
from tgems_export.heads.losses import cosines

__all__ = [
    "ExitHead",
    "Head",
    "HeadCard",
    "HeadKind",
    "Jumper",
    "SsaHead",
    "TGem",
    "head_file",
    "load_head",
    "load_trained_pictures",
    "save_head",
    "save_trained_pictures",
]

SIGMA_FLOOR = 0.11  # z has unit variance: no class is known better than this, and R_y cannot dive
SIGMA_CAP = 10.0
HIDDEN = 256
METADATA_KEY = "tgems_head"
SCHEMA_VERSION = 1

HeadKind = Literal["tgem", "ssa"]
FILE_PREFIX: dict[HeadKind, str] = {"tgem": "", "ssa": "ssa-"}


class ExitHead(nn.Module, ABC):
    """What stands behind a block and says how well each class fits an activation.

    Whatever its kind, softmax(-K R / T) is its posterior (`tgems_edge.rates`).
    """

    k: int  # K, the width in which it compares

    @abstractmethod
    def rates(self, activation: Tensor, text: Tensor) -> Tensor:
        """R (B, C), smaller is better, of activations (B, D) under classes of text embeddings (C, E)."""


class Jumper(nn.Module):
    """l (B, D) to z (B, K): a linear map whose outputs have zero mean and unit variance.

    The normalisation has no gain and no offset of its own, so the scale of z is not free: shrinking z
    together with sigma, which would send the rate to minus infinity, is impossible.
    """

    def __init__(self, width: int, k: int):
        """From D = `width` to K = `k`."""
        super().__init__()
        self.linear = nn.Linear(width, k)
        self.norm = nn.BatchNorm1d(k, affine=False)

    def forward(self, activation: Tensor) -> Tensor:
        """(B, D) to (B, K)."""
        return self.norm(self.linear(activation))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) of the one linear map that this is after training."""
        mean, variance = self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")
        scale = torch.rsqrt(variance + self.norm.eps)
        return self.linear.weight * scale[:, None], (self.linear.bias - mean) * scale


class TGem(nn.Module):
    """Psi: text embeddings (C, E) to mu and sigma^2, each (C, K)."""

    def __init__(self, embedding_width: int, k: int):
        """From E = `embedding_width` to twice K = `k`."""
        super().__init__()
        self.gain = embedding_width**0.5  # embeddings have length 1; this gives their entries unit size
        self.hidden = nn.Linear(embedding_width, HIDDEN)
        self.mean = nn.Linear(HIDDEN, k)
        self.spread = nn.Linear(HIDDEN, k)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """(C, E) to mu (C, K) and sigma^2 (C, K), with sigma in [0.11, 10]."""
        hidden = nn.functional.gelu(self.hidden(text * self.gain))
        sigma = (SIGMA_FLOOR + nn.functional.softplus(self.spread(hidden))).clamp(max=SIGMA_CAP)
        return self.mean(hidden), sigma.square()


class Head(ExitHead):
    """A Jumper and the T-GEM that describes its outputs."""

    def __init__(self, width: int, embedding_width: int, k: int):
        """For activations of width D and text embeddings of width E."""
        super().__init__()
        self.k = k
        self.jumper = Jumper(width, k)
        self.tgem = TGem(embedding_width, k)

    def rates(self, activation: Tensor, text: Tensor) -> Tensor:
        """Class-rates (B, C) of activations (B, D) under the classes of text embeddings (C, E)."""
        return class_rates(self.jumper(activation), *self.tgem(text), log2=torch.log2)


class SsaHead(ExitHead):
    """SSA: LayerNorm and an MLP, from the mean patch token to the embedding that the full CLIP would have."""

    def __init__(self, width: int, embedding_width: int):
        """For activations of width D and text embeddings of width E; it compares in K = E dimensions."""
        super().__init__()
        self.k = embedding_width
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, embedding_width)

    def forward(self, activation: Tensor) -> Tensor:
        """(B, D) to (B, E), of any length."""
        return self.out(nn.functional.gelu(self.hidden(self.norm(activation))))

    def rates(self, activation: Tensor, text: Tensor) -> Tensor:
        """Minus the cosines (B, C) of activations (B, D) to the classes of text embeddings (C, E)."""
        return -cosines(self(activation), text)


@dataclass(frozen=True)
class HeadCard:
    """What a head file says about itself."""

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
    kind: Literal["ssa"] | None = None  # None is a T-GEM, as in files from before there were two kinds
    schema: int = SCHEMA_VERSION

    @property
    def head_kind(self) -> HeadKind:
        """Which kind of head the file holds."""
        return self.kind or "tgem"


def head_file(folder: Path, layer: int, kind: HeadKind = "tgem") -> Path:
    """Where the head of a block lies in a folder of heads, which may be of both kinds."""
    return folder / f"{FILE_PREFIX[kind]}layer-{layer:02d}.safetensors"


def trained_pictures_file(folder: Path, data_sha256: str) -> Path:
    """Where a folder of heads lists the pictures that some of them were trained on."""
    return folder / f"pictures-{data_sha256[:12]}.sha256"


def save_trained_pictures(folder: Path, pictures: ImageFolder) -> None:
    """Lists pictures that heads are trained on: six bytes of each file's SHA-256, sorted.

    Heads of one folder mostly share their pictures, so the list lies beside them and not in each.
    """
    write_atomically(trained_pictures_file(folder, pictures.sha256), join_beginnings(pictures.digests))


def load_trained_pictures(head: Path, card: HeadCard) -> list[bytes] | None:
    """Six bytes of the SHA-256 of each picture a head was trained on; None without a list.

    Raises:
        HeadError: a list that is cut short.
    """
    path = trained_pictures_file(head.parent, card.data_sha256)
    try:
        return beginnings(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise HeadError(f"{path}: cut short; copy it again, or train the heads again") from None


def save_head(path: Path, head: ExitHead, card: HeadCard) -> None:
    """Writes a head file; equal heads with equal cards are equal bytes."""
    write_atomically(path, save(head.state_dict(), metadata={METADATA_KEY: records.to_json(card)}))


def load_head_card(path: Path) -> HeadCard:
    """What a head file says about itself.

    Raises:
        HeadError: missing, truncated, not a head file, or of a newer schema.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except FileNotFoundError:
        raise HeadError(f"{path}: no such head file; make one with `tgems-edge train`") from None
    except (SafetensorError, OSError) as error:
        raise HeadError(f"{path}: not a head file, or cut short ({error}); train it again") from None
    if text is None:
        raise HeadError(f"{path}: not a head file of tgems-edge; make one with `tgems-edge train`")
    try:
        return records.from_json(HeadCard, text, schema=SCHEMA_VERSION)
    except records.NewerSchema as error:
        raise HeadError(f"{path}: {error}") from None
    except ValueError as error:
        raise HeadError(f"{path}: its card is broken: {error}; train it again") from None


def load_head(path: Path, encoder: Encoder, kind: HeadKind = "tgem") -> tuple[ExitHead, HeadCard]:
    """A trained head and its card.

    Args:
        path: the head file.
        encoder: that it has to belong to.
        kind: of head that it has to hold.

    Raises:
        HeadError: see `load_head_card`; or it is of another kind, or was trained on another encoder.
    """
    card = load_head_card(path)
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
    if card.preprocessing != encoder.preprocessing:
        raise HeadError(
            f"{path}: trained on pictures that were resized or normalised otherwise than {encoder.id.name} "
            f"({encoder.id.pretrained}) has it now; train a head for this encoder"
        )
    head = _make_head(encoder, card)
    try:
        with safe_open(path, "pt") as file:
            head.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, RuntimeError) as error:
        raise HeadError(f"{path}: its weights do not fit its card ({error}); train it again") from None
    return head.eval().requires_grad_(False), card


def _make_head(encoder: Encoder, card: HeadCard) -> ExitHead:
    if card.head_kind == "ssa":
        return SsaHead(encoder.width, encoder.embedding_width)
    return Head(encoder.width, encoder.embedding_width, card.k)
