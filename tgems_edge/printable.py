"""Text that is safe to print: it stays on one line and cannot control a terminal.

Names of files and classes come from other people. A name may contain a newline, an escape sequence that
changes the title of the window, or a mark that reverses the reading direction of the text after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["UNSAFE", "padded", "printable", "shortened", "width"]

# Control characters (C0, DEL, C1), line and paragraph separators, marks of direction, invisible characters,
# tags, and surrogates, which stand for the bytes of a file name that are not UTF-8. The zero-width joiners
# U+200C and U+200D are allowed, because Persian, the languages of India and emoji need them.
UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: object) -> str:
    r"""Return text on one line, with control characters written as escapes such as `\n` or `\x1b`."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def shortened(names: Iterable[object], most: int = 5) -> str:
    """Join the first `most` names with commas and append the number of the others."""
    texts = list(map(str, names))
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return ", ".join([*texts[:most], *more])


def width(text: str) -> int:
    """Return the number of terminal columns of printable text; some characters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # imported here because it takes milliseconds and is seldom needed

    columns: int = cell_len(text)
    return columns


def padded(text: str, columns: int) -> str:
    """Return text padded with spaces to a number of terminal columns."""
    return text + " " * (columns - width(text))
