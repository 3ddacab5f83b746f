"""Reads everything a pull plan is made from: lock, selection, folder, and what else lies on this disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.catalog import Catalog, Entry
from zoo.digests import DigestCache
from zoo.errors import UnknownEntry, UsageError
from zoo.events import Progress
from zoo.folder import FolderState, read_state
from zoo.lock import Lock
from zoo.manifest import manifest_digest
from zoo.plan.pull import PullPlan, PullRequest, plan_pull
from zoo.receipt import Receipt, load_receipt
from zoo.selection import Selection, select
from zoo.transfer.reuse import Provider, find_candidates, wanted_contents


@dataclass(frozen=True)
class Prepared:
    """A plan, and remarks about how it came to be."""

    plan: PullPlan
    remarks: tuple[str, ...]


def published_lock(entry: Entry) -> Lock:
    """The lock of an entry.

    Raises:
        UnknownEntry: it has none yet.
    """
    lock = entry.lock
    if lock is None:
        raise UnknownEntry(
            f"{entry.id}: no lock at {entry.lock_file}, so nothing says which bytes it consists of",
            hint=entry.how_to_lock,
        )
    return lock


def pull_request(
    catalog: Catalog, entry: Entry, selection: Selection | None, receipt: Receipt
) -> tuple[PullRequest, tuple[str, ...]]:
    """What is wanted, and remarks about it.

    Args:
        catalog: all entries.
        entry: the one to pull.
        selection: what was asked for; None keeps the selection it is installed with.
        receipt: of the folder it goes to.

    Raises:
        UnknownEntry: no lock, or a name of the selection is unknown.
        UsageError: the selection leaves nothing.
    """
    lock = published_lock(entry)
    remarks = []
    if selection is None:
        installed = receipt.entries.get(entry.id)
        selection = Selection(installed.only, installed.without) if installed is not None else Selection()
        if not selection.everything:
            remarks.append(f"{entry.id} stays as it is installed: {words(selection)} (--all for everything)")
    if lock.manifest != manifest_digest(entry.manifest):
        remarks.append(f"the manifest of {entry.id} changed after its lock was taken; see `zoo lock {entry.id}`")
    files = lock.files
    if not selection.everything:
        files = lock.of_components(part.name for part in select(entry, selection))
        if not files:
            raise UsageError(f"{entry.id}: {words(selection)} leaves no file", hint=f"see `zoo show {entry.id}`")
    others = {
        other.id: other.lock
        for other in catalog.in_folder(entry.manifest.folder)
        if other.id != entry.id and other.lock is not None
    }
    absent_for = {other.id: other.manifest.absent for other in catalog.entries if other.id in receipt.entries}
    request = PullRequest(entry.id, lock, files, selection, others, entry.manifest.absent, absent_for)
    return request, tuple(remarks)


def wanted_paths(catalog: Catalog, entry: Entry, selection: Selection | None, folder: Path) -> list[str]:
    """The paths that a pull of `entry` will want in `folder`.

    Raises:
        ZooError: as `pull_request`, or a damaged receipt.
    """
    request, _ = pull_request(catalog, entry, selection, load_receipt(folder))
    return [file.path for file in request.files]


def words(selection: Selection) -> str:
    """The selection as it is typed."""
    return " ".join(
        [*(f"--only {name}" for name in selection.only), *(f"--without {name}" for name in selection.without)]
    )


def prepare_pull(
    catalog: Catalog,
    entry: Entry,
    folder: Path,
    *,
    selection: Selection | None,
    providers: Sequence[Provider] = (),
    cache: DigestCache | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Look at everything and decide.

    Raises:
        ZooError: as `pull_request`, `read_state` and `plan_pull`.
    """
    request, remarks = pull_request(catalog, entry, selection, load_receipt(folder))
    prepared = prepare_request(request, folder, providers=providers, cache=cache, progress=progress)
    return Prepared(prepared.plan, (*remarks, *prepared.remarks))


def prepare_request(
    request: PullRequest,
    folder: Path,
    *,
    providers: Sequence[Provider] = (),
    cache: DigestCache | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Look at the folder and the rest of this disk and decide how a request is met.

    Raises:
        ZooError: as `read_state` and `plan_pull`.
    """
    state = read_state(folder, request.files, cache=cache, progress=progress)
    findings = find_candidates(_missing(request, state), providers, cache=cache, progress=progress)
    return Prepared(plan_pull(request, state, findings.found), findings.notes)


def _missing(request: PullRequest, state: FolderState) -> dict[str, int]:
    """Contents that are nowhere in the folder, and the archive if it has some of them."""
    present = {file.sha256 for file in state.files.values()}
    missing = {sha256: size for sha256, size in wanted_contents(request.files).items() if sha256 not in present}
    archive = request.lock.archive
    packed = any(file.member is not None for file in request.files if file.sha256 in missing)
    if packed and archive is not None and archive.sha256 is not None:
        missing[archive.sha256] = archive.size
    return missing
