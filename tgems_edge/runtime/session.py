"""Opens a model file with onnxruntime: the only module that knows onnxruntime.

Which onnxruntime is the user's choice (extras `cpu` and `gpu`, or a Jetson's own build), so it is
imported here and nowhere else, and only when a file is opened.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray

from tgems_edge.errors import InputError, MissingDependency, ModelFileError
from tgems_edge.machine import physical_cores
from tgems_edge.model_file.gate import CheckedFile, check_structure
from tgems_edge.model_file.onnx_file import model_name
from tgems_edge.runtime.background import Overdue, call

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "choose_threads",
    "describe_provider",
    "import_onnxruntime",
    "open_session",
    "run_session",
]

CPU = "CPUExecutionProvider"
MOST_THREADS = 1024

T = TypeVar("T")


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
    model: CheckedFile | Path | bytes,
    *,
    threads: int | None = None,
    provider: str | None = None,
    timeout: float | None = None,
) -> onnxruntime.InferenceSession:
    """Loads a file that passed the gate, or a graph that was made here.

    Args:
        model: a checked file; a path, whose structure is checked first; or the bytes of a graph of our own,
            which is not checked.
        threads: intra-op threads; default `$TGEMS_NUM_THREADS`, else the physical cores.
        provider: an execution provider by name, with or without `ExecutionProvider`; default CPU.
        timeout: see `run_session`.

    Raises:
        ModelFileError: missing, truncated or not ONNX, with what no model file has, too new for the installed
            onnxruntime, or not loaded in time.
        InputError: a provider that this onnxruntime does not have, or that left everything to the CPU.
        MissingDependency: no onnxruntime is installed.
    """
    if isinstance(model, Path):
        model = check_structure(model)
    source = model.source if isinstance(model, CheckedFile) else model
    name = model_name(source)
    onnxruntime = import_onnxruntime()
    chosen = _resolve_provider(provider, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings are about its own optimiser
    options.intra_op_num_threads = choose_threads(threads)
    options.add_session_config_entry("session.intra_op.allow_spinning", _check_spinning())
    # While loading, weights are replaced by copies that suit the processor. With this, the originals go back
    # to the system; onnxruntime 1.17 would keep them in its arena (1.23 and later would not). What else there
    # is to set stays: no arena or no memory pattern saves nothing, no copies makes runs twice as slow.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if chosen != CPU:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # `_count_nodes`
    load = partial(
        onnxruntime.InferenceSession,
        source if isinstance(source, bytes) else str(source),
        options,
        providers=[chosen],
        enable_fallback=0,
    )
    try:
        session = _call(load, timeout, lambda: None)
    except Overdue:
        raise ModelFileError(f"{name}: not loaded within {timeout:g} s; give it more time") from None
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = " ".join(str(error).replace(name, "").split())
        raise _refusal(name, reason, onnxruntime.__version__, chosen) from None
    if isinstance(model, CheckedFile):
        model.refuse_changes()
    session.disable_fallback()  # a run that fails elsewhere would be run again on the CPU
    _check_placement(session, chosen)
    return session


def describe_provider(session: onnxruntime.InferenceSession) -> str:
    """The provider that runs the graph, in words, and how many nodes it left to the CPU."""
    provider = session.get_providers()[0]
    if provider == CPU:
        return _short(CPU)
    nodes = _count_nodes(session)
    if nodes is None:
        return f"{_short(provider)}, unknown what it left to the CPU"
    return f"{_short(provider)}, {nodes.total() - nodes[provider]} of {nodes.total()} nodes on the CPU"


def run_session(
    session: onnxruntime.InferenceSession,
    outputs: list[str],
    inputs: dict[str, NDArray[Any]],
    *,
    name: str,
    timeout: float | None = None,
) -> list[NDArray[Any]]:
    """Runs a graph.

    Args:
        session: the graph.
        outputs: names of those wanted.
        inputs: by name.
        name: of the file, for messages.
        timeout: seconds after which to give up. With one, or with `math.inf`, the graph runs in another
            thread, so that Ctrl-C ends it as well; with None it runs in this thread, 0.1 ms sooner.

    Raises:
        ModelFileError: it cannot be run on this input, here and now, or not in time.
    """
    options = import_onnxruntime().RunOptions()
    run = partial(session.run, outputs, inputs, options)
    try:
        results: list[NDArray[Any]] = _call(run, timeout, partial(setattr, options, "terminate", True))
    except Overdue:
        raise ModelFileError(
            f"{name}: no answer within {timeout:g} s; give it more time, or fewer pictures at once"
        ) from None
    except Exception as error:  # as above
        reason = " ".join(str(error).split())
        if _is_out_of_memory(reason):
            raise ModelFileError(
                f"{name}: not enough memory to run it ({reason}); try fewer pictures at once"
            ) from None
        raise ModelFileError(
            f"{name}: could not be run ({reason}); try fewer pictures at once or another provider, or export "
            "it again"
        ) from None
    return results


def _call(function: Callable[[], T], timeout: float | None, stop: Callable[[], object]) -> T:
    """Calls what may take for ever; see `run_session`."""
    if timeout is None:
        return function()
    return call(function, None if timeout > threading.TIMEOUT_MAX else timeout, stop)


def choose_threads(asked: int | None) -> int:
    """Threads of one run: as asked, else `$TGEMS_NUM_THREADS`, else one for each physical core.

    onnxruntime's own choice counts cores as well, but not what affinity and quotas leave of them.
    """
    text = os.environ.get("TGEMS_NUM_THREADS") if asked is None else str(asked)
    if not text:
        return min(physical_cores(), MOST_THREADS)
    if not text.isdecimal() or len(text) > 10 or not 1 <= int(text) <= MOST_THREADS:
        source = "TGEMS_NUM_THREADS" if asked is None else "threads"
        raise InputError(f"{source} is {text!r}; give a whole number from 1 to {MOST_THREADS}")
    return int(text)


def _check_spinning() -> str:
    """Whether waiting threads spin: they answer a little sooner and burn a whole core each meanwhile."""
    text = os.environ.get("TGEMS_SPIN") or "0"
    if text not in ("0", "1"):
        raise InputError(f"TGEMS_SPIN is {text!r}; give 1, or 0 (the default)")
    return text


def _resolve_provider(asked: str | None, available: list[str]) -> str:
    providers = {_short(provider).lower(): provider for provider in available}
    wanted = (asked or CPU).lower().removesuffix("executionprovider")
    if wanted not in providers:
        names = ", ".join(map(_short, available))
        raise InputError(f"no provider {asked!r} in this onnxruntime; it has {names}")
    return providers[wanted]


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _refusal(name: str, reason: str, version: str, provider: str) -> ModelFileError:
    """Explain an exception of onnxruntime to the user."""
    if _is_out_of_memory(reason):
        return ModelFileError(f"{name}: not enough memory to load it ({reason}); close other programs")
    if "IR version" in reason or "opset" in reason:
        return ModelFileError(
            f"{name}: onnxruntime {version} is too old for it ({reason}); install a newer one"
        )
    if "NOT_IMPLEMENTED" in reason:
        return ModelFileError(
            f"{name}: onnxruntime {version} with {provider} cannot run it ({reason}); take another provider "
            "or version, or export it with --no-if or another --precision"
        )
    if provider != CPU:
        return ModelFileError(
            f"{name}: {provider} could not load it ({reason}); check its driver, or leave --provider out"
        )
    return ModelFileError(
        f"{name}: not a model that onnxruntime can load, or cut short ({reason}); export or copy it again"
    )


def _is_out_of_memory(reason: str) -> bool:
    """Whether an exception of onnxruntime says that memory ran out."""
    return "bad_alloc" in reason or "Failed to allocate memory" in reason


def _check_placement(session: onnxruntime.InferenceSession, chosen: str) -> None:
    """Raises InputError where the CPU would do all the work of another provider."""
    actual = session.get_providers()[0]
    if actual != chosen:
        raise InputError(
            f"{chosen} could not be started and onnxruntime fell back to {actual}; check its driver, or "
            "leave --provider out"
        )
    nodes = None if chosen == CPU else _count_nodes(session)
    if nodes is not None and not nodes[chosen]:
        raise InputError(
            f"{chosen} can run no part of this model, the CPU would run it all; leave --provider out"
        )


def _count_nodes(session: onnxruntime.InferenceSession) -> Counter[str] | None:
    """Return the number of nodes of each provider; None where onnxruntime cannot say, as before 1.24."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    return Counter(part.ep_name for part in parts for _ in part.get_nodes())
