"""One way to refuse a card."""

from __future__ import annotations

from tgems_edge.errors import ModelFileError

__all__ = ["require"]


def require(condition: bool, otherwise: str) -> None:
    """Raises ModelFileError, which says what the card has, unless the condition holds."""
    if not condition:
        raise ModelFileError(f"its card has {otherwise}; export the file again")
