"""What `zoo pull` says: the plan before anything is done, and what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from zoo.plan.actions import Action, Fetch, Link, totals
from zoo.plan.archive import ArchivePlan
from zoo.plan.pull import PullPlan
from zoo.report.sizes import human_bytes, human_seconds
from zoo.report.text import columns, paint, plural
from zoo.transfer.pull import PullResult

MOST_LINES = 12
"""Fetched files that are named in the plan; the rest is counted."""


def plan_text(plan: PullPlan, folder: str) -> str:
    """The plan for people: what travels, what does not and why, what goes away."""
    by_kind = totals(plan.actions)
    size = sum(file.size for file in plan.request.files)
    count = plural(len(plan.request.files), "file")
    lines = [
        f"{paint(plan.request.entry, 'bold')} -> {folder}: {count}, {human_bytes(size)}",
    ]
    rows: list[tuple[str, int, str, str]] = []
    if "fetch" in by_kind:
        resumed = sum(action.have for action in plan.fetches)
        why = _reasons(plan.fetches) + (f"; {human_bytes(resumed)} of them are here already" if resumed else "")
        rows.append(("fetch", by_kind["fetch"].count, human_bytes(by_kind["fetch"].size), why))
    if plan.archive is not None:
        rows.append(("extract", len(plan.extracts), human_bytes(by_kind["extract"].size), _from_archive(plan.archive)))
    for inside, name in ((False, "link"), (True, "link")):
        links = [link for link in plan.links if link.inside is inside]
        if links:
            why = "the same bytes as another file of this folder" if inside else _origins(links)
            rows.append((name, len(links), human_bytes(sum(link.size for link in links)), why))
    if "keep" in by_kind:
        keeps = [action for action in plan.actions if action.kind == "keep"]
        rows.append(("keep", by_kind["keep"].count, human_bytes(by_kind["keep"].size), _reasons(keeps)))
    if "delete" in by_kind:
        rows.append(("delete", by_kind["delete"].count, human_bytes(by_kind["delete"].size), _reasons(plan.deletes)))
    lines.append(columns([(kind, str(count), size, why) for kind, count, size, why in rows], align="<>><", indent=2))
    lines += [f"  {paint('fetch', 'cyan')} {_line(action)}" for action in plan.fetches[:MOST_LINES]]
    if len(plan.fetches) > MOST_LINES:
        lines.append(f"  and {plural(len(plan.fetches) - MOST_LINES, 'smaller file')}")
    lines += [f"  {paint('delete', 'red')} {action.path}" for action in plan.deletes]
    lines += [f"{paint('note:', 'yellow')} {note}" for note in plan.notes]
    return "\n".join(line for line in lines if line)


def _from_archive(plan: ArchivePlan) -> str:
    """What of the archive travels."""
    name = plan.archive.url.rsplit("/", 1)[-1]
    have = f"; {human_bytes(plan.have)} of them are here already" if plan.have and plan.how != "here" else ""
    match plan.how:
        case "here":
            return f"from {plan.local or name + ', which has arrived'}"
        case "whole":
            return f"from {name}, {human_bytes(plan.archive.size)}{have}"
        case "members":
            return (
                f"from parts of {name}, {human_bytes(plan.have + plan.size)} of {human_bytes(plan.archive.size)}{have}"
            )


def _line(action: Fetch) -> str:
    rest = f", {human_bytes(action.have)} are here" if action.have else ""
    return f"{action.path} ({human_bytes(action.file.size)}{rest}; {action.reason})"


def _reasons(actions: Iterable[Action]) -> str:
    counts = Counter(action.reason for action in actions)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _origins(links: Iterable[Link]) -> str:
    folders = sorted({link.origin.removesuffix("/" + link.path) for link in links})
    return "already on this disk: " + ", ".join(folders[:2]) + (" ..." if len(folders) > 2 else "")


def result_text(plan: PullPlan, result: PullResult) -> str:
    """What was done, and what did not have to be done."""
    entry = plan.request.entry
    verified = all(file.sha256 is not None for file in plan.request.files)
    checked = "all verified" if verified else paint("NOT verified: the lock is provisional", "red")
    lines = []
    if result.fetched:
        rate = result.received / result.fetch_seconds if result.fetch_seconds > 0 else 0
        lines.append(
            f"fetched {human_bytes(result.received)} for {plural(len(result.fetched), 'file')}"
            f" in {human_seconds(result.fetch_seconds)} ({human_bytes(int(rate))}/s)"
        )
    spared = [
        (count, text)
        for count, text in (
            (result.kept_bytes, "there already"),
            (sum(result.linked_bytes.values()), _link_words(result)),
            (result.resumed, "left by an interrupted fetch"),
        )
        if count
    ]
    if spared:
        lines.append("not fetched: " + ", ".join(f"{human_bytes(count)} {text}" for count, text in spared))
    if result.deleted:
        lines.append(f"deleted {plural(len(result.deleted), 'file')}")
    lines += [f"{paint('note:', 'yellow')} {note}" for note in result.notes]
    done = "is complete" if plan.changes else "was complete; nothing to do"
    if plan.request.repairs:
        done = "repaired"
    lines.append(f"{paint(entry, 'bold')} {done}: {plural(len(plan.request.files), 'file')}, {checked}")
    return "\n".join(lines)


def _link_words(result: PullResult) -> str:
    words = {"clone": "cloned", "hardlink": "hard-linked", "copy": "copied"}
    kinds = [words[kind] for kind in ("clone", "hardlink", "copy") if result.linked[kind]]
    return " and ".join(kinds) + " on this disk"


def dry_run_text(plan: PullPlan) -> str:
    """The last line of a dry run."""
    return f"dry run: nothing was changed; {human_bytes(plan.bytes_to_move)} would travel"
