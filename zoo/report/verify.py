"""What `zoo verify` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
            return f"{finding.path}: missing ({human_bytes(finding.expected_size or 0)})"
        case "must be absent":
            whose = f"{' and '.join(finding.owners)} owns it" if finding.owners else "no entry owns it"
            size = human_bytes(finding.found_size or 0)
            return f"{finding.path}: must not be there ({size}), the app would take it; {whose}"
        case "not a file":
            return f"{finding.path}: a link or a folder is where this file belongs"
        case "size":
            return f"{finding.path}: size: expected {finding.expected_size:,} bytes, found {finding.found_size:,}"
        case "digest":
            return f"{finding.path}: sha256: expected {finding.expected_sha256}, found {finding.found_sha256}"


def bad_line(bad: Sequence[Verdict]) -> str:
    """What is wrong, in the one line of an error.

    Args:
        bad: verdicts that are not good.
    """
    names = " and ".join(verdict.name for verdict in bad)
    wrong = {(verdict.folder, finding.path) for verdict in bad for finding in verdict.wrong}
    unwanted = list(dict.fromkeys(finding.path for verdict in bad for finding in verdict.forbidden))
    parts = []
    if wrong:
        parts.append(f"{plural(len(wrong), 'file')} {'is' if len(wrong) == 1 else 'are'} not as locked")
    if unwanted:
        more = f" and {len(unwanted) - 1} more" if len(unwanted) > 1 else ""
        parts.append(f"{unwanted[0]}{more} must not be there")
    return f"{names}: {'; '.join(parts)}"


def way_out(bad: Sequence[Verdict], folder: Path | None = None) -> str:
    """The commands that put installed entries right, for the hint of an error.

    Args:
        bad: verdicts that are not good.
        folder: the folder that was named instead of the models directory.
    """
    steps = []
    if names := " ".join(_repairers(bad)):
        where = f" --folder {folder}" if folder else ""
        steps.append(f"`zoo repair {names}{where}` brings back just that")
    owners: set[str] = set()
    pulls: list[str] = []
    for verdict in bad:
        others = {owner for finding in verdict.forbidden for owner in finding.owners if owner != verdict.name}
        owners |= others
        if any(not finding.owners or verdict.name in finding.owners for finding in verdict.forbidden):
            where = f" --dest {folder}" if folder else ""
            pulls.append(f"`zoo pull {verdict.name}{where}`")
    if owners:
        where = f" --folder {folder}" if folder else ""
        steps.append(f"`zoo remove {' '.join(sorted(owners))}{where}` removes whose files must not be there")
    if pulls:
        steps.append(f"{' and '.join(pulls)} {'deletes' if len(pulls) == 1 else 'delete'} what must not be there")
    return "; ".join(steps)


def _repairers(bad: Sequence[Verdict]) -> list[str]:
    """Entries whose repair brings back everything; files of a shared folder need one of its entries only."""
    chosen = []
    covered: set[tuple[str, str]] = set()
    for verdict in sorted(bad, key=lambda verdict: -len(verdict.wrong)):
        broken = {(verdict.folder, finding.path) for finding in verdict.wrong}
        if not broken <= covered:
            chosen.append(verdict.name)
            covered |= broken
    return chosen
