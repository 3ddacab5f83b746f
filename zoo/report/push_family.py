"""What publishing several entries together will do and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.errors import ZooError
from zoo.plan.actions import ServerCopy, totals, travelling_bytes
from zoo.plan.push_family import pending_entry, waits_for
from zoo.report.push import push_json, push_text
from zoo.report.sizes import human_bytes
from zoo.report.text import paint, plural
from zoo.transfer.push_family import Done, FamilyMember


def family_text(family: Sequence[FamilyMember]) -> str:
    """The plan: every entry's, in the order in which they are published, and what they add up to."""
    blocks = [push_text(member.prepared, member.entry.id) for member in family]
    plans = [member.prepared.plan for member in family]
    actions = [action for plan in plans for action in plan.actions]
    commits = sum(plan.commits for plan in plans)
    lines = [paint(f"together: {plural(len(family), 'entry', 'entries')}, {plural(commits, 'commit')}", "bold")]
    if any(plan.changes for plan in plans):
        lines[0] += f", in this order: {', '.join(member.entry.id for member in family)}"
        once = [action for action in actions if isinstance(action, ServerCopy) and pending_entry(action.source.commit)]
        shared = f", {human_bytes(sum(action.size for action in once))} of that from this push's own commits"
        copied = totals(actions).get("copy")
        server = f"; {human_bytes(copied.size)} copied by the Hub" if copied is not None else ""
        lines.append(f"{human_bytes(travelling_bytes(actions))} to send{server}{shared if once else ''}")
    else:
        lines.append("nothing to do")
    return "\n\n".join([*blocks, "\n".join(lines)])


def interrupted_text(family: Sequence[FamilyMember], done: Sequence[Done]) -> str:
    """What a push that stopped in the middle left, and how to go on."""
    names = [member.entry.id for member in family]
    finished = ", ".join(names[: len(done)]) or "none"
    left = names[len(done) :]
    if family[0].prepared.options.pull_request:
        again = f"Go on with `zoo push {' '.join(left)} --pr`: the others would get a second one."
        return f"with a pull request: {finished}; not yet: {', '.join(left)}. {again}"
    return f"published and pinned: {finished}; not yet: {', '.join(left)}. The same command goes on from here."


def family_json(
    family: Sequence[FamilyMember],
    done: Sequence[Done] = (),
    *,
    name: str | None = None,
    error: ZooError | None = None,
) -> dict[str, Any]:
    """Plan and outcome; keys are described in docs/push.md.

    Args:
        family: the plan.
        done: what was carried out of it, from the first entry on.
        name: the family that was asked for, if it was asked for by name.
        error: what stopped it.
    """
    prepared = [before.prepared for before in done] + [member.prepared for member in family[len(done) :]]
    results = [before.pushed for before in done] + [None] * (len(family) - len(done))
    actions = [action for one in prepared for action in one.plan.actions]
    pushes = []
    for member, one, pushed in zip(family, prepared, results, strict=True):
        data = push_json(one, member.entry.id, pushed)
        for action in data["actions"]:
            if "source" in action:
                _name_pending(action["source"])
        if pending_entry(data["parent"]) is not None:
            data["parent"] = None
        pushes.append({**data, "after": sorted(waits_for(member.prepared.plan))})
    return {
        "family": name,
        "pushes": pushes,
        "totals": {kind: {"count": total.count, "bytes": total.size} for kind, total in totals(actions).items()},
        "bytes_to_move": travelling_bytes(actions),
        "error": None if error is None else {"entry": family[len(done)].entry.id, "message": error.message},
    }


def _name_pending(source: dict[str, Any]) -> None:
    """A commit that is yet to be made has no id: it is told by its entry."""
    source["entry"] = pending_entry(source["commit"])
    if source["entry"] is not None:
        source["commit"] = None
