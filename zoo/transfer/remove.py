"""Carries the removal of installed entries out, so that a kill at any moment leaves the old or the new state.

1. Write down what will be deleted (`.zoo/removing.json`).
2. Write the receipt without the entries. From this moment on they are not installed.
3. Delete the files, model folders whole, then the note.

A kill before 2 leaves everything as it was; after 2, whoever works in the folder next finishes (`finish_removal`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from zoo.documents import canonical_json, decode, parse_json, read_bytes, write_atomically
from zoo.errors import DiskError
from zoo.folder import FolderState, check_state_directory, list_folder, place_in, read_state
from zoo.lock import Size
from zoo.manifest import EntryId, Struct
from zoo.paths import STATE_DIRECTORY, check_bundle_path
from zoo.plan.actions import Delete
from zoo.plan.remove import RemovePlan
from zoo.receipt import load_receipt, save_receipt
from zoo.transfer.deleting import delete_files, discard_removed

REMOVAL_SCHEMA = 1
REMOVAL_NAME = "removing.json"


class Removal(Struct, frozen=True, kw_only=True):
    """`.zoo/removing.json`: entries that are being removed, and the files that go with their sizes."""

    schema: int = REMOVAL_SCHEMA
    entries: tuple[EntryId, ...]
    files: dict[str, Size]


def removal_path(folder: Path) -> Path:
    """Where the note about a removal under way lies."""
    return folder / STATE_DIRECTORY / REMOVAL_NAME


def load_removal(folder: Path) -> Removal | None:
    """The removal that was under way in `folder` when its process ended, if there is one.

    Raises:
        InvalidDocument, UnsafePath: the note is damaged or hostile.
        DiskError: it cannot be read.
    """
    path = removal_path(folder)
    if not path.is_file():
        return None
    removal = decode(parse_json(read_bytes(path), where=str(path)), Removal, where=str(path), schema=REMOVAL_SCHEMA)
    for file in removal.files:
        check_bundle_path(file, where=str(path))
    return removal


def removal_state(folder: Path) -> FolderState:
    """What a removal plan needs to know about `folder`; no file is read.

    Raises:
        InvalidDocument, UnsafePath, DiskError: as `read_state`.
    """
    return read_state(folder, ())


def carry_out_removal(plan: RemovePlan, folder: Path) -> list[str]:
    """Do what the plan says and return the paths that are gone. The caller holds the folder's lock.

    Raises:
        DiskError: no permission.
        UnsafePath: a folder on the way has become a symbolic link; nothing has changed.
    """
    if not plan.entries:
        return []
    check_state_directory(folder)
    for action in plan.deletes:
        place_in(folder, action.path)
    note_removal(folder, plan.entries, plan.deletes)
    save_receipt(folder, plan.receipt)
    return delete_noted(folder, [action.path for action in plan.deletes])


def finish_removal(folder: Path, *, spare: Iterable[str] = ()) -> list[str]:
    """Finish what a killed removal began, and return the paths that are gone. The caller holds the folder's lock.

    Files that an entry owns by now, or that are other files by now, stay.

    Args:
        folder: an installed folder; need not exist.
        spare: paths that are about to be wanted again.

    Raises:
        InvalidDocument, UnsafePath: the note or the receipt is damaged or hostile.
        DiskError: no permission.
    """
    check_state_directory(folder)
    discard_removed(folder)
    removal = load_removal(folder)
    if removal is None:
        return []
    receipt = load_receipt(folder)
    if any(entry in receipt.entries for entry in removal.entries):
        # It had not begun yet, or the entry is back.
        removal_path(folder).unlink(missing_ok=True)
        return []
    needed = {path.casefold() for path in (*receipt.owners(), *spare)}
    found, _ = list_folder(folder)
    going = [
        path
        for path, size in removal.files.items()
        if path.casefold() not in needed and path in found and found[path].size == size
    ]
    return delete_noted(folder, going)


def pending_removals(folders: Iterable[Path]) -> Mapping[str, Path]:
    """Entries whose removal was cut short after the receipt was written, and their folders."""
    return {
        entry: folder
        for folder in folders
        if (removal := load_removal(folder)) is not None
        for entry in removal.entries
        if entry not in load_receipt(folder).entries
    }


def freed_bytes(folder: Path, deletes: Collection[Delete]) -> int:
    """Bytes the disk gets back when files go: one with another name elsewhere (a hard link) frees nothing.

    Blocks that clones share are counted; no file system tells.
    """
    links: dict[tuple[int, int], list[int]] = {}
    for action in deletes:
        try:
            status = os.lstat(folder / action.path)
        except OSError:
            continue
        names = links.setdefault((status.st_dev, status.st_ino), [0, status.st_nlink, status.st_size])
        names[0] += 1
    return sum(size for going, names, size in links.values() if going >= names)


def note_removal(folder: Path, entries: tuple[str, ...], deletes: Iterable[Delete]) -> None:
    """Write down what is about to go, so that a removal that is cut short is finished (`finish_removal`).

    Args:
        folder: an installed folder.
        entries: what is being removed; nothing goes as long as the receipt has one of them.
        deletes: the files; those that an entry owns by then stay.

    Raises:
        DiskError: no space or no permission.
    """
    removal = Removal(entries=entries, files={action.path: action.size for action in deletes})
    write_atomically(removal_path(folder), canonical_json(msgspec.to_builtins(removal)))


def delete_noted(folder: Path, paths: list[str]) -> list[str]:
    """Delete files and then the note about them; returns the paths that are gone.

    Raises:
        DiskError: no permission; what is left is named by the note.
        UnsafePath: a folder on the way has become a symbolic link.
    """
    try:
        gone = delete_files(folder, paths)
        removal_path(folder).unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(
            f"{error.filename or folder}: cannot be deleted: {error.strerror or error}",
            hint="run the same command again once it can be",
        ) from None
    return gone
