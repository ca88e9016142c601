"""The report of a study, from figures that are made up."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from tgems_edge.errors import DataError, EncoderError, InputError
from tgems_export.encoders.prompts import load_templates
from tgems_export.exporting.graph.costs import Cost
from tgems_export.study import report
from tgems_export.study.figures import Difference, Study
from tgems_export.study.material import Folders, Material, Pictures
from tgems_export.study.measures import measure_answers, measure_certainty
from tgems_export.study.plan import FULL, Plan, ablation_tasks, layer_tasks, rivals_task, sampling_task
from tgems_export.study.reporting import plots, statements, tables
from tgems_export.study.reporting.page import Page, to_html, to_markdown, to_text
from tgems_export.study.reporting.parts import Table
from tgems_export.study.reporting.wording import count, large, layers_named, percent, points, with_spread
from tgems_export.study.rivals import FORMS, RIVALS, SAMPLES
from tgems_export.study.subject import Subject

CLASSES = ("cat", "<b>&", "a|b_c $x$", "犬")
LAYER = 2
K = 16
EVALUATION = 240
TITLES = [
    "Summary",
    "Every layer",
    "Sampling",
    "What an exit costs",
    f"One factor at a time, layer {LAYER}",
    "Oracle",
    "Seeds and health",
    "Calibration",
    "Label sets",
    "None of these",
]


def make_plan(layer=LAYER):
    return Plan(k=K, epochs=1, seeds=2, layer=layer)


def make_material(layers=6, classes=CLASSES, **changed):
    """Pictures without activations: a report only counts them."""

    def pictures(number):
        return Pictures(None, np.arange(number), np.arange(number) % len(classes))

    unknown = {"new names": pictures(80), "others": pictures(15)}
    whole = Material(
        layers=layers,
        pools=("cls", "mean"),
        widths=(K,) * layers,
        classes=classes,
        training=pictures(20 * len(classes)),
        calibration=pictures(200),
        evaluation=pictures(EVALUATION),
        new_names=unknown["new names"],
        unknown=unknown,
        prompts=torch.zeros(len(classes), 16, 8),
        held_out_text=torch.zeros(len(classes), 8),
        new_text=torch.zeros(8, 8),
        logit_scale=100.0,
    )
    return dataclasses.replace(whole, **changed)


def make_results(plan, material):
    """Figures of every task, by the evaluators themselves, of rates that are drawn."""
    subject = Subject.of(material)
    first = layer_tasks(plan, subject)
    results = {name: make_figures(name, material) for name in first}
    pool = plan.better_pool(results, subject.pools, plan.layer)
    rest = [name for name in ablation_tasks(plan, subject, pool) if name not in results]
    return results | {name: make_figures(name, material) for name in rest}


def make_figures(name, material):
    rng = np.random.default_rng(list(name.encode()))

    def rates(labels, strength=1.0):
        drawn = rng.normal(size=(len(labels), len(material.classes)))
        drawn[np.arange(len(labels)), labels] -= strength
        return drawn

    labels = material.evaluation.labels
    if name.startswith("sampling"):
        shares = {f"{form} {size}": 0.3 + size / 5000 for form in FORMS for size in SAMPLES}
        return shares | {f"{measure} spread": 0.01 for measure in shares}
    if name.startswith("rivals"):
        answers = {rival: measure_answers(rates(labels), labels) for rival in RIVALS}
        return {f"{rival} {m}": value for rival, found in answers.items() for m, value in found}
    found = dict(measure_answers(rates(labels), labels)) | {"new names": 0.3}
    if name == FULL:
        return found
    of_calibration, of_evaluation = rates(material.calibration.labels), rates(labels)
    unknown = {what: rates(p.labels, 0.0) for what, p in material.unknown.items()}
    certain = measure_certainty(
        of_calibration, material.calibration.labels, of_evaluation, labels, unknown, K
    )
    answers = np.bincount(of_evaluation.argmin(1), minlength=len(material.classes)).tolist()
    health = {"rank": 3.5, "sigma least": 0.4, "sigma most": 1.2, "answers": answers, "warnings": []}
    return found | {"watched": 0.5, "held-out templates": 0.4} | health | dict(certain)


def make_study(material=None):
    material = material or make_material()
    plan = make_plan()
    exits = tuple(Cost(100_000 * n, 20_000_000 * n) for n in range(1, material.layers + 1))
    return Study(plan, Subject.of(material), Cost(650_000, 130_000_000), exits, make_results(plan, material))


def make_page(study):
    return Page("demo on <pictures>", "tgems-edge study pictures", "Made.", tuple(report.sections(study)))


def said(sentences):
    return " ".join(sentences)


@pytest.fixture(scope="module")
def drawn():
    """A study that no test changes."""
    return make_study()


@pytest.fixture(scope="module")
def page(drawn):
    return make_page(drawn)


@pytest.fixture
def study(drawn):
    """The same, to change figures of."""
    return dataclasses.replace(drawn, results={name: dict(found) for name, found in drawn.results.items()})


def answer(study, task, right, prefix=""):
    """Makes the first `right` answers of a task right, and no other."""
    bits = np.packbits(np.arange(EVALUATION) < right).tobytes().hex()
    study.results[task] |= {f"{prefix}top1": right / EVALUATION, f"{prefix}right": bits}


def answer_all(study, right):
    """Figures of the method at every layer."""
    for layer in study.layers:
        for pool in study.subject.pools:
            for head in study.heads(layer, pool):
                answer(study, head.name, right)


def rival_all(study, right):
    for layer in study.layers:
        for pool in study.subject.pools:
            for rival in RIVALS:
                answer(study, rivals_task(layer, pool), right, f"{rival} ")


class Reader(HTMLParser):
    """Every tag is closed where it has to be; keeps tags, attributes and ids."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.links += [value for name, value in attributes if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_report_has_every_section_in_both_forms(page):
    assert [section.title for section in page.sections] == TITLES
    assert all(section.text and section.parts for section in page.sections)
    html, markdown = to_html(page), to_markdown(page)
    for number, title in enumerate(TITLES, 1):
        assert f'<h2 id="s{number}">{number}. {title}</h2>' in html
        assert f"## {title}\n" in markdown
    assert "tgems-edge study pictures" in html
    assert "tgems-edge study pictures" in markdown


