"""Output of commands.

Results go to standard output, as lines of text in the terminal's encoding or as JSON Lines, which are always
UTF-8. Everything else goes to standard error. All text is made `printable` here.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from tgems_edge.errors import InputError
from tgems_edge.printable import UNSAFE, printable

__all__ = ["CLOSED", "print_json", "print_lines", "print_note", "report_error", "writing_results"]

LONGEST_ERROR = 2000  # characters
CLOSED = "standard output is closed; send it to a file or to /dev/null"


def print_lines(lines: Iterable[object]) -> None:
    """Print each item as one line of text on standard output.

    Raises:
        InputError: standard output is closed or full.
        BrokenPipeError: its reader has closed it.
    """
    text = "".join(printable(line) + "\n" for line in lines)
    with writing_results() as stream:
        stream.write(text)
        stream.flush()


def print_json(record: Any) -> None:
    r"""Print a record as one line of JSON, in UTF-8 even if the terminal has another encoding.

    The line is strict JSON: a number that is not finite becomes null, and characters that control a terminal
    are escaped. A byte of a file name that is not UTF-8 becomes `\udc80` to `\udcff`, as in Python's
    "surrogateescape": `os.fsencode(json.loads(line)["image"])` returns the original name.

    Args:
        record: dicts, lists, tuples, strings, numbers, booleans and None.

    Raises:
        InputError: standard output is closed or full.
        BrokenPipeError: its reader has closed it.
    """
    text = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False)
    line = UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text) + "\n"
    with writing_results() as stream:
        stream.flush()
        if buffer := getattr(stream, "buffer", None):
            buffer.write(line.encode())
        else:  # a text stream such as io.StringIO, put there by Python code
            stream.write(line)
        stream.flush()


def print_note(message: object) -> None:
    """Print one line on standard error; do nothing if that is closed or full."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.write(printable(message) + "\n")
            sys.stderr.flush()


def report_error(message: object) -> None:
    """Print an error as one line on standard error, whatever names are in it and however long they are."""
    text = str(message).strip()
    if len(text) > LONGEST_ERROR:  # the end says what to do
        text = f"{text[: LONGEST_ERROR // 2]} [...] {text[-LONGEST_ERROR // 2 :]}"
    print_note(f"error: {text}")


@contextlib.contextmanager
def writing_results() -> Iterator[TextIO]:
    """Yield standard output; an error in writing to it names it.

    Raises:
        InputError: standard output is closed or full.
        BrokenPipeError: its reader has closed it.
    """
    if sys.stdout is None or sys.stdout.closed:
        raise InputError(CLOSED)
    try:
        yield sys.stdout
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"standard output: {error.strerror or error}; write to another file") from None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
