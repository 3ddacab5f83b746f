"""What holds at any moment of a zoo's life, whatever was interrupted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.zoo.faults.place import Place
from tests.zoo.faults.state import State, third_state, units
from zoo.errors import ZooError
from zoo.hub_server.store import Store
from zoo.lock import Lock, load_lock, lock_path
from zoo.receipt import load_receipt

UNEXPECTED = 70
"""Exit code of the harness for an exception that nobody foresaw."""

Unit = frozenset[tuple[str, str]]
"""Paths and digests of what is all or nothing: a model folder, or one other file."""


class Violation(AssertionError):
    """Something that must never be."""


@dataclass
class Known:
    """Every whole unit that was ever built or published, by its name."""

    units: dict[str, set[Unit]] = field(default_factory=dict)

    def learn(self, lock: Lock) -> None:
        """The units of a lock are whole."""
        for name, files in units({file.path: file.sha256 or "" for file in lock.files}).items():
            self.units.setdefault(name, set()).add(frozenset(files.items()))

    def whole(self, name: str, files: Mapping[str, str]) -> bool:
        """Whether these files are such a unit."""
        return frozenset(files.items()) in self.units.get(name, set())


@dataclass(frozen=True)
class Seen:
    """The states of everything at one moment."""

    states: Mapping[str, State]
    listed: frozenset[str]

    def third_states(self, before: Seen, between: Seen) -> list[str]:
        """What was, between `before` and now, neither as before nor as now."""
        return [
            found
            for part in self.states
            for found in third_state(before.states[part], self.states[part], between.states[part])
        ]


def look(place: Place, known: Known) -> Seen:
    """See everything; what locks describe is known from now on.

    Raises:
        AssertionError: a branch of the Hub is not whole.
    """
    for directory in (place.zoo.build, place.zoo.manifests):
        for path in directory.glob("[!.]*.lock.json"):
            known.learn(load_lock(path))
    return Seen(place.everything(), frozenset(load_receipt(place.folder).owners()))


def inspect(place: Place, before: Seen, known: Known, ended: object) -> None:
    """Check what must hold after any command, however it ended.

    Raises:
        AssertionError: saying what does not.
    """
    assert getattr(ended, "code", 0) != UNEXPECTED, getattr(ended, "stderr", "")
    now = look(place, known)
    _check_units(units(before.states["folder"]), units(now.states["folder"]), known)
    missing = now.listed - now.states["folder"].keys()
    if lost := sorted(missing - (before.listed - before.states["folder"].keys())):
        raise Violation(f"the receipt lists what is not there: {lost}")
    for entry in ("fake-text", "fake-full"):
        check_lock_is_true(place, entry)


def _check_units(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]], known: Known) -> None:
    for name, files in now.items():
        if name.startswith(".zoo") or files == before.get(name) or known.whole(name, files):
            continue
        raise Violation(f"{name} is neither what it was nor anything that was ever built: {sorted(files)}")


def check_lock_is_true(place: Place, entry: str) -> None:
    """Whatever a published lock names is at the Hub, with the bytes it says."""
    try:
        lock = load_lock(lock_path(place.zoo.manifests, entry))
    except ZooError:
        return
    snapshots: dict[tuple[str, str], Mapping[str, str]] = {}
    for file in lock.files:
        for source in file.sources:
            key = (source.repo, source.commit)
            if key not in snapshots:
                snapshots[key] = _files_at(place.hub.store, *key)
            if snapshots[key].get(source.path) != file.sha256:
                raise Violation(f"the lock of {entry} names what is not there: {file.path} at {source}")


def _files_at(store: Store, repo: str, commit: str) -> dict[str, str]:
    found = next(one for one in store.list_repos("models") if one.name == repo)
    return {path: entry.sha256 for path, entry in store.snapshot(found, commit).files.items()}


def check_settled(place: Place, entries: Iterable[str]) -> None:
    """The folder is exactly what the locks say, and nothing of zoo's work lies about."""
    wanted = {
        file.path: file.sha256 for entry in entries for file in load_lock(lock_path(place.zoo.manifests, entry)).files
    }
    found = {path: digest for path, digest in place.installed().items() if not path.startswith(".zoo/")}
    if found != wanted:
        differing = sorted(path for path in {*found, *wanted} if found.get(path) != wanted.get(path))
        raise Violation(f"not what the locks say: {differing}")
    left = [path.name for path in _workshop(place.folder) if path.is_file()]
    if unknown := sorted(set(left) - {"receipt.json", "lock"}):
        raise Violation(f"left in .zoo: {unknown}")


def _workshop(folder: Path) -> list[Path]:
    return list((folder / ".zoo").rglob("*"))
