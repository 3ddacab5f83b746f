"""What goes when installed entries are removed from a folder. Pure: no input, no output.

A file goes if the entries own it and no other installed entry does. What nobody owns is not touched.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from zoo.folder import FolderFile, FolderState
from zoo.plan.actions import Delete, Keep, actions_json
from zoo.receipt import Receipt, ReceiptFile
from zoo.report.sizes import human_bytes
from zoo.report.text import plural


@dataclass(frozen=True)
class RemovePlan:
    """What will be done in one folder.

    Attributes:
        entries: what is removed, sorted.
        actions: a deletion for every file that goes, a keep for every one that another entry needs.
        receipt: the folder's receipt once it is done.
        notes: what a person should know before it is done.
    """

    entries: tuple[str, ...]
    actions: tuple[Keep | Delete, ...]
    receipt: Receipt
    notes: tuple[str, ...] = ()

    @property
    def deletes(self) -> tuple[Delete, ...]:
        """The files that go away."""
        return tuple(action for action in self.actions if isinstance(action, Delete))


def plan_remove(entries: Collection[str], state: FolderState) -> RemovePlan:
    """Decide which files go.

    Args:
        entries: what to remove; those that are not installed in this folder are ignored.
        state: what the folder holds; no digest is needed.
    """
    leaving = tuple(sorted(entry for entry in set(entries) if entry in state.receipt.entries))
    receipt = state.receipt
    for entry in leaving:
        receipt = receipt.without_entry(entry)
    needed = {path.casefold(): owners for path, owners in receipt.owners().items()}
    owned = {file.path: file for entry in leaving for file in state.receipt.entries[entry].files}
    actions: list[Keep | Delete] = []
    for path, file in sorted(owned.items()):
        found = state.files.get(path)
        # A path that differs in letter case alone may be the same file on this file system.
        owners = needed.get(path.casefold())
        if found is None:
            continue
        if owners is not None:
            actions.append(Keep(path, found.size, f"{_listed(owners)} needs it"))
        else:
            actions.append(Delete(path, found.size, _reason(file, found)))
    return RemovePlan(leaving, tuple(actions), receipt, _notes(state, owned, actions))


def _listed(owners: tuple[str, ...]) -> str:
    return owners[0] if len(owners) == 1 else " and ".join(owners)


def _reason(file: ReceiptFile, found: FolderFile) -> str:
    if not found.regular:
        return "a link is in its place; the link goes"
    return "no other entry needs it" if found.size == file.size else "changed since it was installed"


def _notes(state: FolderState, owned: Collection[str], actions: list[Keep | Delete]) -> tuple[str, ...]:
    notes = []
    changed = sum(action.reason == "changed since it was installed" for action in actions)
    if changed:
        notes.append(f"{plural(changed, 'file')} changed since installed and will be lost all the same")
    known = state.receipt.owners().keys() | set(owned)
    strangers = [file for path, file in state.files.items() if path not in known]
    if strangers:
        size = human_bytes(sum(file.size for file in strangers))
        notes.append(f"{plural(len(strangers), 'file')} ({size}) that no entry owns stay; `zoo prune` shows them")
    return tuple(notes)


def remove_plan_json(plan: RemovePlan, folder: str) -> dict[str, Any]:
    """The plan for programs; see docs/remove.md."""
    return {
        "entries": list(plan.entries),
        "folder": folder,
        "notes": list(plan.notes),
        **actions_json(plan.actions),
    }
