"""What `zoo doctor` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from zoo.doctor.facts import Facts
from zoo.doctor.rules import Finding, Severity
from zoo.report.text import Style, paint, plural

_STYLES: dict[Severity, Style] = {"good": "green", "note": "dim", "warning": "yellow", "problem": "red"}


def doctor_text(facts: Facts, findings: Sequence[Finding]) -> str:
    """Every finding in a line, with what to do below it."""
    lines = [paint(f"{facts.system} on {facts.machine}, Python {facts.python}", "bold")]
    widest = max((len(finding.check) for finding in findings), default=0)
    for finding in findings:
        mark = paint(f"{finding.severity:<7}", _STYLES[finding.severity])
        lines.append(f"{mark}  {finding.check:<{widest}}  {finding.message}")
        if finding.remedy:
            lines.append(f"{'':7}  {'':{widest}}  {paint('->', 'cyan')} {finding.remedy}")
    lines.append(doctor_summary(findings))
    return "\n".join(lines)


def doctor_summary(findings: Sequence[Finding]) -> str:
    """How many of what kind."""
    counts = Counter(finding.severity for finding in findings)
    said = [plural(counts[kind], kind) for kind in ("problem", "warning") if counts[kind]]
    return " and ".join(said) or "nothing stands in the way of a build"


def doctor_json(facts: Facts, findings: Sequence[Finding]) -> dict[str, Any]:
    """For programs; see docs/doctor.md."""
    return {
        "system": facts.system,
        "machine": facts.machine,
        "python": facts.python,
        "cores": facts.cores,
        "memory_bytes": facts.memory,
        "good": all(finding.severity != "problem" for finding in findings),
        "findings": [
            {
                "check": finding.check,
                "severity": finding.severity,
                "message": finding.message,
                "remedy": finding.remedy or None,
            }
            for finding in findings
        ],
    }
