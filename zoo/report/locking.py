"""What `zoo lock` found, for people and for programs."""

from __future__ import annotations

from typing import Any

from zoo.catalog import Entry
from zoo.lock import Lock, LockedFile, lock_digest
from zoo.plan.lock import Difference
from zoo.report.sizes import human_bytes
from zoo.report.text import columns, plural
from zoo.transfer.locking import Locked

SHOWN_FILES = 40
"""Longest list of differing files; JSON has them all."""

SHOWN_EXTRA = 6


def lock_text(entry: Entry, fresh: Locked, changes: Difference, *, changed: bool, dry_run: bool) -> str:
    """Which files came, went and changed, and what became of the lock file."""
    rows = [
        *(("+", file.path, human_bytes(file.size), _short(file)) for file in changes.added),
        *(("-", file.path, human_bytes(file.size), _short(file)) for file in changes.removed),
        *(("~", new.path, *_what_changed(old, new)) for old, new in changes.changed),
    ]
    lines = []
    if rows:
        lines.append(columns(rows[:SHOWN_FILES], align="<<><", indent=2))
        if len(rows) > SHOWN_FILES:
            lines.append(f"  and {len(rows) - SHOWN_FILES} more")
    if fresh.left_out:
        names = ", ".join(fresh.left_out[:SHOWN_EXTRA])
        more = len(fresh.left_out) - SHOWN_EXTRA
        rest = f" and {more} more" if more > 0 else ""
        lines.append(f"note: left out, because no component owns it: {names}{rest}")
    lock = fresh.lock
    lines.append(f"{fresh.origin}: {plural(len(lock.files), 'file')}, {human_bytes(lock.size)}{_unique(lock)}")
    verb = ("would be written" if dry_run else "written") if changed else "unchanged"
    lines.append(f"lock {verb}: {entry.lock_file}")
    return "\n".join(lines)


def _unique(lock: Lock) -> str:
    return f", {human_bytes(lock.unique_size)} of them different" if lock.unique_size < lock.size else ""


def _short(file: LockedFile) -> str:
    return (file.sha256 or "digest unknown")[:16]


def _what_changed(old: LockedFile, new: LockedFile) -> tuple[str, str]:
    size = human_bytes(new.size) if old.size == new.size else f"{human_bytes(old.size)} -> {human_bytes(new.size)}"
    what = []
    if old.sha256 != new.sha256:
        what.append(f"{_short(old)} -> {_short(new)}")
    if old.component != new.component:
        what.append(f"component {old.component} -> {new.component}")
    return size, ", ".join(what)


def lock_json(entry: Entry, fresh: Locked, changes: Difference, *, changed: bool, dry_run: bool) -> dict[str, Any]:
    """The same for programs; keys are described in docs/lock.md."""
    return {
        "entry": entry.id,
        "lock": str(entry.lock_file),
        "origin": fresh.origin,
        "digest": lock_digest(fresh.lock),
        "files": len(fresh.lock.files),
        "size": fresh.lock.size,
        "changed": changed,
        "written": changed and not dry_run,
        "added": [_file(file) for file in changes.added],
        "removed": [_file(file) for file in changes.removed],
        "modified": [{"old": _file(old), "new": _file(new)} for old, new in changes.changed],
        "left_out": list(fresh.left_out),
    }


def _file(file: LockedFile) -> dict[str, Any]:
    return {"path": file.path, "component": file.component, "size": file.size, "sha256": file.sha256}