def test_the_html_page_is_well_formed_and_needs_nothing_from_elsewhere(page):
    html = to_html(page)
    reader = Reader(html)
    assert reader.links and all(link.startswith("#") for link in reader.links)
    assert {"script", "link", "img", "b"}.isdisjoint(reader.tags)
    assert reader.tags.count("svg") == len(page.plots) == 6
    assert len(set(reader.ids)) == len(reader.ids)
    used = re.findall(r"url\((.*?)\)", html) + reader.links
    assert {name.lstrip("#") for name in used} <= set(reader.ids)
    assert "@import" not in html


def test_plots_are_well_formed_and_always_the_same(drawn, page):
    for plot in page.plots:
        assert ElementTree.fromstring(plot.svg).tag.endswith("svg")
    assert [plot.svg for plot in make_page(drawn).plots] == [plot.svg for plot in page.plots]
    answers = next(plot for plot in page.plots if plot.name == "answers")
    assert "&lt;b&gt;&amp;" in answers.svg
    assert "a|b_c $x$" in answers.svg
    assert "犬" in answers.svg


def test_names_are_shown_as_they_are(page):
    html, markdown = to_html(page), to_markdown(page)
    assert "<td>&lt;b&gt;&amp;</td>" in html
    assert "<title>demo on &lt;pictures&gt;</title>" in html
    assert "&lt;b&gt;&amp;" in markdown
    assert r"a\|b\_c $x$" in markdown
    assert "<b>" not in html + markdown


