"""`tgems-edge verify`: check that this machine reproduces the results recorded in a model file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tgems_edge.cli.model_file import Json, Provider, Quiet, Threads, Timeout, open_model
from tgems_edge.cli.output import print_json, print_lines, report_error
from tgems_edge.cli.tables import aligned
from tgems_edge.errors import ModelFileError, ParityError
from tgems_edge.model_file.card import Card
from tgems_edge.model_file.default import default_model
from tgems_edge.progress import Reporter
from tgems_edge.runtime.verification import TOLERANCE, SampleCheck, Stage, check_samples, check_unchanged

app = typer.Typer(add_completion=False, rich_markup_mode=None)

FINDING = 1
FIXES: dict[Stage, str] = {
    "decoding": "install Pillow with pip, whose JPEG decoder may differ from that of the system's package",
    "resizing": "install another version of Pillow",
    "inference": "try another onnxruntime or --provider, or export it for this processor (--target)",
}


@app.command()
def verify(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Model files. Default: $TGEMS_MODEL, else ./model.onnx, else the built-in demo file.",
        ),
    ] = None,
    as_json: Json = False,
    threads: Threads = None,
    provider: Provider = None,
    timeout: Timeout = None,
    quiet: Quiet = False,
) -> None:
    """Check that this machine reproduces the results of a model file.

    The command first compares the file with its own digest. Then it decodes, resizes and runs the samples in
    the file, and compares each stage with the results of the machine that exported it.

    Exit code 3 if the digest does not hold, a label differs, or a rate differs by more than the tolerance.
    Exit code 1 if only pixels differ, as with another JPEG decoder, and all answers are the same.

    Example: tgems-edge verify model.onnx
    """
    reporter = Reporter(quiet=quiet)
    options = {"threads": threads, "provider": provider, "timeout": timeout}
    codes = [_verify(path, options, as_json, reporter) for path in models or [default_model()]]
    if any(codes):
        raise typer.Exit(max(codes))


def _verify(path: Path, options: dict[str, Any], as_json: bool, reporter: Reporter) -> int:
    """Verify one file, print the results and return the exit code."""
    try:
        check_unchanged(path)
        classifier, description = open_model(path, **options)
        reporter.say(description)
        samples = check_samples(classifier)
    except (ModelFileError, ParityError) as error:
        message = str(error) if str(path) in str(error) else f"{path}: {error}"
        if as_json:
            print_json({"file": str(path), "error": message})
        else:
            report_error(message)
        return error.exit_code
    if as_json:
        print_json(_as_json(path, classifier.card, samples))
    else:
        print_lines(_as_lines(samples))
    return _judge(path, samples)


def _judge(path: Path, samples: Sequence[SampleCheck]) -> int:
    """Return the exit code; if it is not 0, print the reason on standard error."""
    failed = [sample for sample in samples if not sample.reproduced]
    different = failed or [sample for sample in samples if sample.stage]
    if not different:
        return 0
    stages = Counter(sample.stage for sample in different if sample.stage)
    first = ", ".join(f"{stage} in {count} of {len(samples)} samples" for stage, count in stages.items())
    fixes = "; ".join(FIXES[stage] for stage in stages)
    if failed:
        what = f"labels differ, or rates differ by more than {TOLERANCE:g}"
    else:
        what = "pixels differ, but all answers are the same"
    report_error(f"{path}: {what}; first difference: {first}; {fixes}")
    return ParityError.exit_code if failed else FINDING


def _as_json(path: Path, card: Card, samples: Sequence[SampleCheck]) -> dict[str, Any]:
    return {
        "file": str(path),
        "model": f"sha256:{card.file_sha256}",
        "tolerance": TOLERANCE,
        "reproduced": all(sample.reproduced for sample in samples),
        "samples": [
            {
                **asdict(sample),
                "rate_difference": sample.rate_difference,
                "reproduced": sample.reproduced,
                "stage": sample.stage,
            }
            for sample in samples
        ],
    }


def _as_lines(samples: Sequence[SampleCheck]) -> list[str]:
    words = {True: "same", False: "differs", None: "-"}
    rows = [["sample", "decoding", "resizing", "rates differ by", "label"]]
    for number, sample in enumerate(samples, start=1):
        expected = "" if sample.label == sample.expected_label else f", not {sample.expected_label}"
        rows.append(
            [
                f"{number} {sample.kind}",
                words[sample.same_decoded],
                words[sample.same_pixels],
                f"{sample.rate_difference:.1g}",
                f"{sample.label}{expected}",
            ]
        )
    lines = aligned(rows)
    if not any(sample.stage for sample in samples):
        lines.append(f"reproduced: the same pixels and labels, rates within {TOLERANCE:g}")
    return lines
