"""What `zoo sideload` says: the plan with its commands, and what is on the device afterwards."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from zoo.paths import model_folder
from zoo.plan.device_commands import list_command
from zoo.plan.sideload import FORBIDDEN, FOREIGN_MODEL, KEPT_COPIED, Orphan, SideloadPlan
from zoo.report.sizes import human_bytes
from zoo.report.text import columns, paint, plural

if TYPE_CHECKING:
    from zoo.transfer.sideload import SideloadResult

MOST_ORPHANS = 20
"""Left-over files that are named; the rest is counted."""


def plan_text(plan: SideloadPlan) -> str:
    """The plan for people: what is copied and why, what stays, what is left over."""
    request = plan.request
    size = sum(file.size for file in request.files)
    where = f"{request.target.device} {request.target.app} {request.target.root}"
    count = plural(len(request.files), "file")
    lines = [f"{paint(' and '.join(request.entries), 'bold')} -> {where}: {count}, {human_bytes(size)}"]
    rows = []
    if plan.copies:
        rows.append(("copy", plural(len(plan.copies), "copy", "copies"), human_bytes(plan.bytes_to_copy), ""))
    if plan.keeps:
        kept = sum(keep.size for keep in plan.keeps)
        rows.append(("keep", plural(len(plan.keeps), "file"), human_bytes(kept), _reasons(plan)))
    if plan.orphans:
        left = sum(orphan.size or 0 for orphan in plan.orphans)
        rows.append(("orphan", plural(len(plan.orphans), "file"), human_bytes(left), "not of the bundle; stays"))
    lines.append(columns(rows, align="<>><", indent=2))
    lines += [
        f"  {paint('copy', 'cyan')} {copy.path} ({human_bytes(copy.size)}, {plural(len(copy.files), 'file')};"
        f" {copy.reason})"
        for copy in plan.copies
    ]
    lines += orphans_lines(plan.orphans)
    lines += [f"{paint('note:', 'yellow')} {note}" for note in plan.notes]
    return "\n".join(line for line in lines if line)


def _reasons(plan: SideloadPlan) -> str:
    counts = Counter(keep.reason for keep in plan.keeps)
    if counts.keys() == {KEPT_COPIED}:
        return KEPT_COPIED
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def orphans_lines(orphans: Sequence[Orphan]) -> list[str]:
    """One line per left-over file, or model folder of which all is left over.

    A device may list any name, so unprintable characters are shown as escapes.
    """
    groups: dict[tuple[str, str], list[Orphan]] = {}
    for orphan in orphans:
        name = model_folder(orphan.path) if orphan.reason in (FOREIGN_MODEL, FORBIDDEN) else None
        groups.setdefault((name or orphan.path, orphan.reason), []).append(orphan)
    lines = []
    for (name, reason), group in list(groups.items())[:MOST_ORPHANS]:
        sizes = [orphan.size for orphan in group if orphan.size is not None]
        size = human_bytes(sum(sizes)) if len(sizes) == len(group) else "size unknown"
        count = f"{plural(len(group), 'file')}, " if len(group) > 1 else ""
        lines.append(f"  {paint('orphan', 'red')} {printable(name)} ({count}{size}): {reason}")
    if len(groups) > MOST_ORPHANS:
        lines.append(f"  and {len(groups) - MOST_ORPHANS:,} more")
    return lines


def printable(text: str) -> str:
    """`text` with unprintable characters as escapes: what a device lists may move the cursor otherwise."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def commands_text(plan: SideloadPlan) -> str:
    """The commands that carry the plan out, one a line, ready for a shell; then the one that lists the result."""
    if not plan.copies:
        return "nothing to copy"
    target = plan.request.target
    lines = [shlex.join(command) for command in (*plan.commands, list_command(target, target.root))]
    return "\n".join(["", *lines, "", f"dry run: nothing was copied; {human_bytes(plan.bytes_to_copy)} would travel"])


def result_text(plan: SideloadPlan, result: SideloadResult) -> str:
    """What was copied, and what a new listing says about it."""
    lines = [f"wrong: {misfit.path}: {printable(misfit.problem)}" for misfit in result.misfits]
    copied = sum(copy.size for copy in result.copied)
    lines.append(
        f"copied {human_bytes(copied)} in {plural(len(result.copied), 'copy', 'copies')}"
        if result.copied
        else "nothing to copy"
    )
    if not result.misfits:
        lines.append(
            f"{paint(' and '.join(plan.request.entries), 'bold')} is on the device:"
            f" {plural(len(plan.request.files), 'file')}, listed again and compared by size, which is all it tells"
        )
    return "\n".join(lines)


def names_text(names: Iterable[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    listed = list(names)
    rest = len(listed) - most
    return ", ".join(printable(name) for name in listed[:most]) + (f" and {rest} more" if rest > 0 else "")
