"""What a pull must be asked for so that broken files become what they were when they were installed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from zoo.lock import LOCK_SCHEMA, Lock, LockedFile, Member, Source
from zoo.plan.archive import find_members
from zoo.plan.pull import PullRequest
from zoo.plan.verify import Expected, Verdict

NO_MANIFEST = "0" * 64
"""Stands in for a manifest's digest: the list of files comes from receipts, not from one manifest."""

NO_COMPONENT = "installed"


def repair_request(
    verdicts: Sequence[Verdict], expected: Mapping[str, Iterable[Expected]], locks: Iterable[Lock]
) -> PullRequest | None:
    """One request for everything that is broken in a folder; None if nothing is.

    Args:
        verdicts: of entries in one folder.
        expected: the files each of them should have.
        locks: where bytes can be had: any lock that has the digest will do.
    """
    bad = [verdict.name for verdict in verdicts if verdict.wrong]
    if not bad:
        return None
    held = tuple(locks)
    sources = _sources(held)
    # Of several archives one must do; nobody installs two such entries into one folder.
    archive, members = find_members(held, (file.sha256 for entry in bad for file in expected[entry]))
    files: dict[str, LockedFile] = {}
    for entry in bad:
        for file in expected[entry]:
            known = files.get(file.path)
            if known is None or known.sha256 is None:
                files[file.path] = _locked(file, sources, members)
    name = " and ".join(bad)
    listed = tuple(file for _, file in sorted(files.items()))
    lock = Lock(schema=LOCK_SCHEMA, entry=name, manifest=NO_MANIFEST, files=listed, archive=archive)
    return PullRequest(name, lock, listed, repairs=True)


def _sources(locks: Iterable[Lock]) -> dict[str, tuple[Source, ...]]:
    found: dict[str, dict[Source, None]] = {}
    for lock in locks:
        for file in lock.files:
            if file.sha256 is not None:
                found.setdefault(file.sha256, {}).update(dict.fromkeys(file.sources))
    return {sha256: tuple(places) for sha256, places in found.items()}


def _locked(file: Expected, sources: Mapping[str, tuple[Source, ...]], members: Mapping[str, Member]) -> LockedFile:
    own = file.sources if isinstance(file, LockedFile) else ()
    others = sources.get(file.sha256, ()) if file.sha256 is not None else ()
    return LockedFile(
        path=file.path,
        component=file.component if isinstance(file, LockedFile) else NO_COMPONENT,
        size=file.size,
        sha256=file.sha256,
        xxh3=file.xxh3,
        sources=tuple(dict.fromkeys((*own, *others))),
        member=members.get(file.sha256 or ""),
    )
