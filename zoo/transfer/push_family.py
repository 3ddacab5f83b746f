"""Publishing several entries: one look at everything, one plan, then entry by entry, each complete before the next.

An entry's turn ends with its lock. Whatever stops the run leaves the entries before it published and pinned, and the
next run finds them so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.catalog import Catalog, Entry
from zoo.digests import DigestCache
from zoo.errors import Conflict, DiskError
from zoo.events import Progress, Silent
from zoo.lock import Lock
from zoo.plan.actions import Delete, travelling_bytes
from zoo.plan.push import Wanted, copy_candidates, plan_push
from zoo.plan.push_family import Member, Step, plan_family, waits_for
from zoo.plan.remote import SAMPLE_BYTES, Listing, git_object_id, is_large
from zoo.report.sizes import human_bytes
from zoo.transfer.hub import HubClient
from zoo.transfer.push import Pushed, additions_of, execute, verify
from zoo.transfer.push_look import Prepared, PushOptions, look, prepare, read_local, with_git_id


@dataclass(frozen=True, slots=True)
class Build:
    """A build that is to be published: whose it is, its lock, where it lies, and what was asked for."""

    entry: Entry
    lock: Lock
    folder: Path
    options: PushOptions


@dataclass(frozen=True, slots=True)
class FamilyMember:
    """One entry's part of a family's push; `prepared.plan` is as planned together."""

    entry: Entry
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one entry: the push as it was carried out, and its outcome."""

    prepared: Prepared
    pushed: Pushed


def prepare_family(client: HubClient, catalog: Catalog, builds: Sequence[Build]) -> tuple[FamilyMember, ...]:
    """Look at every repo, and plan all pushes together.

    Args:
        client: the Hub.
        catalog: the zoo.
        builds: what is to be published, each entry once.

    Returns:
        The entries in the order in which they are to be published.

    Raises:
        InvalidDocument: a build is not complete, or two entries want one place for different content.
        HubError, DigestMismatch, Conflict, DiskError: as for `prepare`.
    """
    looked = {
        build.entry.id: prepare(client, catalog, build.entry, build.lock, build.folder, build.options)
        for build in builds
    }
    entries = {build.entry.id: build.entry for build in builds}
    looked = {name: _ready_to_share(client, name, looked) for name in looked}
    targets = tuple(prepared.target for prepared in looked.values() if prepared.target.commit is not None)
    steps = plan_family(_member(name, prepared) for name, prepared in looked.items())
    return tuple(FamilyMember(entries[step.entry], _planned(looked[step.entry], step, targets)) for step in steps)


def _member(name: str, prepared: Prepared) -> Member:
    return Member(
        entry=name,
        wanted=prepared.wanted,
        target=prepared.target,
        siblings=prepared.others,
        branch=prepared.options.branch,
        delete=prepared.options.delete,
        protected=prepared.protected,
        page=frozenset(prepared.generated),
        copy=prepared.options.copy,
        moves=not prepared.options.pull_request,
        new_branch=prepared.new_branch,
    )


def _ready_to_share(client: HubClient, name: str, looked: Mapping[str, Prepared]) -> Prepared:
    """The push with what others need to know about it: which files will be large, what the Hub can copy from here."""
    prepared = looked[name]
    others = [other for key, other in looked.items() if key != name]
    elsewhere = {file.sha256 for other in others for file in other.wanted}
    same_branch = any(
        (other.options.repo, other.options.branch) == (prepared.options.repo, prepared.options.branch)
        for other in others
    )
    wanted = tuple(
        _described(file, git_id=same_branch) if file.sha256 in elsewhere else file for file in prepared.wanted
    )
    target = prepared.target
    for other in others:
        missing = copy_candidates(other.wanted, other.target, target)
        target = client.with_xet_hashes(target, missing) if missing else target
    return replace(prepared, wanted=wanted, target=target)


def _described(file: Wanted, *, git_id: bool) -> Wanted:
    """The file with what the Hub will make of it; only the beginnings of small files are read."""
    large = is_large(file.path, file.size, b"")
    if not large and file.local is not None:
        large = is_large(file.path, file.size, _sample(file.local))
        if git_id and not large and file.git_sha1 is None:
            return replace(file, git_sha1=git_object_id(read_local(file.local)))
    return replace(file, large=large)


