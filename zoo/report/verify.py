"""What `zoo verify` says."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.plan.verify import Finding, Verdict
from zoo.report.sizes import human_bytes, human_seconds
from zoo.report.text import paint, plural


def verdicts_text(verdicts: Sequence[Verdict], seconds: float) -> str:
    """All verdicts for people, what is wrong first in each."""
    lines = []
    for verdict in verdicts:
        mark = paint("good", "green") if verdict.good else paint("WRONG", "red")
        lines.append(
            f"{mark}  {paint(verdict.name, 'bold')}  {plural(verdict.files, 'file')},"
            f" {human_bytes(verdict.size)}  {verdict.folder}"
        )
        lines += [f"  {paint('wrong:', 'red')} {finding_text(finding)}" for finding in verdict.findings]
        lines += [f"  {paint('broken:', 'red')} {model} must not be loaded" for model in verdict.broken_models]
        if verdict.unverifiable:
            count = plural(verdict.unverifiable, "file")
            lines.append(f"  {paint('warning:', 'yellow')} {count} checked by size alone: the lock is provisional")
        lines += [f"  {paint('warning:', 'yellow')} {warning}" for warning in verdict.warnings]
    checked = sum(verdict.size for verdict in verdicts)
    lines.append(f"{plural(len(verdicts), 'entry', 'entries')}, {human_bytes(checked)} in {human_seconds(seconds)}")
    return "\n".join(lines)


def finding_text(finding: Finding) -> str:
    """One finding in a line that names the file and both sides."""
    match finding.problem:
        case "missing":
            return f"{finding.path}: missing ({human_bytes(finding.expected_size)})"
        case "not a file":
            return f"{finding.path}: a link or a folder is where this file belongs"
        case "size":
            return f"{finding.path}: size: expected {finding.expected_size:,} bytes, found {finding.found_size:,}"
        case "digest":
            return f"{finding.path}: sha256: expected {finding.expected_sha256}, found {finding.found_sha256}"
