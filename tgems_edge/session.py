"""Opens a model file with onnxruntime: the only module that knows onnxruntime.

Which onnxruntime is the user's choice (extras `cpu` and `gpu`, or a Jetson's own build), so it is
imported here and nowhere else, and only when a file is opened.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tgems_edge.card import METADATA_KEY, Card
from tgems_edge.errors import InputError, MissingDependency, ModelFileError

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["choose_threads", "import_onnxruntime", "open_session", "read_card"]

INPUT = "pixels"  # resized and cropped, (B, H, W, 3)
IMAGE = "image"  # whole, (H, W, 3) of any size
MOST_THREADS = 1024
OUTPUTS = ["rates", "probabilities", "label", "exit_layer"]


def import_onnxruntime() -> ModuleType:
    """onnxruntime, whichever build is installed.

    Raises:
        MissingDependency: none is.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise MissingDependency(
            "no onnxruntime is installed: pip install 'tgems-edge[cpu]' (or [gpu]; on a Jetson, NVIDIA's own)"
        ) from None
    module: ModuleType = onnxruntime
    return module


def open_session(
    model: Path | bytes, *, threads: int | None = None, provider: str | None = None
) -> onnxruntime.InferenceSession:
    """Loads a model file, or a serialised model.

    Args:
        model: the file, or its bytes.
        threads: intra-op threads; default `$TGEMS_NUM_THREADS`, else onnxruntime's choice.
        provider: an execution provider by name, with or without `ExecutionProvider`; default CPU.

    Raises:
        ModelFileError: missing, truncated or not ONNX, or too new for the installed onnxruntime.
        InputError: a provider that this onnxruntime does not have, or that fell back to the CPU.
        MissingDependency: no onnxruntime is installed.
    """
    if isinstance(model, Path):
        _check_file(model)
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings are about its own optimiser
    options.intra_op_num_threads = choose_threads(threads)
    # Spinning threads answer a little sooner and burn a whole core while they wait.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chosen = _resolve_provider(provider, onnxruntime.get_available_providers())
    source = str(model) if isinstance(model, Path) else model
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[chosen])
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = " ".join(str(error).replace(source, "").split()) if isinstance(source, str) else str(error)
        if "IR version" in reason or "opset" in reason:
            raise ModelFileError(
                f"{_name(model)}: onnxruntime {onnxruntime.__version__} is too old for it ({reason}); "
                "install a newer one"
            ) from None
        if "NOT_IMPLEMENTED" in reason:
            raise ModelFileError(
                f"{_name(model)}: onnxruntime {onnxruntime.__version__} with {chosen} cannot run it "
                f"({reason}); take another provider or version, or export it with --no-if or another "
                "--precision"
            ) from None
        raise ModelFileError(
            f"{_name(model)}: not a model that onnxruntime can load, or cut short ({reason}); "
            "export or copy it again"
        ) from None
    if session.get_providers()[0] != chosen:
        raise InputError(
            f"{chosen} could not be started and onnxruntime fell back to {session.get_providers()[0]}; "
            "check its driver, or leave --provider out"
        )
    return session


def read_card(session: onnxruntime.InferenceSession, name: str) -> Card:
    """The card in a loaded model.

    Raises:
        ModelFileError: an ONNX file without a card, or with one that cannot be used.
    """
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ModelFileError(f"{name}: an ONNX file, but not one that `tgems-edge export` made (no card)")
    try:
        card = Card.from_json(text)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from None
    classes: list[int | str] = [len(card.classes)]
    implied = dict(zip(OUTPUTS, (classes, classes, [], []), strict=True))
    implied[card.input] = [*card.preprocessing.size, 3] if card.input == INPUT else ["W", 3]
    tensors = [*session.get_inputs(), *session.get_outputs()]
    if {tensor.name: tensor.shape[1:] for tensor in tensors} != implied:
        raise ModelFileError(
            f"{name}: its inputs and outputs are not those its card implies; export it again"
        )
    return card


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ModelFileError(f"{path}: no such model file; make one with `tgems-edge export --layer 5`")
    if path.is_dir():
        raise ModelFileError(f"{path}: a folder, not a model file")
    if not os.access(path, os.R_OK):
        raise ModelFileError(f"{path}: may not be read; check its permissions")


def choose_threads(asked: int | None) -> int:
    """Threads of one run: as asked, else `$TGEMS_NUM_THREADS`, else 0, which leaves it to onnxruntime."""
    text = os.environ.get("TGEMS_NUM_THREADS") if asked is None else str(asked)
    if not text:
        return 0
    if not text.isdecimal() or not 1 <= int(text) <= MOST_THREADS:
        source = "TGEMS_NUM_THREADS" if asked is None else "threads"
        raise InputError(f"{source} is {text!r}; give a whole number from 1 to {MOST_THREADS}")
    return int(text)


def _resolve_provider(asked: str | None, available: list[str]) -> str:
    wanted = (asked or "CPU").removesuffix("ExecutionProvider").lower()
    for provider in available:
        if provider.removesuffix("ExecutionProvider").lower() == wanted:
            return provider
    raise InputError(f"no provider {asked!r} in this onnxruntime; it has {', '.join(available)}")


def _name(model: Path | bytes) -> str:
    return str(model) if isinstance(model, Path) else "the model"
