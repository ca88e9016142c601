"""Files of the Hugging Face hub, or of its cache where there is no network."""

from __future__ import annotations

import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, hf_hub_download

__all__ = ["WEIGHTS_ON_HUB", "explain_hub", "weights_on_hub", "without_retries"]

WEIGHTS_ON_HUB = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
PATIENCE = 5  # seconds until a network that does not answer counts as none


@contextmanager
def without_retries() -> Iterator[None]:
    """Without network, asks the cache alone: otherwise each file is tried for half a minute."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _is_reachable()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def weights_on_hub(repository: str) -> Path:
    """The weights of an open_clip repository, from the hub or its cache.

    Raises:
        OSError: they cannot be had; also what huggingface_hub raises.
    """
    first, second = WEIGHTS_ON_HUB
    try:
        return Path(hf_hub_download(repository, first))
    except Exception:  # of many kinds, as the hub, its cache or the network fails
        return Path(hf_hub_download(repository, second))


def explain_hub(reason: str, what: str) -> str | None:
    """One line about `what` that could not be had from the hub; None if `reason` is another."""
    cache = constants.HF_HUB_CACHE
    if "trust_remote_code" in reason:
        return f"{what} asks for Python code of its repository, which is not run; use another CLIP"
    if "No space left" in reason:
        return f"not enough disk for {what} in the cache {cache}; free some, or set HF_HUB_CACHE"
    if re.search(r"Permission denied|Read-only file system|Not a directory", reason):
        return f"{what} cannot be written to the cache {cache} ({reason[:150]}); set HF_HUB_CACHE to a folder"
    if re.search(r"\b(401|403|404)\b", reason):
        return None
    if re.search(r"Failed to download|huggingface\.co|on the Hub|local cache|cached files", reason):
        switched = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE and _set_by_user() else ""
        return (
            f"{what} cannot be fetched{switched} and is not in the cache {cache}; connect to the network "
            "once, or give a checkpoint file or local-dir:FOLDER"
        )
    return None


def _set_by_user() -> bool:
    return bool(os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE"))


def _is_reachable() -> bool:
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return True  # it answers
    except urllib.error.URLError as error:
        return isinstance(
            error.reason, ssl.SSLError
        )  # as it does where only the hub's library knows the proxy
    except (OSError, ValueError):
        return False
    return True
