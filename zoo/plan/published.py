"""What the locks of a zoo say is on the Hub, and what is still to be published. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zoo.catalog import Entry, Part
from zoo.lock import LockedFile
from zoo.plan.sharing import Held, Holder


@dataclass(frozen=True, slots=True)
class Unpublished:
    """What the Hub does not have of an entry yet.

    Attributes:
        entry: its id.
        files: how many files have a digest and no place on the Hub.
        size: their distinct bytes.
        copied: of those, what the Hub has in another repo: a push copies it there and sends nothing.
    """

    entry: str
    files: int
    size: int
    copied: int


def kind_of(part: Part) -> str:
    """What a map colours a component by: its modality; text models and their tables apart."""
    if part.modality != "text":
        return part.modality
    if part.role in ("decoder", "prefill"):
        return "decoder"
    return "embeddings" if part.role == "embeddings" else "other"


def hub_holders(entries: Iterable[Entry]) -> tuple[Holder, ...]:
    """The entries that have files on the Hub, as far as their locks know.

    Files of a provisional lock count as published if their entry has a repo; their digests are not known.

    Raises:
        InvalidDocument, UnsafePath: a damaged lock.
    """
    holders = []
    for entry in entries:
        parts = {part.name: (part, kind_of(part)) for part in entry.parts}
        files = [held for file in entry.lock.files if (held := _held(entry, parts, file))] if entry.lock else []
        if files:
            holders.append(Holder(entry.id, entry.manifest.family, tuple(files)))
    return tuple(holders)


def _held(entry: Entry, parts: Mapping[str, tuple[Part, str]], file: LockedFile) -> Held | None:
    hub = entry.manifest.hub
    part, kind = parts.get(file.component, (None, "other"))
    if file.sources:
        source = file.sources[0]
        for other in file.sources:
            if hub is not None and other.repo == hub.repo:
                source = other
                break
        repo, path = source.repo, source.path
    elif file.sha256 is None and hub is not None:
        repo, path = hub.repo, part.remote_path(file.path) if part else file.path
    else:
        return None
    return Held(
        path=file.path,
        size=file.size,
        sha256=file.sha256,
        label=file.component,
        kind=kind,
        # A path that changed between two commits is stored once for each of its contents.
        place=(repo, path, file.sha256),
    )


def unpublished(entries: Sequence[Entry]) -> tuple[Unpublished, ...]:
    """What a push of each entry would have to bring to the Hub, entries in order; complete ones are left out.

    Raises:
        InvalidDocument, UnsafePath: a damaged lock.
    """
    on_the_hub = {
        file.sha256 for entry in entries if entry.lock for file in entry.lock.files if file.sources and file.sha256
    }
    found = []
    for entry in entries:
        files = [file for file in entry.lock.files if file.sha256 and not file.published] if entry.lock else []
        if files:
            sizes = {file.sha256: file.size for file in files}
            copied = sum(size for sha256, size in sizes.items() if sha256 in on_the_hub)
            found.append(Unpublished(entry.id, len(files), sum(sizes.values()), copied))
    return tuple(found)