def _sample(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(SAMPLE_BYTES)
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from None


def _planned(prepared: Prepared, step: Step, targets: tuple[Listing, ...]) -> Prepared:
    kept = {file.path for file in step.wanted}
    left_out = sorted(set(prepared.generated) - kept)
    notes = list(prepared.notes)
    if left_out:
        notes.append(f"{', '.join(left_out)}: another entry on this branch writes them")
    known = {(listing.repo, listing.commit) for listing in (prepared.target, *prepared.others)}
    more = [listing for listing in targets if (listing.repo, listing.commit) not in known]
    return replace(
        prepared,
        plan=step.plan,
        wanted=step.wanted,
        generated={path: content for path, content in prepared.generated.items() if path in kept},
        protected=step.protected,
        others=(*prepared.others, *more),
        notes=tuple(notes),
    )


def check_builds(
    family: Sequence[FamilyMember], *, cache: DigestCache | None = None, progress: Progress | None = None
) -> None:
    """Compare everything that will be sent with the locks, before the first entry is touched.

    Raises:
        DigestMismatch: naming the file that is something else.
        DiskError: a file cannot be read.
    """
    additions = [addition for member in family for addition in additions_of(member.prepared)]
    verify(additions, cache, progress or Silent())


def execute_next(
    client: HubClient,
    family: Sequence[FamilyMember],
    done: Sequence[Done],
    *,
    cache: DigestCache | None = None,
    progress: Progress | None = None,
) -> Done:
    """Publish the next entry and pin its lock.

    Args:
        client: the Hub.
        family: what `prepare_family` returned.
        done: what this function returned for the entries before, in order.
        cache: remembered digests.
        progress: receives progress.

    Raises:
        ZooError: as `execute`. The entries that are done stay published and pinned.
    """
    member = family[len(done)]
    prepared = _replanned(client, member.prepared, done)
    more = travelling_bytes(prepared.plan.actions) - travelling_bytes(member.prepared.plan.actions)
    if more > 0:
        client.progress.say(
            f"{member.entry.id}: {human_bytes(more)} more to send than planned: the Hub cannot copy them"
        )
    return Done(prepared, execute(client, prepared, entry=member.entry, cache=cache, progress=progress))


def execute_family(
    client: HubClient,
    family: Sequence[FamilyMember],
    *,
    cache: DigestCache | None = None,
    progress: Progress | None = None,
) -> tuple[Done, ...]:
    """Publish all entries. What raises leaves the ones before published and pinned."""
    check_builds(family, cache=cache, progress=progress)
    done: list[Done] = []
    while len(done) < len(family):
        done.append(execute_next(client, family, done, cache=cache, progress=progress))
    return tuple(done)


def _replanned(client: HubClient, prepared: Prepared, done: Sequence[Done]) -> Prepared:
    """The push for what the entries before it have become: real commits instead of promised ones."""
    options = prepared.options
    awaited = waits_for(prepared.plan)
    made_repo = any(before.prepared.options.repo == options.repo for before in done)
    if not awaited and not (made_repo and prepared.target.commit is None):
        return prepared
    target, new_branch = prepared.target, prepared.new_branch
    made = []
    for before in done:
        there = before.prepared.options
        same_branch = (there.repo, there.branch) == (options.repo, options.branch) and not options.pull_request
        if before.prepared.lock.entry not in awaited and not same_branch:
            continue
        listing = client.listing(there.repo, before.pushed.commit)
        if same_branch:
            target, new_branch = listing, False
        else:
            missing = copy_candidates(prepared.wanted, target, listing)
            made.append(client.with_xet_hashes(listing, missing) if missing else listing)
    if target.commit is None and made_repo:
        target, new_branch = look(client, options)
    wanted = tuple(with_git_id(file, target) for file in prepared.wanted)
    others = (*prepared.others, *made)
    plan = plan_push(
        wanted,
        target,
        others if options.copy else (),
        branch=options.branch,
        delete=options.delete,
        protected=prepared.protected,
        new_branch=new_branch,
    )
    now = replace(prepared, plan=plan, target=target, wanted=wanted, others=others)
    _check_deletions(prepared, now)
    return now


def _check_deletions(planned: Prepared, now: Prepared) -> None:
    """Nothing is deleted that was not shown."""
    before, after = (
        {action.path for action in prepared.plan.actions if isinstance(action, Delete)} for prepared in (planned, now)
    )
    if after - before:
        raise Conflict(
            f"{now.options.repo}: {min(after - before)} was not there when the push was planned",
            hint="run the same command again",
        )
