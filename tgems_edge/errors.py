"""The errors that this toolkit raises on purpose, with the exit code of a command that they end.

TgemsError                      an error that the user can act on
├── InputError              2   bad input or usage
│   ├── ImageError          1   a picture cannot be read; the others are still classified
│   ├── DataError           2   an image folder or a class list cannot be used
│   ├── ModelFileError      2   an ONNX file is not a model file, broken, or too new
│   ├── EncoderError        2   a CLIP cannot be loaded or sliced
│   ├── HeadError           2   a head file is broken or belongs to another encoder
│   └── MissingDependency   2   a package is not installed
├── ParityError             3   a graph differs from PyTorch, or a model file from its recorded results
└── AccuracyError           4   a model is less accurate than required

Each message states on one line what was wrong and what to do.
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
    """Base of all errors raised on purpose; the command line ends with `exit_code`."""

    exit_code = 2


class InputError(TgemsError):
    """Bad input or usage."""


class ImageError(InputError):
    """A picture cannot be read."""

    exit_code = 1


class PictureWarning(UserWarning):
    """A picture was read, but the user should know something about it.

    The message is one line that begins with the name of the picture. The library issues it with `warnings`,
    where a program may filter it; commands print it on standard error.
    """


class DataError(InputError):
    """An image folder or a list of class names cannot be used."""


class ModelFileError(InputError):
    """An ONNX file is not a model file, is broken, or was written by a newer version."""


class EncoderError(InputError):
    """A CLIP cannot be loaded or sliced."""


class HeadError(InputError):
    """A head file is broken, or belongs to another encoder or layer."""


class MissingDependency(InputError):
    """A package that this command needs is not installed."""


class ParityError(TgemsError):
    """The results of a graph differ from PyTorch's, or those of a model file from its recorded ones."""

    exit_code = 3


class AccuracyError(TgemsError):
    """A model is less accurate on labelled pictures than required."""

    exit_code = 4
