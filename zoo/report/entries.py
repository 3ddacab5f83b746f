"""What `zoo ls` and `zoo show` say about entries, as data for programs and as text for people."""

from __future__ import annotations

from typing import Any

from zoo.catalog import Catalog, Entry, Part
from zoo.lock import Lock, LockedFile
from zoo.manifest import Manifest
from zoo.report.sizes import human_bytes
from zoo.report.text import columns, paint, plural

LockState = str
"""`pinned` (published at a commit), `unpublished` (digests, but nowhere to fetch from), `provisional`, `none`."""


def lock_state(lock: Lock | None) -> LockState:
    """How much is known about the bytes of an entry."""
    if lock is None:
        return "none"
    if lock.provisional:
        return "provisional"
    return "pinned" if all(file.published for file in lock.files) else "unpublished"


def shown_entries(catalog: Catalog, installed: dict[str, bool], *, hidden: bool = False) -> tuple[Entry, ...]:
    """What `zoo ls` lists, in picker order: hidden entries only if they are installed or asked for."""
    return tuple(
        entry
        for entry in catalog.entries
        if hidden or entry.manifest.visibility != "hidden" or installed.get(entry.id, False)
    )


def list_json(catalog: Catalog, installed: dict[str, bool], *, hidden: bool = False) -> dict[str, Any]:
    """`zoo ls --format json`."""
    return {
        "zoo": str(catalog.directory),
        "entries": [
            entry_summary(entry, installed.get(entry.id, False))
            for entry in shown_entries(catalog, installed, hidden=hidden)
        ],
    }


def entry_summary(entry: Entry, installed: bool) -> dict[str, Any]:
    """One entry in brief, for programs."""
    manifest = entry.manifest
    return {
        "id": entry.id,
        "name": manifest.name,
        "family": manifest.family,
        "folder": manifest.folder,
        "order": manifest.order,
        "visibility": manifest.visibility,
        "modalities": list(entry.modalities()),
        "license": manifest.license,
        "repo": manifest.hub.repo if manifest.hub else None,
        "archive": manifest.archive.url if manifest.archive else None,
        "blocked": {"ios": manifest.blocked.ios, "macos": manifest.blocked.macos},
        "lock": lock_state(entry.lock),
        "files": len(entry.lock.files) if entry.lock else None,
        "bytes": entry.lock.size if entry.lock else None,
        "unique_bytes": entry.lock.unique_size if entry.lock else None,
        "installed": installed,
    }


def list_text(catalog: Catalog, installed: dict[str, bool], *, hidden: bool = False) -> str:
    """`zoo ls` for people."""
    rows = []
    for entry in shown_entries(catalog, installed, hidden=hidden):
        lock = entry.lock
        rows.append(
            (
                entry.id,
                entry.manifest.name,
                "+".join(entry.modalities()),
                human_bytes(lock.size) if lock else "-",
                str(len(lock.files)) if lock else "-",
                lock_state(lock),
                ", ".join(remarks(entry, installed.get(entry.id, False))),
            )
        )
    header = ("ENTRY", "NAME", "INPUT", "SIZE", "FILES", "LOCK", "")
    note = f"{plural(len(rows), 'entry', 'entries')} in {catalog.directory}"
    if more := len(catalog.entries) - len(rows):
        note += f"; {more} hidden: zoo ls --all"
    return f"{columns(rows, header=header, align='<<<>><<')}\n\n{paint(note, 'dim')}"


def remarks(entry: Entry, installed: bool) -> list[str]:
    """What is special about an entry, a word or two each."""
    manifest = entry.manifest
    found = ["installed"] if installed else []
    if manifest.visibility != "default":
        found.append(manifest.visibility)
    return found + [f"not on {system}" for system, _ in blocks(manifest)]


def blocks(manifest: Manifest) -> list[tuple[str, str]]:
    """Systems that an entry is known not to run on, and why."""
    both = (("iOS", manifest.blocked.ios), ("macOS", manifest.blocked.macos))
    return [(system, reason) for system, reason in both if reason is not None]


def show_json(entry: Entry) -> dict[str, Any]:
    """`zoo show --format json`: the entry, its components and every file."""
    manifest = entry.manifest
    lock = entry.lock
    return {
        **entry_summary(entry, installed=False),
        "description": manifest.description,
        "environment": manifest.environment,
        "absent": list(manifest.absent),
        "minimum_os": {"ios": manifest.minimum_os.ios, "macos": manifest.minimum_os.macos},
        "checkpoint": manifest.checkpoint.repo if manifest.checkpoint else None,
        "revision": manifest.hub.revision if manifest.hub else None,
        "archive_bytes": lock.archive.size if lock and lock.archive else None,
        "archive_sha256": lock.archive.sha256 if lock and lock.archive else None,
        "components": [_part_json(entry, part, lock) for part in entry.parts],
    }


