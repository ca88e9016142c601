"""Value of several exits in one file, of which each picture takes the first that is sure, in INT8.

    python benchmarks/dynamic_exits.py TRAIN CALIBRATION EVALUATION

The demo CLIP, and three image folders without a picture in common. Heads of both kinds learn from TRAIN
behind every block, from three seeds; ranges, temperatures, gates and thresholds come from CALIBRATION;
EVALUATION only measures. Beside the dynamic exits are the controls that their paper (LRA-EE, arXiv
2605.26415) lacks: every static exit, the same in fp32, other gates and none, and SSA at the last block.

An hour on two cores once the activations of TRAIN are cached, most of it for heads and answers, which are
cached as well; 4 GB of memory. Expect a quarter of the operations of the last exit to be saved, at an
accuracy that 2500 pictures cannot tell from its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from dynamic import rows
from dynamic.answers import EPOCHS, INT8, KINDS, SHARE, TARGET, Heads, Material, Tower, gather
from dynamic.choices import Decider, run
from dynamic.files import Equality, Latency, compare_with_segments, decided, gated, time_files
from dynamic.kinds import SETS, Kind
from measuring.options import Quick
from measuring.result import save

from tgems_edge.progress import Reporter

SHIPPED = SETS[0]  # of which files are made
TIMED = (0.35, 0.45, 0.55)  # budgets
TIMED_PICTURES = 600
BATCHES = (1, 16)


def main(
    train: Annotated[Path, typer.Argument(help="Image folder that heads learn from.")],
    calibration: Annotated[Path, typer.Argument(help="Image folder that ranges and gates are fitted on.")],
    evaluation: Annotated[Path, typer.Argument(help="Image folder to measure on.")],
    name: Annotated[str, typer.Option(help="Of what is written.")] = "dynamic_exits",
    seeds: Annotated[int, typer.Option(min=2, help="How many.")] = 3,
    quick: Quick = False,
) -> None:
    """Measure dynamic exits beside static ones; quickly, with two seeds, on folders that should be small."""
    reporter = Reporter()
    material = gather(train, calibration, evaluation, reporter)
    kinds = [
        Kind(kind, [Heads(material, kind, seed, reporter) for seed in range(2 if quick else seeds)])
        for kind in KINDS
    ]
    tower, budget = kinds[0].tower, kinds[0].chosen(SHIPPED)[0].budget
    equalities = check_files(tower, budget)
    tables = {
        "choices": rows.choice_rows(kinds),
        "kinds": rows.kind_rows(kinds),
        "static": rows.static_rows(kinds),
        "dropped": rows.dropped_rows(kinds),
        "matches": rows.match_rows(kinds),
        "curves": rows.curve_rows(kinds),
        "gates": rows.gate_rows(kinds),
        "gate_differences": rows.gate_difference_rows(kinds),
        "leaving": rows.leaving_rows(kinds),
        "rescues": rows.rescue_rows(kinds),
        "latencies": rows.latency_rows(measure_files(tower), material.layers[-1]),
        "equalities": [dataclasses.asdict(equality) for equality in equalities],
    }
    found = {title: list(table) for title, table in tables.items()}
    save(name, found, make_facts(material, kinds, budget), quick=quick)


def make_facts(material: Material, kinds: Sequence[Kind], budget: float) -> dict[str, object]:
    """Return how it was measured, for captions."""
    return {
        "classes": len(material.training.classes),
        "training_pictures": round(0.9 * len(material.training.names)),  # a tenth watches
        "calibration_pictures": len(material.calibration.labels),
        "evaluation_pictures": len(material.evaluation.labels),
        "seeds": len(kinds[0].heads),
        "kinds": [kind.title for kind in kinds],
        "sets": SETS,
        "epochs": EPOCHS,
        "ssa_share": SHARE,
        "target": TARGET,
        "rounding": max(kind.tower.rounding for kind in kinds),
        "gate_operations": kinds[0].heads[0].costs.gate,
        "zero_shot": material.zero_shot,
        "file_exits": SHIPPED,
        "file_budget": budget,
        "timed_pictures": TIMED_PICTURES,
    }


def check_files(tower: Tower, budget: float) -> list[Equality]:
    """Compare the dynamic file with its segments.

    Raises:
        ValueError: `export` would decide otherwise than the tables say.
    """
    decision = decided(tower, SHIPPED, budget)
    point = Decider(run(tower, tower.heads, INT8), SHIPPED).point(budget)
    thresholds = [exit_.gate.threshold for exit_ in decision.exits if exit_.gate]
    if thresholds != point.thresholds or not np.isclose(decision.operations, point.calibration.operations):
        raise ValueError(f"export would decide otherwise: {thresholds}, and here {point.thresholds}")
    model = gated(tower, decision)
    return [
        compare_with_segments(model, decision.exits, tower.heads.material.evaluation.pixels, batch)
        for batch in BATCHES
    ]


def measure_files(tower: Tower) -> dict[int, list[Latency]]:
    """Time real files on some of the evaluation pictures, by number of threads."""
    decisions = {budget: decided(tower, SHIPPED, budget) for budget in TIMED}
    pixels = tower.heads.material.evaluation.pixels
    some = np.random.default_rng(0).permutation(len(pixels))[:TIMED_PICTURES]
    return time_files(tower, SHIPPED, decisions, TIMED[len(TIMED) // 2], pixels[some])


if __name__ == "__main__":
    typer.run(main)