def test_markdown_tables_have_as_many_cells_in_each_row(page):
    for block in to_markdown(page).split("\n\n"):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_every_figure_is_formatted(page):
    found = [part for section in page.sections for part in section.parts if isinstance(part, Table)]
    cells = [cell for table in found for row in table.rows for cell in row]
    text = [paragraph for section in page.sections for paragraph in section.text]
    assert all(len(table.header) == len(row) for table in found for row in table.rows)
    assert not re.search(r"(?<!2605)\.\d{3}|\bnan\b|\binf\b|None|(?<!\w)-\d", " ".join(cells + text))


def test_parts_without_pictures_are_left_out():
    bare = make_material(
        layers=3, new_names=None, unknown={}, held_out_text=None, new_text=None, pools=("mean",)
    )
    page = make_page(make_study(bare))
    assert [section.title for section in page.sections] == TITLES[:-1]
    text = to_markdown(page)
    for absent in (
        "New names",
        "new name",
        "held-out templates",
        "Both pools",
        "the better pool",
        "Before block",
    ):
        assert absent not in text.replace("no answer for a new name", "")


def test_many_classes_are_not_listed_one_by_one():
    study = make_study(make_material(layers=2, classes=tuple(f"class {n}" for n in range(60))))
    shares = [float(row[1]) for row in tables.class_coverage(study).rows]
    assert len(shares) == 10 and shares == sorted(shares)
    assert "class 5" not in plots.answers(study).svg


def test_sampling_that_is_ahead_is_said(study):
    answer_all(study, 200)
    assert "beats sampling at every layer" in said(statements.layers(study))
    study.results[sampling_task(3, study.pools[3])][f"gaussian {SAMPLES[-1]}"] = 0.95
    assert "does not beat" in said(statements.layers(study))
    assert f"layer 3 ({points(200 / EVALUATION - 0.95)} points)" in said(statements.layers(study))


def test_a_rival_that_is_ahead_is_said(study):
    answer_all(study, 200)
    rival_all(study, 120)
    assert "T-GEM + Jumper is better at every layer" in said(statements.layers(study))
    rival_all(study, 200)
    assert "T-GEM + Jumper is not measurably different at every layer" in said(statements.layers(study))
    answer(study, rivals_task(4, study.pools[4]), 230, "regression ")
    assert "not measurably different at layers 1 to 3, 5 and 6 and worse at layer 4" in said(
        statements.layers(study)
    )
    assert "It is behind at layer 4 by 12.5 ± 4.2 points (regression)" in said(statements.layers(study))
    row = tables.accuracy(study, every_pool=False).rows[3]
    assert row[-2:] == ("−12.5 ± 4.2", "worse")


def test_the_summary_says_what_an_exit_costs(study):
    answer_all(study, 160)
    answer(study, FULL, 200)
    text = said(statements.summary(study))
    assert "a top-1 accuracy of 66.7 ± 0.0 %" in text
    assert "worse (−16.7 ± 4.7 points)" in text
    assert "Every exit is measurably worse than the full CLIP" in text
    assert "keeps 200.00 k of 650.00 k parameters and 40.00 M of 130.00 M operations" in text
    assert "saves 69.2 and 69.2 %" in text
    answer(study, study.heads(5)[0].name, 200)
    assert "not measurably worse than the full CLIP (seed 0) is the one after block 5" in said(
        statements.summary(study)
    )