def _part_json(entry: Entry, part: Part, lock: Lock | None) -> dict[str, Any]:
    files = lock.of_components([part.name]) if lock else ()
    return {
        "name": part.name,
        "role": part.role,
        "modality": part.modality,
        "required": part.required,
        "origin": origin(entry, part),
        "recipe": part.recipe,
        "parameters": part.parameters,
        "model": part.model,
        "declared_files": list(part.files),
        "optional_files": list(part.optional),
        "bytes": sum(file.size for file in files) if lock else None,
        "files": [_file_json(file) for file in files],
    }


def _file_json(file: LockedFile) -> dict[str, Any]:
    described: dict[str, Any] = {"path": file.path, "bytes": file.size, "sha256": file.sha256, "xxh3": file.xxh3}
    return described if file.member is None else {**described, "member": file.member.name}


def origin(entry: Entry, part: Part) -> str:
    """Where a component's bytes come from: `recipe`, `prebuilt`, or `share ENTRY/COMPONENT`."""
    if part.origin_entry != entry.id:
        return f"share {part.origin_entry}/{part.origin_name}"
    return "recipe" if part.recipe else "prebuilt"


def show_text(entry: Entry, *, files: bool) -> str:
    """`zoo show` for people: identity, then components, then (with `files`) every file."""
    manifest = entry.manifest
    lock = entry.lock
    minimum = [
        f"{system} {version}"
        for system, version in (("iOS", manifest.minimum_os.ios), ("macOS", manifest.minimum_os.macos))
        if version
    ]
    facts = [
        ("entry", entry.id),
        ("name", manifest.name),
        ("about", manifest.description),
        ("input", ", ".join(entry.modalities())),
        ("folder", manifest.folder),
        ("family", manifest.family),
        ("shown", manifest.visibility),
        ("licence", manifest.license),
        ("needs", ", ".join(minimum) or "-"),
        ("made from", manifest.checkpoint.repo if manifest.checkpoint else "-"),
        ("published", _published(manifest)),
        ("lock", _lock_line(lock)),
    ]
    if lock is not None and lock.archive is not None:
        facts.append(("archive", f"{human_bytes(lock.archive.size)}, sha256 {lock.archive.sha256 or 'not known yet'}"))
    facts += [(f"not on {system}", reason) for system, reason in blocks(manifest)]
    if manifest.absent:
        facts.append(("must be absent", ", ".join(manifest.absent)))
    facts += [("environment", f"{key}={value}") for key, value in sorted(manifest.environment.items())]
    text = columns([(paint(key, "dim"), value) for key, value in facts])
    text += "\n\n" + _parts_table(entry, lock)
    if files and lock:
        text += "\n\n" + _files_table(lock)
    return text


def _published(manifest: Manifest) -> str:
    if manifest.hub is not None:
        return f"{manifest.hub.repo} @ {manifest.hub.revision}"
    return manifest.archive.url if manifest.archive else "not on the Hub; sideloaded"


def _lock_line(lock: Lock | None) -> str:
    state = lock_state(lock)
    if lock is None:
        return "none yet: `zoo push` or `zoo lock` makes one"
    if lock.provisional:
        state = f"provisional (no digests; `zoo lock {lock.entry} --from-hub` gets them)"
    size = human_bytes(lock.size)
    twice = lock.size - lock.unique_size
    saved = f", of which {human_bytes(twice)} are the same bytes twice" if twice else ""
    return f"{state}, {plural(len(lock.files), 'file')}, {size}{saved}"


def _parts_table(entry: Entry, lock: Lock | None) -> str:
    rows = []
    for part in entry.parts:
        files = lock.of_components([part.name]) if lock else ()
        rows.append(
            (
                part.name,
                part.role,
                part.modality,
                origin(entry, part) if part.origin_entry != entry.id else part.recipe or "prebuilt",
                str(len(files)) if lock else "-",
                human_bytes(sum(file.size for file in files)) if lock else "-",
                "" if part.required else "optional",
            )
        )
    header = ("COMPONENT", "ROLE", "INPUT", "FROM", "FILES", "SIZE", "")
    return columns(rows, header=header, align="<<<<>><")


def _files_table(lock: Lock) -> str:
    rows = [(file.path, f"{file.size:,}", (file.sha256 or "not known yet")[:16]) for file in lock.files]
    return columns(rows, header=("FILE", "BYTES", "SHA-256"), align="<><")
