"""The generated files: which entries go in, what their bytes are, and writing those that changed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo.catalog import Catalog, Entry
from zoo.documents import write_atomically
from zoo.errors import UnknownEntry
from zoo.swift.catalog import catalog_json, make_catalog
from zoo.swift.dropin import drop_in_models
from zoo.swift.dropin_source import render_drop_in
from zoo.swift.package import package_files
from zoo.swift.runtime import runtime_files
from zoo.swift.source import Access, render_swift

PUBLIC_ENDPOINT = "https://huggingface.co"
"""Where the app fetches from unless told otherwise. Not HF_ENDPOINT: an app must not depend on who generated it."""


EXCERPT_LINES = 20
EXCERPT_WIDTH = 160
"""How much of a difference `--check` shows of each file: enough to see what changed, whatever the file's size."""


def chosen_entries(catalog: Catalog, ids: Sequence[str], *, unlocked: bool = False) -> tuple[Entry, ...]:
    """The named entries, or every one that has a lock and is not hidden; always in picker order.

    Args:
        catalog: all entries.
        ids: the named ones; none for all.
        unlocked: without names, take those without a lock as well.

    Raises:
        UnknownEntry: an id that is not there, or no entry with a lock.
    """
    if ids:
        wanted = {catalog.get(entry).id for entry in ids}
        return tuple(entry for entry in catalog.entries if entry.id in wanted)
    chosen = tuple(
        entry
        for entry in catalog.entries
        if entry.manifest.visibility != "hidden" and (unlocked or entry.lock is not None)
    )
    if not chosen:
        raise UnknownEntry(
            f"{catalog.directory}: no entry has a lock yet, so there is nothing to list",
            hint="`zoo push ENTRY` publishes a build and pins it; `zoo lock ENTRY --from DIR` reads a folder",
        )
    return chosen


def left_out(catalog: Catalog, chosen: Iterable[Entry]) -> tuple[Entry, ...]:
    """The entries for the picker that are not among `chosen` because they have no lock, in picker order."""
    ids = {entry.id for entry in chosen}
    return tuple(
        entry
        for entry in catalog.entries
        if entry.id not in ids and entry.manifest.visibility != "hidden" and entry.lock is None
    )


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


def generate_package(
    entries: Iterable[Entry],
    *,
    endpoint: str | None,
    access: Access = "public",
    prefix: str = "Zoo",
    runtime: bool = True,
) -> dict[str, bytes]:
    """The files of a Swift package by path; arguments and errors as `generate`."""
    chosen = tuple(entries)
    sources = generate(chosen, endpoint=endpoint, access=access, prefix=prefix, runtime=runtime)
    document = make_catalog(chosen, endpoint=endpoint or PUBLIC_ENDPOINT)
    return package_files(document, sources, access=access, prefix=prefix)


def generate_drop_in(
    entries: Iterable[Entry], *, endpoint: str | None, access: Access = "public", prefix: str = "Zoo"
) -> dict[str, bytes]:
    """The lists for the app's own downloader, by file name; the same locks give the same bytes.

    Args:
        entries: in picker order; those without a lock are listed without files.
        endpoint: the Hub the app fetches from; None for the public one.
        access: access level of every declaration.
        prefix: what the namespace is called after.

    Raises:
        UsageError: as `drop_in_models` and `render_drop_in`.
    """
    models = drop_in_models(entries, endpoint=endpoint or PUBLIC_ENDPOINT)
    return {f"{prefix}DropIn.swift": render_drop_in(models, access=access, prefix=prefix).encode()}


def excerpt(path: Path, data: bytes, *, lines: int = EXCERPT_LINES) -> list[str]:
    """How the file at `path` differs from what it should be: the beginning of a unified diff.

    Args:
        path: the file as it lies there; one that is missing counts as empty.
        data: UTF-8 text, what it should be.
        lines: how many lines are shown; a further one says how many there are more.
    """
    current = (_current(path) or b"").decode("utf-8", errors="replace").splitlines()
    changed = list(
        difflib.unified_diff(current, data.decode().splitlines(), str(path), "as generated", n=1, lineterm="")
    )
    shown = [line if len(line) <= EXCERPT_WIDTH else f"{line[: EXCERPT_WIDTH - 3]}..." for line in changed[:lines]]
    more = len(changed) - lines
    return [*shown, f"... {more} more lines"] if more > 0 else shown


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
