"""Options that several benchmarks have."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Quick"]

Quick = Annotated[
    bool,
    typer.Option("--quick", help="Smallest setting, to see that it runs: prints the page, writes nothing."),
]
