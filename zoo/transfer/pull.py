"""Carries a pull plan out: every byte is verified beside the folder before anything in the folder changes.

1. *Gather*: fetch into `.zoo/partial/`, several files at once, largest first. Nothing in the folder changes; a kill
   at any moment loses nothing that arrived.
2. *Stage*: put everything that is new under `.zoo/staging/` by renames and links.
3. *Commit*: move it into place. A model folder comes whole, by one rename or exchange.
4. Write the receipt, then delete what the plan deletes; a removal that is cut short here is finished by the next
   command (`zoo.transfer.remove`).
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.digests import DigestCache, Digests, hash_file, hash_files
from zoo.errors import DigestMismatch, DiskError, ZooError
from zoo.events import Progress, Silent
from zoo.folder import (
    PARTIAL_SUFFIXES,
    arrived_bytes,
    check_space,
    check_state_directory,
    list_folder,
    partial_directory,
    place_in,
    staging_directory,
)
from zoo.links import MINIMUM_HARDLINK_BYTES, LinkMode, place
from zoo.lock import LockedFile, is_weight
from zoo.plan.actions import Keep, Link
from zoo.plan.archive import ArchivePlan, archive_partials
from zoo.plan.pull import PullPlan, partial_name, receipt_after
from zoo.receipt import load_receipt, save_receipt
from zoo.transfer.archive import ArchiveSource, PartFetcher, forget
from zoo.transfer.committing import commit_staged, flush, keep_installed
from zoo.transfer.http import Fetcher, Stopped
from zoo.transfer.remove import delete_noted, note_removal

DEFAULT_JOBS = 4
"""Files at once: enough to hide the latency of one connection, few enough for the Hub's limits."""


