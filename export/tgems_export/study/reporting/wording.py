"""Figures and lists as a report writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = ["NONE", "count", "joined", "large", "layers_named", "percent", "points", "with_spread"]

NONE = "–"  # where there is no figure


def percent(share: float) -> str:
    """0.1234 as 12.3; where it stands says that it is per cent."""
    return _proper(f"{100 * share:.1f}")


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return _proper(f"{100 * difference:+.1f}")


def with_spread(shares: Sequence[float]) -> str:
    """Mean ± standard deviation, in per cent."""
    mean = sum(shares) / len(shares)
    spread = math.sqrt(sum((share - mean) ** 2 for share in shares) / (len(shares) - 1))
    return f"{percent(mean)} ± {percent(spread)}"


def count(number: int) -> str:
    """50000 as 50 000."""
    return f"{number:,}".replace(",", "\N{NO-BREAK SPACE}")


def large(number: float) -> str:
    """4210000 as 4.21 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return _proper(f"{number / size:.2f} {letter}")
    return _proper(f"{number:.0f}")


def joined(parts: Iterable[object]) -> str:
    """1, 2 and 5."""
    *first, last = [str(part) for part in parts]
    return f"{', '.join(first)} and {last}" if first else last


def layers_named(layers: Sequence[int], of: int) -> str:
    """`layer 3`, `layers 1, 2 and 5 to 7`, or `every layer`, of layers in ascending order."""
    if len(layers) == of:
        return "every layer"
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    said = [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else run)]
    return f"layer{'s' if len(layers) > 1 else ''} {joined(said)}"


def _proper(text: str) -> str:
    """Format with a minus sign instead of a hyphen, and no sign before a zero."""
    return text.replace("-", "−") if any(digit in text for digit in "123456789") else text.lstrip("+-")
