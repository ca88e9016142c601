"""The report: everything a study found, on one page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgems_edge.errors import DataError, EncoderError, InputError
from tgems_edge.progress import Reporter
from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.prompts import Templates
from tgems_export.exporting.graph.costs import Cost, count_exit, count_full
from tgems_export.storage.files import write_atomically
from tgems_export.study.figures import Study
from tgems_export.study.material import Folders, Material, gather
from tgems_export.study.plan import Plan
from tgems_export.study.reporting import plots, statements, tables
from tgems_export.study.reporting.page import Page, Section, made_with, to_html, to_markdown, to_text
from tgems_export.study.reporting.parts import Plot, Table
from tgems_export.study.rivals import FORMS
from tgems_export.study.run import run
from tgems_export.study.subject import Subject

__all__ = ["Report", "identify", "make_report", "render", "sections"]

SCHEMA_VERSION = 2
PACKAGES = ("torch", "open_clip_torch", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Report:
    """A written report."""

    summary: str  # for a terminal
    files: tuple[Path, ...]


def make_report(
    encoder: Encoder,
    folders: Folders,
    templates: Templates,
    plan: Plan,
    out: Path,
    reporter: Reporter,
    *,
    command: str,
    overwrite: bool,
) -> Report:
    """Makes a study and writes all of it to one folder; what is finished already is not made again.

    Args:
        encoder: frozen.
        folders: where the pictures lie.
        templates: prompts to train on and to test with.
        plan: see `Plan`.
        out: the folder of the report.
        reporter: where progress goes.
        command: what the user typed, to stand in the report.
        overwrite: replace another study.

    Raises:
        EncoderError: a layer the tower does not have.
        DataError: a folder that cannot be used, or K too large.
        InputError: something else is in the way.
    """
    if plan.layer > encoder.blocks:
        raise EncoderError(f"layer {plan.layer}: {encoder.id.name} has {encoder.blocks} blocks")
    if plan.k > (widest := max(point.width for point in encoder.tower.points)):
        raise DataError(f"--k {plan.k}: at most {widest}, the width of {encoder.id.name}")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file, not a folder; give another --out")
    material, digests = gather(encoder, folders, templates, reporter)
    heading = {
        "title": f"{encoder.id.name} on {folders.training}, layer by layer",
        "command": command,
        "made": made_with(*PACKAGES),
    }
    figures = out / "study.json"
    identity = identify(encoder, material, digests, templates, plan)
    run(plan, material, identity, heading, figures, reporter, overwrite=overwrite)
    return render(figures)


def render(figures: Path) -> Report:
    """Writes the pages and plots of a finished study beside its figures."""
    kept = json.loads(figures.read_text(encoding="utf-8"))
    study = Study(
        plan=Plan(**kept["plan"]),
        subject=Subject.from_json(kept["subject"]),
        full=Cost(**kept["full"]),
        exits=tuple(Cost(**cost) for cost in kept["exits"]),
        results=kept["results"],
    )
    page = Page(**kept["heading"], sections=tuple(sections(study)))
    summary = "\n\n".join([to_text(tables.overview(study)), *statements.summary(study)])
    return Report(summary, (figures, *_write(page, figures.parent)))


def identify(
    encoder: Encoder, material: Material, digests: dict[str, str], templates: Templates, plan: Plan
) -> dict[str, Any]:
    """Return the identity of a study; equal identities have equal figures."""
    exits = [count_exit(encoder, point, plan.k, material.text) for point in encoder.tower.points]
    return {
        "schema_version": SCHEMA_VERSION,
        "encoder": dataclasses.asdict(encoder.id),
        "folders": digests,
        "subject": dataclasses.asdict(Subject.of(material)),
        "templates": dataclasses.asdict(templates),
        "plan": dataclasses.asdict(plan),
        "full": dataclasses.asdict(count_full(encoder)),
        "exits": [dataclasses.asdict(cost) for cost in exits],
    }


def sections(study: Study) -> Iterator[Section]:
    """All that a study says; parts that it lacks pictures or templates for are left out."""

    def section(title: str, said: tuple[str, ...], *parts: Table | Plot | None) -> Section:
        return Section(title, said, tuple(part for part in parts if part))

    yield section("Summary", statements.summary(study), tables.overview(study), tables.pictures(study))
    yield section(
        "Every layer",
        statements.layers(study),
        plots.accuracy(study),
        tables.accuracy(study, every_pool=False),
        tables.accuracy(study, every_pool=True) if len(study.subject.pools) > 1 else None,
        tables.tops(study),
    )
    yield section(
        "Sampling",
        statements.sampling(study),
        plots.sampling(study),
        *(tables.sampling(study, form) for form in FORMS),
    )
    yield section("What an exit costs", statements.costs(study), tables.costs(study))
    yield section(
        f"One factor at a time, layer {study.plan.layer}",
        statements.ablations(study),
        plots.factors(study),
        *(tables.ablation(study, ablation) for ablation in study.ablations),
        tables.new_names(study) if study.subject.new_names else None,
    )
    yield section("Oracle", statements.oracle(study), plots.oracle(study), tables.oracle(study))
    yield section(
        "Seeds and health",
        statements.health(study),
        tables.health(study),
        tables.warnings(study),
        plots.answers(study),
    )
    yield section(
        "Calibration", statements.calibration(study), plots.reliability(study), tables.calibration(study)
    )
    yield section(
        "Label sets",
        statements.sets(study),
        tables.coverage(study),
        tables.coverage_of_layers(study),
        tables.class_coverage(study),
    )
    if study.subject.unknown:
        yield section(
            "None of these",
            statements.unknown(study),
            tables.rejected(study),
            *(tables.unknown(study, what) for what in study.subject.unknown),
        )


def _write(page: Page, out: Path) -> list[Path]:
    drawings = {out / "plots" / f"{plot.name}.svg": plot.svg for plot in page.plots}
    texts = {out / "study.html": to_html(page), out / "study.md": to_markdown(page), **drawings}
    for path, text in texts.items():
        write_atomically(path, text.encode())
    return list(texts)
