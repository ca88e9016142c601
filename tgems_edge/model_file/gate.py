"""Checks that a model file passes before onnxruntime sees it.

onnxruntime trusts what it loads. Up to 1.23 a tensor may be the contents of any file of this machine, and its
bytes come back as answers; a loop need not end; operators of other domains run whatever was registered for
them. So every file passes this gate first, in this order:

    structure   all of the file is in the file, and it holds nothing that `tgems-edge export` never writes
    card        one, that can be read, and of a size to be read
    contract    the inputs and outputs are those that the card implies
    digest      it is, byte for byte, the file that was sealed

Each refusal is a ModelFileError of one line that begins with the file's name. What a graph computes is beyond
the gate: its answers are checked when they come (`tgems_edge.runtime.answers`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tgems_edge.errors import ModelFileError
from tgems_edge.model_file.card import Card
from tgems_edge.model_file.onnx_file import Header, Value, model_name, read_header
from tgems_edge.model_file.seal import is_sealed

__all__ = ["IMAGE", "INPUT", "OUTPUTS", "CheckedFile", "check_digest", "check_model_file", "check_structure"]

INPUT: Final = "pixels"  # resized and cropped, (B, H, W, 3)
IMAGE: Final = "image"  # whole, (H, W, 3) of any size
OUTPUTS = ["rates", "probabilities", "label", "exit_layer"]

# Of ONNX's own operators, those that no image model needs. A list of what is allowed would be stricter, and
# would refuse the towers to come.
ENDLESS = {"Loop", "Scan", "SequenceMap"}  # may run for ever
RANDOM = {  # answer otherwise each time
    *("Bernoulli", "Multinomial"),
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
}
PARSERS = {  # read texts and files, which is where faults hide
    *("ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
}
REFUSED_OPERATORS = ENDLESS | RANDOM | PARSERS


@dataclass(frozen=True)
class CheckedFile:
    """A file whose structure was checked; `open_session` takes nothing less of what others wrote."""

    source: Path | bytes
    header: Header
    state: tuple[int, ...]  # of the file when it was checked; see `_state`

    @property
    def name(self) -> str:
        """The name of the file in messages."""
        return model_name(self.source)

    def refuse_changes(self) -> None:
        """Raises ModelFileError where the file is no longer the one that was checked."""
        if self.state != _state(self.source):
            raise ModelFileError(f"{self.name}: changed while it was loaded; try again")


def check_model_file(model: Path | bytes, *, verify: bool = True) -> tuple[CheckedFile, Card]:
    """The whole gate.

    Args:
        model: the file, or its bytes.
        verify: whether it has to match its own digest; its structure has to be right in any case.

    Raises:
        ModelFileError: it may not be loaded.
    """
    checked = check_structure(model)
    card = Card.from_metadata(checked.header.metadata, checked.name)
    _check_contract(checked, card)
    if verify:
        check_digest(model)
    return checked, card


def check_structure(model: Path | bytes, *, data_beside: bool = False) -> CheckedFile:
    """Checks that all of a file is in the file, and that it holds nothing that is never exported.

    Args:
        model: the file, or its bytes.
        data_beside: whether weights may lie in NAME.data beside the file, as those of towers over 2 GB do.

    Raises:
        ModelFileError: it may not be loaded, or is no ONNX file.
    """
    state = _state(model)
    header = read_header(model)
    name = model_name(model)
    external = header.external
    if data_beside and isinstance(model, Path) and _is_plain_file(model.with_name(f"{model.name}.data")):
        external -= {f"{model.name}.data"}
    if external:
        raise ModelFileError(
            f"{name}: a tensor of it is in {_some(external)}, but a model file is one file; export it again"
        )
    if header.extras:
        raise ModelFileError(
            f"{name}: it has {', '.join(sorted(header.extras))}, which no model file has; export it again"
        )
    domains = {domain for domain in header.opsets if domain}
    domains |= {operator.rpartition(".")[0] for operator in header.operators if "." in operator}
    if domains:
        raise ModelFileError(
            f"{name}: operators of {_some(domains)}, but model files have ONNX's own; export it again"
        )
    if refused := REFUSED_OPERATORS & header.operators.keys():
        raise ModelFileError(f"{name}: operators that no model file has ({_some(refused)}); export it again")
    return CheckedFile(model, header, state)


def check_digest(model: Path | bytes) -> None:
    """Raises ModelFileError where a file is not byte for byte what was exported."""
    if not is_sealed(model):
        raise ModelFileError(
            f"{model_name(model)}: changed since it was exported (its digest does not hold); copy it again"
        )


def _check_contract(checked: CheckedFile, card: Card) -> None:
    """Raises ModelFileError where inputs and outputs are not those that a card implies."""
    classes = len(card.classes)
    taken = (None, *card.preprocessing.size, 3) if card.input == INPUT else (None, None, 3)
    given = {
        "rates": ("float32", (None, classes)),
        "probabilities": ("float32", (None, classes)),
        "label": ("int64", (None,)),
        "exit_layer": ("int64", (None,)),
    }
    header = checked.header
    if not (_are(header.inputs, {card.input: ("uint8", taken)}) and _are(header.outputs, given)):
        raise ModelFileError(
            f"{checked.name}: its inputs and outputs are not those its card implies; export it again"
        )


def _are(values: Iterable[Value], wanted: Mapping[str, tuple[str, tuple[int | None, ...]]]) -> bool:
    """Whether values have these names, types and shapes; None is an axis of any length."""
    found = {value.name: (value.element, value.shape) for value in values}
    if found.keys() != wanted.keys():
        return False
    return all(_fits(found[name], wanted[name]) for name in wanted)


def _fits(
    found: tuple[str | None, tuple[int | str, ...] | None], wanted: tuple[str, tuple[int | None, ...]]
) -> bool:
    (element, shape), (wanted_element, wanted_shape) = found, wanted
    if element != wanted_element or shape is None or len(shape) != len(wanted_shape):
        return False
    return all(length in (None, own) for own, length in zip(shape, wanted_shape, strict=True))


def _state(model: Path | bytes) -> tuple[int, ...]:
    """Return a mark that changes when a file is replaced or written to; None for bytes and missing files."""
    try:
        found = model.stat() if isinstance(model, Path) else None
    except OSError:  # `read_header` says what is wrong
        found = None
    if found is None:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_plain_file(path: Path) -> bool:
    """Whether a file lies there, and no link to one elsewhere."""
    return os.path.lexists(path) and stat.S_ISREG(path.lstat().st_mode)


def _some(names: Iterable[str]) -> str:
    """The first of some names out of a file: whatever is in them, on one line and not too long."""
    first, *others = sorted(names)
    shown = repr(first[:60]) if first else "another file"
    return f"{shown} and others" if others else shown