def test_coverage_outside_its_interval_is_said(study):
    low, high = study.intervals["0.9"]
    for method in ("threshold", "adaptive"):
        for promised in study.intervals:
            for layer in study.layers:
                study.results[study.heads(layer)[0].name][f"{method} {promised} coverage"] = float(promised)
    assert said(statements.sets(study)).count("every promise is kept") == 2
    assert "every layer lies within" in said(statements.sets(study))
    figures = study.results[study.heads(LAYER)[0].name]
    figures["threshold 0.9 coverage"] = low - 0.05
    too_little = f"{percent(low - 0.05)} % and not at least {percent(low)} %"
    assert f"90.0 % promised, {too_little}" in said(statements.sets(study))
    assert f"layer {LAYER} (threshold sets: {too_little})" in said(statements.sets(study))
    assert ("threshold", "90.0", percent(low - 0.05)) in [row[:3] for row in tables.coverage(study).rows]
    assert [row[4] for row in tables.coverage(study).rows].count("no") == 1
    figures |= {"threshold 0.9 coverage": 1.0, "top1": 0.99}
    assert "as the best class alone is right for 99.0 %" in said(statements.sets(study))
    assert f"not at most {percent(high)} %" in said(statements.sets(study))


@pytest.mark.parametrize(
    ("auroc", "verdict"),
    [
        (0.9, "where guessing has 50"),
        (0.57, "near guessing"),
        (0.51, "not measurably different from guessing"),
        (0.3, "worse than guessing"),
    ],
)
def test_unknown_pictures_that_look_known_are_said(study, auroc, verdict):
    figures = study.results[study.heads(LAYER)[0].name]
    figures |= {f"{score} auroc new names": auroc for score in ("surprisal", "doubt")}
    subject = dataclasses.replace(study.subject, unknown={"new names": 2000})
    assert said(statements.unknown(dataclasses.replace(study, subject=subject))).count(verdict) == 2


def test_new_names_that_are_guessed_are_said(study):
    assert "which is above guessing (12.5 %)" in said(statements.ablations(study))
    for head in study.heads(LAYER):
        study.results[head.name]["new names"] = 0.13
    assert "which is not measurably above guessing (12.5 %)" in said(statements.ablations(study))


def test_warnings_are_said_once(study):
    assert tables.warnings(study) is None
    for layer in (1, 3):
        study.results[study.heads(layer)[1].name]["warnings"] = ["too few"]
    for heads in study.ablations[0].heads.values():
        if heads[0].loss == "paper":
            study.results[heads[0].name]["warnings"] = ["class '<b>&' wins"]
    assert tables.warnings(study).rows == (
        ("layer 1 and layer 3", "too few"),
        ("loss paper", "class '<b>&' wins"),
    )
    assert "has a warning at layers 1 and 3" in said(statements.health(study))


def test_an_oracle_counts_each_picture_at_its_first_right_layer(study):
    for layer in study.layers:
        answer(study, study.heads(layer)[0].name, 24 * layer)
    assert np.bincount(study.first_right).tolist() == [96, 24, 24, 24, 24, 24, 24]
    assert tables.oracle(study).rows[4] == ("5", "50.0", "10.0", "50.0", "83.3")
    text = said(statements.oracle(study))
    assert "Some layer is right for 60.0 %" in text
    assert "Before block 6, 50.0 % of all pictures are resolved, which is 83.3 %" in text


def test_calibration_says_which_way_it_errs(study):
    figures = study.results[study.heads(LAYER)[0].name]
    figures["reliability before"] = [[EVALUATION, figures["top1"] + 0.2, figures["top1"]]]
    assert "overconfident" in said(statements.calibration(study))
    figures["reliability before"] = [[EVALUATION, figures["top1"] - 0.2, figures["top1"]]]
    assert "underconfident" in said(statements.calibration(study))
    for head in study.heads(3):
        study.results[head.name]["calibration error after"] = 0.9
    assert "does not help at layer 3" in said(statements.calibration(study))


def test_a_difference_within_its_width_is_none():
    verdicts = [Difference(mean, 0.02).verdict for mean in (0.03, 0.02, 0.0, -0.03)]
    assert verdicts == ["better", "no difference", "no difference", "worse"]


