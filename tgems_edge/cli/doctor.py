"""`tgems-edge doctor`: check whether this machine is fit to run a model file.

This module does not import numpy, so that it can report a broken numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tgems_edge.cli.output import print_json, writing_results
from tgems_edge.doctor.checks import Check
from tgems_edge.doctor.diagnosis import Diagnosis, diagnose
from tgems_edge.errors import ModelFileError
from tgems_edge.printable import printable
from tgems_edge.progress import open_console

app = typer.Typer(add_completion=False, rich_markup_mode=None)

FINDING = 1


@app.command()
def doctor(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL",
            help="Model file. Default: $TGEMS_MODEL, else ./model.onnx, else the built-in demo file.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print findings only.")] = False,
) -> None:
    """Check whether this machine is fit to run a model file.

    Another process imports onnxruntime, loads the model and runs it once, so a runtime that crashes, hangs
    or is missing is explained too. Each finding comes with its fix. The exit code is 1 if there are any.

    Example: tgems-edge doctor model.onnx
    """
    if model is not None and not model.is_file():
        raise ModelFileError(f"{model}: no such model file; check its name")
    diagnosis = diagnose(model)
    if as_json:
        print_json(_as_json(diagnosis))
    else:
        _print(diagnosis.findings if quiet else diagnosis.checks)
    if diagnosis.findings:
        raise typer.Exit(FINDING)


def _as_json(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "machine": asdict(diagnosis.machine),
        "conditions": asdict(diagnosis.conditions),
        "runtime": asdict(diagnosis.runtime),
        "findings": [asdict(finding) for finding in diagnosis.findings],
    }


def _print(checks: Sequence[Check]) -> None:
    """Print a line for each check; rich respects NO_COLOR and terminals without colours."""
    console = open_console(stderr=False)
    width = max((len(check.name) for check in checks), default=0)
    with writing_results():
        for check in checks:
            mark, style = ("finding", "yellow") if check.fix else ("ok", "green")
            console.print(f"{mark:<7}", style=style, end="  ")
            fix = f"; {check.fix}" if check.fix else ""
            console.print(printable(f"{check.name:<{width}}  {check.what}{fix}"))
