"""The generated files: which entries go in, what their bytes are, and writing those that changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo.catalog import Catalog, Entry
from zoo.documents import write_atomically
from zoo.errors import UnknownEntry
from zoo.swift.catalog import catalog_json, make_catalog
from zoo.swift.runtime import runtime_files
from zoo.swift.source import Access, render_swift

PUBLIC_ENDPOINT = "https://huggingface.co"
"""Where the app fetches from unless told otherwise. Not HF_ENDPOINT: an app must not depend on who generated it."""


def chosen_entries(catalog: Catalog, ids: Sequence[str]) -> tuple[Entry, ...]:
    """The named entries, or every one that has a lock and is not hidden; always in picker order.

    Raises:
        UnknownEntry: an id that is not there, or no entry with a lock.
    """
    if ids:
        wanted = {catalog.get(entry).id for entry in ids}
        return tuple(entry for entry in catalog.entries if entry.id in wanted)
    chosen = tuple(
        entry for entry in catalog.entries if entry.manifest.visibility != "hidden" and entry.lock is not None
    )
    if not chosen:
        raise UnknownEntry(
            f"{catalog.directory}: no entry has a lock yet, so there is nothing to list",
            hint="`zoo push ENTRY` publishes a build and pins it; `zoo lock ENTRY --from DIR` reads a folder",
        )
    return chosen


def generate(
    entries: Iterable[Entry],
    *,
    endpoint: str | None,
    access: Access = "public",
    prefix: str = "Zoo",
    runtime: bool = True,
) -> dict[str, bytes]:
    """The generated files by name; the same locks give the same bytes.

    Args:
        entries: entries that have a lock, in picker order.
        endpoint: the Hub the app fetches from; None for the public one.
        access: access level of every declaration.
        prefix: what the types are called after.
        runtime: with the planner and the downloader.

    Raises:
        UnknownEntry, UsageError: as `make_catalog` and `render_swift`.
    """
    document = make_catalog(entries, endpoint=endpoint or PUBLIC_ENDPOINT)
    files = {
        f"{prefix}Catalog.swift": render_swift(document, access=access, prefix=prefix).encode(),
        "catalog.json": catalog_json(document),
    }
    return files | (runtime_files(access=access, prefix=prefix) if runtime else {})


def write_changed(directory: Path, files: dict[str, bytes], *, write: bool) -> list[str]:
    """Write the files whose bytes differ (with `write`), and return their names.

    Raises:
        DiskError: no space or no permission.
    """
    stale = [name for name, data in files.items() if _current(directory / name) != data]
    if write:
        for name in stale:
            write_atomically(directory / name, files[name])
    return stale


def _current(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
