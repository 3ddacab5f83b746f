"""What a directory holds, by digest, and whether that is the old state or the new one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from zoo.hub_server.store import Store
from zoo.paths import STATE_DIRECTORY, model_folder
from zoo.receipt import load_receipt

State = Mapping[str, str]
"""Digest of the content (or `-> target` of a symbolic link) by path."""

RECEIPT = f"{STATE_DIRECTORY}/receipt.json"


def snapshot(directory: Path, ignore: Callable[[str], bool] = lambda path: False) -> dict[str, str]:
    """Every file and link of a directory; nothing is followed."""
    found = {}
    for place in sorted(directory.rglob("*")):
        path = place.relative_to(directory).as_posix()
        if ignore(path):
            continue
        if place.is_symlink():
            found[path] = f"-> {place.readlink()}"
        elif place.is_file():
            found[path] = hashlib.sha256(place.read_bytes()).hexdigest()
    return found


def folder_state(folder: Path) -> dict[str, str]:
    """An installed folder: its files and its receipt, without the workshop in `.zoo/`."""
    return snapshot(folder, lambda path: path.startswith(f"{STATE_DIRECTORY}/") and path != RECEIPT)


def is_workshop(path: str) -> bool:
    """Names under which zoo writes beside: nobody takes them for a manifest, a lock or a build."""
    return any(part.startswith(".") for part in path.split("/"))


def documents_state(directory: Path) -> dict[str, str]:
    """A zoo directory, or the directory builds lie in, without what is being written beside."""
    return snapshot(directory, is_workshop)


def hub_state(store: Store) -> dict[str, str]:
    """Every branch of every repo: its commit, and that all its bytes are there and what they are said to be."""
    found = {}
    for repo in store.list_repos("models"):
        for branch, commit in store.refs(repo).branches.items():
            found[f"{repo.name}@{branch}"] = commit
            for path, entry in store.snapshot(repo, commit).files.items():
                data = store.blobs.path(entry.sha256).read_bytes()
                assert hashlib.sha256(data).hexdigest() == entry.sha256, f"{repo.name}@{branch}: {path} is not whole"
    return found


def units(state: State) -> dict[str, dict[str, str]]:
    """The state in the parts of which each is all or nothing: model folders, documents, other files."""
    found: dict[str, dict[str, str]] = {}
    for path, digest in state.items():
        found.setdefault(model_folder(path) or path, {})[path] = digest
    return found


def third_state(old: State, new: State, now: State) -> list[str]:
    """The units that are neither what they were nor what they were to become; none of them should exist."""
    before, after, present = units(old), units(new), units(now)
    return [
        f"{unit}: {sorted(present.get(unit, {}))}"
        for unit in sorted({*before, *after, *present})
        if present.get(unit) not in (before.get(unit), after.get(unit))
    ]


def check_folder(old: State, new: State, folder: Path, *, damaged: Iterable[str] = ()) -> None:
    """Old or new in every unit; what the receipt lists is there, and all new once the receipt is.

    Args:
        old, new: states of the folder before the command and after it.
        folder: as it is now.
        damaged: paths that the old state lacks although its receipt lists them.
    """
    now = folder_state(folder)
    assert third_state(old, new, now) == []
    listed = set(load_receipt(folder).owners())
    assert sorted(listed - now.keys() - set(damaged)) == [], "the receipt lists what is not there"
    if now.get(RECEIPT) == new.get(RECEIPT) != old.get(RECEIPT):
        assert [path for path in new if now.get(path) != new[path]] == [], "the receipt says that it is installed"
