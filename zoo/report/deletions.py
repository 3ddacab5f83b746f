"""What `zoo remove` and `zoo prune` say: what goes and what stays, before anything is done."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.paths import model_folder
from zoo.plan.actions import Delete, Keep
from zoo.plan.prune import PrunePlan
from zoo.plan.remove import RemovePlan
from zoo.report.sizes import human_bytes
from zoo.report.text import columns, paint, plural


def remove_text(plan: RemovePlan, folder: str, freed: int) -> str:
    """The plan of a removal for people.

    Args:
        plan: for one folder.
        folder: which.
        freed: bytes the disk gets back.
    """
    lines = [f"{paint(' and '.join(plan.entries), 'bold')} in {folder}", *_action_lines(plan.actions)]
    lines += [f"{paint('note:', 'yellow')} {note}" for note in plan.notes]
    lines.append(f"  {_sum(plan.deletes, freed)}")
    return "\n".join(lines)


def prune_text(plan: PrunePlan, place: str, freed: int) -> str:
    """The plan of a clean-up for people; see `remove_text`."""
    return "\n".join([paint(place, "bold"), *_action_lines(plan.actions), f"  {_sum(plan.deletes, freed)}"])


def gone_text(count: int, freed: int, *, dry_run: bool) -> str:
    """The last line of either command."""
    if dry_run:
        return f"dry run: nothing was changed; {plural(count, 'file')} would go, {human_bytes(freed)} would be freed"
    return f"deleted {plural(count, 'file')}, freed {human_bytes(freed)}"


def _action_lines(actions: Sequence[Keep | Delete]) -> list[str]:
    """A line per file that goes, files of one model folder together; what stays is counted by reason."""
    groups: dict[tuple[bool, str, str], list[Keep | Delete]] = {}
    for action in actions:
        stays = isinstance(action, Keep)
        unit = "" if stays else model_folder(action.path) or action.path
        groups.setdefault((stays, unit, action.reason), []).append(action)
    if not groups:
        return ["  nothing to delete"]
    rows = [
        (group[0].kind, human_bytes(sum(action.size for action in group)), _what(unit, group), reason)
        for (_, unit, reason), group in sorted(groups.items(), key=lambda item: item[0])
    ]
    table = columns(rows, align="<><<", indent=2).split("\n")
    # Painted at last: columns counts characters.
    return [
        line.replace("delete", paint("delete", "red"), 1) if line.startswith("  delete") else line for line in table
    ]


def _what(unit: str, group: Sequence[Keep | Delete]) -> str:
    if len(group) == 1:
        return group[0].path
    return f"{unit}/ ({plural(len(group), 'file')})" if unit else plural(len(group), "file")


def _sum(deletes: Sequence[Delete], freed: int) -> str:
    size = sum(action.size for action in deletes)
    text = f"{plural(len(deletes), 'file')}, {human_bytes(size)} to delete"
    return (
        text if freed == size else f"{text}; {human_bytes(freed)} to be freed, the rest has other names (hard links)"
    )
