"""Names that attack whoever prints them: they break lines, drive a terminal, or hide what they are."""

import os
import unicodedata

# By what each does; all can be names of files on Linux, and of classes anywhere.
NAMES = {
    "breaks the line": "cat\nerror: all is lost",
    "returns to the start": "cat\rdog",
    "moves on": "a\tb\vc\fd\be",
    "rings": "bell\a",
    "colours": "\x1b[31mred\x1b[0m",
    "retitles the window": "\x1b]0;owned\x07",
    "clears the screen": "\x1b[2J\x1b[H",
    "colours in one byte": "\x9b31mred",
    "deletes": "a\x7fb\x85c",
    "turns the direction": "\u202egnp.exe\u202d\u202a\u202b\u202c",
    "isolates": "\u2066cat\u2067dog\u2068\u2069",
    "marks the direction": "a\u200eb\u200fc\u061cd",
    "separates lines and paragraphs": "a\u2028b\u2029c",
    "is not to be seen": "ca\u200bt\ufeff\u2060\xad\u180e",
    "writes with tags": "cat\U000e0063\U000e0061\U000e007f",
    "is markup": "[red]cat[/red]",
    "closes markup that is not open": "[/cat]",
    "is a code of an emoji": ":cat: :warning:",
    "is a format": "%s {0} {x!r} $HOME `id`",
    "looks like an escape": r"a\nb\x1b",
    "is wide": "猫科動物",
    "joins": "نمی\u200cخواهم 👩\u200d🚀",
}
NOT_UTF8 = os.fsdecode(b"caf\xe9")  # a name of a file only


def file_name(name):
    """The nearest name that a file can have."""
    return name.replace("/", "|")


def is_calm(text):
    """Whether text, but for the ends of its lines, leaves a terminal as it is."""
    text = text.replace("\n", "").replace("\u200c", "").replace("\u200d", "")
    return not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in text)