@dataclass
class PullResult:
    """What was done.

    Attributes:
        received: bytes that travelled, repeated ones included.
        resumed: bytes of interrupted fetches that did not have to travel again.
        fetched: files that were fetched.
        linked: how many files were linked, by kind, and their bytes.
        kept, kept_bytes: files that were right already.
        deleted: paths that are gone.
        notes: what did not go as planned.
        seconds: wall time of everything.
        fetch_seconds: wall time of the part in which bytes travel.
    """

    received: int = 0
    resumed: int = 0
    fetched: list[str] = field(default_factory=list)
    fetched_bytes: int = 0
    linked: Counter[str] = field(default_factory=Counter)
    linked_bytes: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    kept_bytes: int = 0
    deleted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    fetch_seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For programs; see docs/pull.md."""
        return {
            "received_bytes": self.received,
            "resumed_bytes": self.resumed,
            "fetched": {"count": len(self.fetched), "bytes": self.fetched_bytes},
            "linked": {
                kind: {"count": n, "bytes": self.linked_bytes[kind]} for kind, n in sorted(self.linked.items())
            },
            "kept": {"count": self.kept, "bytes": self.kept_bytes},
            "deleted": {"count": len(self.deleted)},
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
            "fetch_seconds": round(self.fetch_seconds, 3),
        }


@dataclass
class _Work:
    """One pull under way."""

    plan: PullPlan
    folder: Path
    fetcher: Fetcher
    archives: PartFetcher | None
    stop: threading.Event
    cache: DigestCache | None
    progress: Progress
    link: LinkMode
    jobs: int
    result: PullResult = field(default_factory=PullResult)
    digests: dict[str, Digests] = field(default_factory=dict)
    origins: dict[str, Path] = field(default_factory=dict)
    guard: threading.Lock = field(default_factory=threading.Lock)
    archive: ArchiveSource | None = None

    def unpacks(self, file: LockedFile) -> ArchiveSource | None:
        """What a file is unpacked from; None if it is fetched by itself."""
        archive = self.plan.request.lock.archive
        if file.member is None or file.sources or archive is None or self.archives is None:
            return None
        with self.guard:
            if self.archive is None:
                self.archive = ArchiveSource(
                    self.plan.archive or ArchivePlan(archive, "members"),
                    partial_directory(self.folder),
                    fetcher=self.archives,
                    stop=self.stop,
                    cache=self.cache,
                    progress=self.progress,
                )
            return self.archive

    def staged(self, path: str) -> Path:
        return staging_directory(self.folder) / path

    def partial(self, file: LockedFile) -> Path:
        return partial_directory(self.folder) / partial_name(file)


def carry_out(
    plan: PullPlan,
    folder: Path,
    *,
    fetcher: Fetcher,
    archives: PartFetcher | None = None,
    stop: threading.Event | None = None,
    cache: DigestCache | None = None,
    progress: Progress | None = None,
    link: LinkMode = "auto",
    jobs: int = DEFAULT_JOBS,
) -> PullResult:
    """Do what the plan says. The caller holds the folder's lock and has made the plan under it.

    Args:
        plan: what to do.
        folder: the installed folder; made if missing.
        fetcher: brings bytes.
        archives: brings archives, for a lock that has one.
        stop: the event that makes `fetcher` stop; set when one fetch has failed.
        cache: remembered digests.
        progress: told about every file.
        link: how files that are on this disk are put in place.
        jobs: files at once.

    Raises:
        HubError, DigestMismatch: a file could not be had; nothing in the folder has changed, what arrived is kept.
        DiskError: no space or no permission.
        UnsafePath: a path leads out of the folder.
    """
    begin = time.monotonic()
    stop, progress = stop or threading.Event(), progress or Silent()
    work = _Work(plan, folder, fetcher, archives, stop, cache, progress, link, max(1, jobs))
    targets = {action.path: place_in(folder, action.path) for action in plan.actions if action.kind != "delete"}
    try:
        check_state_directory(folder)
        check_space(folder, needed_bytes(plan, folder, link))
        partial_directory(folder).mkdir(parents=True, exist_ok=True)
        _gather(work)
        work.result.fetch_seconds = time.monotonic() - begin
        check_state_directory(folder)  # again, for fetching takes long
        _stage(work)
        _commit(work, targets)
        _finish(work)
    except OSError as error:
        raise DiskError(f"{error.filename2 or error.filename or folder}: {error.strerror or error}") from None
    work.result.seconds = time.monotonic() - begin
    return work.result


def needed_bytes(plan: PullPlan, folder: Path, link: LinkMode) -> int:
    """Bytes the plan adds to the disk at its peak: what travels or is unpacked, and links that may be copies."""
    unpacked = sum(action.size for action in plan.extracts)
    return plan.bytes_to_move + unpacked + sum(_copied_bytes(action, folder, link) for action in plan.links)


def _copied_bytes(action: Link, folder: Path, link: LinkMode) -> int:
    if link in ("clone", "hardlink"):
        return 0
    if link == "auto" and is_weight(action.path) and action.size >= MINIMUM_HARDLINK_BYTES:
        if action.inside:
            return 0
        with suppress(OSError):
            return 0 if Path(action.origin).stat().st_dev == _existing(folder).stat().st_dev else action.size
    return action.size


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


# 1. Gather


def _gather(work: _Work) -> None:
    """Prove the origins of links, fetch the rest; several at once, largest first."""
    outside = [action for action in work.plan.links if not action.inside]
    usable = [action for action in outside if _prove(work, action)]
    orders = [(action.file, action.reason) for action in work.plan.fetches]
    orders += [(action.file, action.reason) for action in work.plan.extracts]
    wanted = {file.path: file for file in work.plan.request.files}
    orders += [(wanted[action.path], "origin gone") for action in outside if action not in usable]
    orders.sort(key=lambda order: -order[0].size)
    over = threading.Event()
    with ThreadPoolExecutor(max_workers=work.jobs, thread_name_prefix="zoo-fetch") as pool:
        futures = [pool.submit(_fetch, work, file) for file, _ in orders]
        # Their turn comes when no file waits any more: a thread that has nothing to fetch helps one that has.
        helpers = [pool.submit(work.fetcher.help, over) for _ in range(work.jobs - 1) if futures]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            _raise_first(work, futures)
            over.set()
            wait(helpers)
            _raise_first(work, helpers)
        except BaseException:
            # Ctrl-C too: the others end after the piece they are at, and keep what they have.
            work.stop.set()
            over.set()
            for future in (*futures, *helpers):
                future.cancel()
            raise


def _raise_first(work: _Work, futures: list[Future[None]]) -> None:
    failed = [future for future in futures if future.done() and future.exception() is not None]
    if not failed:
        return
    work.stop.set()
    errors = [error for future in failed if (error := future.exception()) is not None]
    raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])


def _prove(work: _Work, action: Link) -> bool:
    """Whether the origin still has the bytes it had when the plan was made."""
    origin = Path(action.origin) if not action.inside else place_in(work.folder, action.origin)
    try:
        found = hash_files([origin], cache=work.cache)[origin]
    except ZooError:
        found = None
    if found is None or found.sha256 != action.sha256:
        work.result.notes.append(f"{origin} changed meanwhile; {action.path} is fetched instead")
        return False
    work.digests[action.path] = found
    work.origins[action.path] = origin
    return True


def _fetch(work: _Work, file: LockedFile) -> None:
    target = work.partial(file)
    whole = _arrived_before(work, target, file)
    if whole is not None:
        received, resumed, digests = 0, file.size, whole
    else:
        archive = work.unpacks(file)
        fetched = archive.fetch(file, target) if archive else work.fetcher.fetch(file, target, work.progress)
        received, resumed, digests = fetched.received, fetched.resumed, fetched.digests
        if work.cache is not None:
            work.cache.trust(target, digests)
    with work.guard:
        work.digests[file.path] = digests
        work.result.received += received
        work.result.resumed += resumed
        work.result.fetched.append(file.path)
        work.result.fetched_bytes += file.size


def _arrived_before(work: _Work, target: Path, file: LockedFile) -> Digests | None:
    """The digests of what an earlier pull brought whole but did not get to put in place."""
    if file.sha256 is None or not target.is_file() or arrived_bytes(target) != file.size:
        return None
    digests = hash_files([target], cache=work.cache)[target]
    if digests.sha256 != file.sha256:
        return None
    flush(target)
    return digests


# 2. Stage


def _stage(work: _Work) -> None:
    """Put everything new under `.zoo/staging/`; nothing in the folder changes yet."""
    shutil.rmtree(staging_directory(work.folder), ignore_errors=True)
    fetched = set(work.result.fetched)
    for file in work.plan.request.files:
        if file.path in fetched:
            staged = work.staged(file.path)
            staged.parent.mkdir(parents=True, exist_ok=True)
            work.partial(file).replace(staged)
            work.origins[file.path] = staged
    for action in work.plan.links:
        if action.path not in fetched:
            _stage_link(work, action)
    kept = [action for action in work.plan.actions if isinstance(action, Keep)]
    work.result.kept = len(kept)
    work.result.kept_bytes = sum(action.size for action in kept)


def _stage_link(work: _Work, action: Link) -> None:
    # The file at the origin may itself be about to be replaced; then what lies there now is meant.
    arrived = work.digests.get(action.origin) if action.inside else None
    if arrived is not None and arrived.sha256 == action.sha256:
        origin = work.origins[action.origin]
        digests = work.digests[action.origin]
    elif action.path in work.origins or _prove(work, action):
        origin, digests = work.origins[action.path], work.digests[action.path]
    else:
        raise DigestMismatch(
            f"{action.origin}: changed while {action.path} was to be linked to it",
            hint="run the same command again",
        )
    staged = work.staged(action.path)
    staged.parent.mkdir(parents=True, exist_ok=True)
    work.progress.start(action.path, action.size)
    kind = place(origin, staged, mode=work.link, bulk=is_weight(action.path))
    if kind == "copy":
        copied = hash_file(staged)
        if copied.sha256 != action.sha256:
            raise DigestMismatch(
                f"{action.path}: the copy of {origin} differs: expected sha256 {action.sha256}, found {copied.sha256}",
                hint="the disk may be failing; run the same command again",
            )
        flush(staged)
    if work.cache is not None:
        work.cache.trust(staged, digests)
    work.origins[action.path] = staged
    work.digests[action.path] = digests
    work.result.linked[kind] += 1
    work.result.linked_bytes[kind] += action.size
    work.progress.advance(action.path, action.size)
    work.progress.finish(action.path, {"clone": "cloned", "hardlink": "linked", "copy": "copied"}[kind])


# 3. Commit, receipt, delete


def _commit(work: _Work, targets: Mapping[str, Path]) -> None:
    """Put everything in place. The receipt is true at any moment: what it drops goes after it, what it adds before."""
    deletes = work.plan.deletes
    commit_staged(work.folder, targets, [action.path for action in deletes])
    if deletes:
        note_removal(work.folder, (), deletes)
    _write_receipt(work)
    if deletes:
        work.result.deleted = delete_noted(work.folder, [action.path for action in deletes])


def _write_receipt(work: _Work) -> None:
    xxh3 = {path: digests.xxh3 for path, digests in work.digests.items()}
    receipt = load_receipt(work.folder)
    after = receipt_after(work.plan, receipt, xxh3 | _known_xxh3(work))
    if after != receipt:
        save_receipt(work.folder, after)


# 4. Clean up


def _finish(work: _Work) -> None:
    shutil.rmtree(staging_directory(work.folder), ignore_errors=True)
    directory = partial_directory(work.folder)
    for name in work.plan.unused_partials:
        (directory / name).unlink(missing_ok=True)
    if work.archive is not None or work.plan.request.selection.everything:
        for name in archive_partials(work.plan.request.lock):
            forget(directory / name)
    done = {partial_name(action.file) for action in work.plan.fetches}
    for name in done.union(work.plan.unused_partials):
        for suffix in PARTIAL_SUFFIXES:
            (directory / (name + suffix)).unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()


def _known_xxh3(work: _Work) -> dict[str, str]:
    kept = {
        place_in(work.folder, action.path): action.path for action in work.plan.actions if isinstance(action, Keep)
    }
    if work.cache is None:
        return {}
    return {path: known.xxh3 for place, path in kept.items() if (known := work.cache.get(place)) is not None}


def recover_staging(folder: Path, cache: DigestCache | None = None) -> int:
    """Put back what a killed pull had staged, so that it counts as arrived; returns how many files.

    The caller holds the folder's lock.
    """
    check_state_directory(folder)
    staging, partial = staging_directory(folder), partial_directory(folder)
    files, _ = list_folder(staging)
    places = keep_installed(folder, {path: staging / path for path, file in files.items() if file.regular})
    if not places:
        shutil.rmtree(staging, ignore_errors=True)
        return 0
    partial.mkdir(parents=True, exist_ok=True)
    count = 0
    for found, digests in hash_files(places, cache=cache).items():
        found.replace(partial / digests.sha256)
        count += 1
    shutil.rmtree(staging, ignore_errors=True)
    return count
