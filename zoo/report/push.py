"""What a push will do and what it did, for people and for programs."""

from __future__ import annotations

from typing import Any

from zoo.plan.actions import Action, ServerCopy, Upload, actions_json, totals, travelling_bytes
from zoo.plan.push import PushPlan
from zoo.report.sizes import human_bytes
from zoo.report.text import columns, paint, plural
from zoo.transfer.push import Pushed
from zoo.transfer.push_look import Prepared

SHOWN_EXTRA = 6
"""How many left-over files of the repo are named before the rest is counted."""


def push_text(prepared: Prepared, entry: str) -> str:
    """The plan: a line per file that changes, a line per kind with its bytes, and remarks."""
    plan = prepared.plan
    where = f"{plan.repo} ({plan.branch})"
    if prepared.options.pull_request:
        where += ", as a pull request"
    lines = [paint(f"{entry} -> {where}", "bold")]
    changing = [action for action in plan.actions if action.kind != "keep"]
    if changing:
        lines.append(columns([_row(action) for action in changing], align="<<>", indent=2))
    lines += ["", *_summary(plan)]
    lines += [f"note: {note}" for note in (*prepared.notes, *_extra_notes(plan))]
    return "\n".join(lines)


def _row(action: Action) -> tuple[str, str, str, str]:
    size = 0 if isinstance(action, Upload) and action.size == 0 else action.size
    return (action.kind, action.path, human_bytes(size), action.reason)


def _summary(plan: PushPlan) -> list[str]:
    actions = plan.actions
    if not plan.commits:
        size = sum(action.size for action in actions)
        todo = f"branch {plan.branch} will be made" if plan.new_branch else "nothing to do"
        return [f"{todo}: the repo has all {plural(len(actions), 'file')}, {human_bytes(size)}"]
    rows = []
    counted = totals(actions)
    words = {"keep": "already there", "upload": "upload", "delete": "delete"}
    for kind, word in words.items():
        total = counted.get(kind)  # type: ignore[call-overload]
        if total is not None:
            rows.append((word, plural(total.count, "file"), human_bytes(total.size)))
    by_repo: dict[str, list[int]] = {}
    for action in actions:
        if isinstance(action, ServerCopy):
            by_repo.setdefault(action.source.repo, []).append(action.size)
    for repo, sizes in sorted(by_repo.items()):
        rows.insert(
            -1 if rows else 0, (f"copied by the Hub from {repo}", plural(len(sizes), "file"), human_bytes(sum(sizes)))
        )
    everything = sum(action.size for action in actions if action.kind != "delete")
    sent = travelling_bytes(actions)
    share = f" of {human_bytes(everything)}" if everything > sent else ""
    return [columns(rows, align="<>>", indent=2), f"{human_bytes(sent)}{share} to send"]


def _extra_notes(plan: PushPlan) -> list[str]:
    if not plan.extra:
        return []
    names = ", ".join(path for path, _ in plan.extra[:SHOWN_EXTRA])
    more = len(plan.extra) - SHOWN_EXTRA
    size = human_bytes(sum(size for _, size in plan.extra))
    rest = f" and {more} more" if more > 0 else ""
    return [f"{plural(len(plan.extra), 'file')} ({size}) of the repo stay that no lock knows: {names}{rest}; --delete"]


def pushed_text(pushed: Pushed, prepared: Prepared, lock_file: str) -> str:
    """What became of it."""
    repo = prepared.options.repo
    if pushed.pull_request is not None or pushed.lock_changed is None:
        if not pushed.made:
            return "no pull request was needed"
        return (
            f"pull request: {pushed.pull_request or pushed.commit}\n"
            f"the lock was not changed: after the merge run `zoo lock {prepared.lock.entry} --from-hub`"
        )
    place = f"{repo}@{pushed.commit[:12]}"
    made = f"published as {place}; read back and compared" if pushed.made else f"is there already: {place}"
    lock = "written" if pushed.lock_changed else "unchanged"
    return f"{made}\nlock {lock}: {lock_file}"


def push_json(prepared: Prepared, entry: str, pushed: Pushed | None) -> dict[str, Any]:
    """Plan and outcome; keys are described in docs/push.md."""
    plan = prepared.plan
    return {
        "entry": entry,
        "repo": plan.repo,
        "branch": plan.branch,
        "parent": plan.parent,
        "new_branch": plan.new_branch,
        **actions_json(plan.actions),
        "extra": [{"path": path, "size": size} for path, size in plan.extra],
        "notes": list(prepared.notes),
        "result": None
        if pushed is None
        else {
            "commit": pushed.commit,
            "made": pushed.made,
            "pull_request": pushed.pull_request,
            "lock_changed": pushed.lock_changed,
        },
    }
