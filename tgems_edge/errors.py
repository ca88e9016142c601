"""Every error this toolkit raises on purpose, and the exit code it ends a command with.

TgemsError                      something the user can act on
├── InputError              2   bad input or usage
│   ├── ImageError          1   a picture cannot be read; the others are classified all the same
│   ├── DataError           2   an image folder or a class list cannot be used
│   ├── ModelFileError      2   an ONNX file is not ours, broken, or too new
│   ├── EncoderError        2   a CLIP cannot be loaded or sliced
│   ├── HeadError           2   a head file is broken or belongs to another encoder
│   └── MissingDependency   2   a package is not installed
├── ParityError             3   a model does not compute what PyTorch does, or what it did where it was made
└── AccuracyError           4   a model is less accurate than was asked for

Each message says in one line what was wrong and what to do.
"""

from __future__ import annotations

__all__ = [
    "AccuracyError",
    "DataError",
    "EncoderError",
    "HeadError",
    "ImageError",
    "InputError",
    "MissingDependency",
    "ModelFileError",
    "ParityError",
    "PictureWarning",
    "TgemsError",
]


class TgemsError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line ends with."""

    exit_code = 2


class InputError(TgemsError):
    """Bad input or usage."""


class ImageError(InputError):
    """A picture cannot be read."""

    exit_code = 1


class PictureWarning(UserWarning):
    """A picture was read, and something about it is worth knowing, in one line that begins with its name.

    The library gives it to `warnings`, where a program may filter it; commands print each on a line of
    standard error.
    """


class DataError(InputError):
    """An image folder or a list of class names cannot be used."""


class ModelFileError(InputError):
    """An ONNX file is not one of ours, is broken, or was written by a newer version."""


class EncoderError(InputError):
    """A CLIP cannot be loaded or sliced."""


class HeadError(InputError):
    """A head file is broken, or belongs to another encoder or layer."""


class MissingDependency(InputError):
    """A package that this command needs is not installed."""


class ParityError(TgemsError):
    """A graph does not compute what PyTorch computes, or a file what it computed where it was made."""

    exit_code = 3


class AccuracyError(TgemsError):
    """A model is less accurate on labelled pictures than was asked for."""

    exit_code = 4
