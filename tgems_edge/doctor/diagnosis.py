"""The whole diagnosis: machine, runtime and model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tgems_edge.doctor.checks import Check, check
from tgems_edge.doctor.probe import Runtime, try_runtime
from tgems_edge.machine import Conditions, Machine, describe, observe

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """State of a machine and its runtime, with the checks made on them."""

    machine: Machine
    conditions: Conditions
    runtime: Runtime
    checks: tuple[Check, ...]

    @property
    def findings(self) -> list[Check]:
        """Return the checks that found a fault."""
        return [check for check in self.checks if check.fix]


def diagnose(model: Path | None = None) -> Diagnosis:
    """Read this machine, run a model with its onnxruntime, and check both.

    Args:
        model: the model file; default: the one that every command uses.
    """
    machine, conditions, runtime = describe(), observe(), try_runtime(model)
    return Diagnosis(machine, conditions, runtime, tuple(check(machine, conditions, runtime)))
