"""What a comparison found: checks with their measures, as plain data that is written out and drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["values", "component", "whole", "pair"]
"""Stored values against the checkpoint's; one component against transformers'; the whole bundle; two ways of running
it against each other."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One number and what it may be.

    Attributes:
        name: what is measured.
        worst: the largest value that was found.
        limit: what it may be; None if it is told only.
        where: position, matrix or key of the worst one.
    """

    name: str
    worst: float
    limit: float | None
    where: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is within its limit; not a number is not."""
        return self.limit is None or self.worst <= self.limit

    def to_json(self) -> dict[str, Any]:
        """For programs. A number that is none becomes null."""
        return {
            "name": self.name,
            "worst": _number(self.worst, 6),
            "limit": self.limit,
            "where": self.where,
            "passed": self.passed,
        }


def _number(value: float, digits: int) -> float | None:
    """JSON knows neither infinity nor what is not a number."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was compared.

    Attributes:
        name: unique in a report.
        kind: see `Kind`.
        says: what was compared, in words.
        measures: what was found.
        series: the measures at every position, by their name.
        problem: why it could not be compared, which counts as failed.
        seconds: how long it took.
    """

    name: str
    kind: Kind
    says: str
    measures: tuple[Measure, ...] = ()
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    problem: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all measures are within their limits."""
        return not self.problem and all(measure.passed for measure in self.measures)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "kind": self.kind,
            "says": self.says,
            "passed": self.passed,
            "problem": self.problem,
            "measures": [measure.to_json() for measure in self.measures],
            "series": {name: [_number(value, 4) for value in values] for name, values in self.series.items()},
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    Attributes:
        folder: the bundle's.
        checkpoint: what it was compared with.
        reference: `bundle's values` if transformers computed with the bundle's quantised values, or `checkpoint`.
        execution: backend and arithmetic.
        tolerance: what all limits were multiplied with.
        checks: in the order in which they were made.
        left_out: what could not be compared, and why; it is neither passed nor failed.
    """

    folder: str
    checkpoint: str
    reference: str
    execution: str
    tolerance: float
    checks: tuple[Check, ...]
    left_out: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check was passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """For programs; see docs/parity.md."""
        return {
            "schema": 1,
            "folder": self.folder,
            "checkpoint": self.checkpoint,
            "reference": self.reference,
            "execution": self.execution,
            "tolerance": self.tolerance,
            "passed": self.passed,
            "checks": [check.to_json() for check in self.checks],
            "left_out": list(self.left_out),
        }