def test_how_figures_are_written():
    assert (percent(0.1234), percent(-0.05), percent(-0.0001)) == ("12.3", "−5.0", "0.0")
    assert (points(0.012), points(-0.012), points(-0.0001)) == ("+1.2", "−1.2", "0.0")
    assert with_spread([0.5, 0.52]) == "51.0 ± 1.4"
    assert (count(50000), count(37)) == ("50\N{NO-BREAK SPACE}000", "37")
    assert [large(n) for n in (999, 1234, -1234, 5.6e6, 7e9)] == [
        "999",
        "1.23 k",
        "−1.23 k",
        "5.60 M",
        "7.00 G",
    ]
    assert layers_named([1, 2, 3, 5, 6, 9], 12) == "layers 1 to 3, 5, 6 and 9"
    assert (layers_named([4], 12), layers_named([1, 2], 2)) == ("layer 4", "every layer")


def test_plain_text_has_figures_at_the_right():
    table = Table("", "", ("layer", "top-1"), (("1", "9.0"), ("full CLIP", "76.0")))
    assert to_text(table) == "layer      top-1\n1            9.0\nfull CLIP   76.0"


@pytest.fixture
def make_report(encoder, reporter, monkeypatch):
    """make_report(out): of figures that lie there already, so that nothing is computed."""
    plan, templates, folders = make_plan(), load_templates(), Folders(Path("pictures"))
    material = make_material(layers=encoder.blocks, prompts=torch.zeros(4, 2, encoder.embedding_width))
    monkeypatch.setattr(report, "gather", lambda *_: (material, {"training": "0"}))
    identity = report.identify(encoder, material, {"training": "0"}, templates, plan)
    finished = json.dumps({**identity, "heading": {}, "results": make_results(plan, material)})

    def make_report(out, plan=plan):
        if not out.exists():
            out.mkdir()
            (out / "study.json").write_text(finished)
        return report.make_report(
            encoder, folders, templates, plan, out, reporter, command="tgems-edge study x", overwrite=False
        )

    return make_report


def test_a_report_is_written_whole_and_again_byte_for_byte(make_report, tmp_path):
    out = tmp_path / "study"
    made = make_report(out)
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(made.files)
    assert {path.name for path in made.files} >= {"study.html", "study.md", "study.json", "accuracy.svg"}
    contents = [path.read_bytes() for path in made.files]
    assert make_report(out) == made
    assert [path.read_bytes() for path in made.files] == contents
    assert str(tmp_path) not in (out / "study.html").read_text()
    for link in re.findall(r"!\[.*?\]\((.*?)\)", (out / "study.md").read_text()):
        assert (out / link).is_file()


def test_the_summary_is_for_a_terminal(make_report, tmp_path):
    lines = make_report(tmp_path / "study").summary.splitlines()
    assert lines[0].startswith("layer      pool")
    assert lines[13].startswith("full CLIP")
    assert any(line.startswith(f"The exit after block {LAYER} of 12") for line in lines)


def test_what_cannot_be_is_refused_before_anything_is_read(make_report, tmp_path, encoder):
    with pytest.raises(EncoderError, match="layer 13"):
        make_report(tmp_path, plan=make_plan(layer=13))
    with pytest.raises(
        DataError, match=f"--k {encoder.tower.points[-1].width + 1}: at most {encoder.tower.points[-1].width}"
    ):
        make_report(tmp_path, plan=dataclasses.replace(make_plan(), k=encoder.tower.points[-1].width + 1))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: a file, not a folder; give another --out"):
        make_report(tmp_path / "file")


def test_the_command_in_a_report_is_what_was_typed(command, monkeypatch, tmp_path, encoder):
    found = []

    def keep(*_, command, overwrite):
        found.append((command, overwrite))
        return report.Report("layers", (Path("study/study.html"),))

    monkeypatch.setattr(report, "make_report", keep)
    result = command("study", "my pictures", "--epochs", 30, "--k", 128, "--others", "x", "--overwrite", "-q")
    assert result.exit_code == 0
    assert result.stdout == "layers\nstudy/study.html\n"
    assert found == [("tgems-edge study 'my pictures' --others x --epochs 30", True)]
