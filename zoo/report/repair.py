"""What `zoo repair` says before it shows its plan."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.plan.verify import Verdict
from zoo.report.sizes import human_bytes
from zoo.report.text import paint, plural
from zoo.report.verify import finding_text


def wrong_text(verdicts: Sequence[Verdict]) -> str:
    """Every entry in a line, and what is wrong with it; nothing about files that no entry owns."""
    lines = []
    for verdict in verdicts:
        about = f"{paint(verdict.name, 'bold')}  {plural(verdict.files, 'file')}, {human_bytes(verdict.size)}"
        if verdict.good:
            lines.append(f"{paint('good', 'green')}  {about}: nothing to repair")
        else:
            lines.append(f"{paint('WRONG', 'red')}  {about}")
            lines += [f"  {paint('wrong:', 'red')} {finding_text(finding)}" for finding in verdict.findings]
    return "\n".join(lines)
