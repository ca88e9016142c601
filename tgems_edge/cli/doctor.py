"""`tgems-edge doctor`: is this machine fit to run a model file?

Nothing here needs numpy, so that a machine where that is broken is told so as well.
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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what was found to be wrong.")] = False,
) -> None:
    """Look whether this machine is fit to run a model file.

    onnxruntime is imported and the model loaded and run once in another process, so a runtime that crashes,
    hangs or is missing is explained too. Each finding comes with its fix; the exit code is 1 if there is one.

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
    """A line for each; rich honours NO_COLOR and terminals without colours."""
    console = open_console(stderr=False)
    width = max((len(check.name) for check in checks), default=0)
    with writing_results():
        for check in checks:
            mark, style = ("finding", "yellow") if check.fix else ("ok", "green")
            console.print(f"{mark:<7}", style=style, end="  ")
            fix = f"; {check.fix}" if check.fix else ""
            console.print(printable(f"{check.name:<{width}}  {check.what}{fix}"))
