"""The files of a bundle as a tree: folders with their bytes, and who else has the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from zoo.catalog import Catalog, Entry
from zoo.lock import Lock, LockedFile
from zoo.report.sizes import human_bytes
from zoo.report.text import columns, paint, plural


@dataclass
class _Folder:
    folders: dict[str, _Folder] = field(default_factory=dict)
    files: dict[str, LockedFile] = field(default_factory=dict)
    size: int = 0
    components: set[str] = field(default_factory=set)


def tree_text(entry: Entry, catalog: Catalog) -> str:
    """`zoo show --tree` for people.

    An entry without a lock is shown as its manifest declares it: no sizes, no files inside models.
    """
    if entry.lock is None:
        return _declared(entry)
    root = _grow(entry.lock.files)
    notes = _notes(entry.lock, (other.lock for other in catalog.entries if other.id != entry.id))
    rows = [(paint(f"{entry.manifest.folder}/", "bold"), human_bytes(root.size), "", "")]
    _rows(root, "", notes, rows)
    return columns(rows, align="<><<")


def _declared(entry: Entry) -> str:
    rows = [(paint(f"{entry.manifest.folder}/", "bold"), "")]
    names = [
        (name, part.name)
        for part in entry.parts
        for name in (part.files if part.model is None else (f"{part.model}.*/",))
    ]
    for number, (name, component) in enumerate(sorted(names)):
        rows.append((("└── " if number == len(names) - 1 else "├── ") + name, paint(component, "dim")))
    return columns(rows)


def _grow(files: Iterable[LockedFile]) -> _Folder:
    root = _Folder()
    for file in files:
        here = root
        *parents, name = file.path.split("/")
        for level in [None, *parents]:
            if level is not None:
                here = here.folders.setdefault(level, _Folder())
            here.size += file.size
            here.components.add(file.component)
        here.files[name] = file
    return root


def _rows(folder: _Folder, prefix: str, notes: Mapping[str, str], rows: list[tuple[str, str, str, str]]) -> None:
    """Append a row per file and folder below `folder`; chains of folders with nothing else take one row."""
    names = sorted([*folder.folders, *folder.files])
    for number, name in enumerate(names):
        last = number == len(names) - 1
        start = prefix + ("└── " if last else "├── ")
        inside = prefix + ("    " if last else "│   ")
        file = folder.files.get(name)
        if file is not None:
            component = "" if len(folder.components) == 1 and prefix else file.component
            rows.append((start + name, human_bytes(file.size), paint(component, "dim"), notes.get(file.path, "")))
            continue
        below = folder.folders[name]
        while len(below.folders) == 1 and not below.files:
            ((step, below),) = below.folders.items()
            name += f"/{step}"
        component = next(iter(below.components)) if len(below.components) == 1 and len(folder.components) > 1 else ""
        rows.append((f"{start}{name}/", human_bytes(below.size), paint(component, "dim"), ""))
        _rows(below, inside, notes, rows)


def _notes(lock: Lock, others: Iterable[Lock | None]) -> dict[str, str]:
    """What is worth knowing about the bytes of a file, by path."""
    first: dict[str, str] = {}
    elsewhere: dict[str, list[str]] = {}
    for other in others:
        for sha256 in {file.sha256 for file in other.files if file.sha256 is not None} if other else ():
            elsewhere.setdefault(sha256, []).append(other.entry if other else "")
    notes: dict[str, str] = {}
    for file in lock.files:
        if file.sha256 is None:
            notes[file.path] = "digest not known"
            continue
        words = []
        if file.sha256 in first:
            words.append(f"same bytes as {first[file.sha256]}")
        if owners := elsewhere.get(file.sha256):
            words.append(
                "also in " + (owners[0] if len(owners) == 1 else plural(len(owners), "other entry", "other entries"))
            )
        first.setdefault(file.sha256, file.path)
        notes[file.path] = "; ".join(words)
    return notes
