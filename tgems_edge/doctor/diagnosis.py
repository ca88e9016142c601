"""A machine, its runtime and a model, looked at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tgems_edge.doctor.checks import Check, check
from tgems_edge.doctor.probe import Runtime, try_runtime
from tgems_edge.machine import Conditions, Machine, describe, observe

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found out."""

    machine: Machine
    conditions: Conditions
    runtime: Runtime
    checks: tuple[Check, ...]

    @property
    def findings(self) -> list[Check]:
        """The checks that found something wrong."""
        return [check for check in self.checks if check.fix]


def diagnose(model: Path | None = None) -> Diagnosis:
    """Looks at this machine, and tries its onnxruntime on a model.

    Args:
        model: the file; default as for every command.
    """
    machine, conditions, runtime = describe(), observe(), try_runtime(model)
    return Diagnosis(machine, conditions, runtime, tuple(check(machine, conditions, runtime)))
