"""Publishing a build: look, plan, verify, upload, one commit, read back, pin.

Safe to repeat at any point. Content that arrived is not sent again, a commit whose answer was lost is recognised by
what it made, and the lock is written last, from what the Hub says it has.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.catalog import Catalog, Entry
from zoo.digests import DigestCache, hash_files
from zoo.errors import Conflict, DigestMismatch, DiskError, HubError, InvalidDocument
from zoo.events import Progress, Silent
from zoo.lock import Lock, save_lock
from zoo.plan.actions import Delete, ServerCopy, Upload
from zoo.plan.lock import difference, pinned, remote_paths
from zoo.plan.push import (
    PushPlan,
    Wanted,
    copy_candidates,
    plan_push,
    same_content,
    sibling_places,
    wanted_files,
)
from zoo.plan.remote import Listing, git_object_id
from zoo.report.card import CARD, NOTICE, generated_files, written_by_zoo
from zoo.transfer.hub import RETRY_WAITS, Addition, Committed, Copy, HubClient, exists
from zoo.transfer.hub_errors import RevisionMissing, TransientHubError

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

DEFAULT_BRANCH = "main"


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What a person may ask of a push.

    Attributes:
        repo: `namespace/name`.
        branch: the branch, or what the pull request is for.
        pull_request: open a pull request instead of moving the branch.
        private: make a new repo private; None for the namespace's default.
        delete: delete files of the repo that no lock knows.
        overwrite_card: replace a README and NOTICE that were written by hand.
        copy_from: repos to copy from besides those that the zoo's locks name.
        copy: let the Hub copy from other repos.
        message: first line of the commit; None for a usual one.
    """

    repo: str
    branch: str = DEFAULT_BRANCH
    pull_request: bool = False
    private: bool | None = None
    delete: bool = False
    overwrite_card: bool = False
    copy_from: tuple[str, ...] = ()
    copy: bool = True
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A push that was planned and not begun.

    Attributes:
        plan: what will be done.
        options: what was asked for.
        lock: the build's lock.
        wanted: what the repo is to have.
        generated: content of wanted files that are not on this disk, by path in the repo.
        paths: path in the repo by bundle path.
        others: what other repos have.
        new_branch: the branch does not exist yet and starts at the plan's parent.
        notes: remarks for a person.
    """

    plan: PushPlan
    options: PushOptions
    lock: Lock
    wanted: tuple[Wanted, ...]
    generated: Mapping[str, bytes]
    paths: Mapping[str, str]
    others: tuple[Listing, ...]
    new_branch: bool = False
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a push.

    Attributes:
        commit: where the repo has the bundle.
        made: whether this push made that commit.
        pull_request: page of the pull request, if there is one.
        lock_changed: whether the zoo directory's lock was written; None if it was left alone on purpose.
    """

    commit: str
    made: bool
    pull_request: str | None = None
    lock_changed: bool | None = None


def prepare(
    client: HubClient, catalog: Catalog, entry: Entry, lock: Lock, folder: Path, options: PushOptions
) -> Prepared:
    """Look at the repo and its siblings, and plan.

    Args:
        client: the Hub.
        catalog: the zoo; its locks say which repos may have the bytes.
        entry: what is published.
        lock: the build's lock.
        folder: where the build lies.
        options: what was asked for.

    Raises:
        HubError: the repo or a sibling cannot be read.
        InvalidDocument: the build is not complete.
        DigestMismatch: a file of the build has another size than its lock says.
        Conflict: something in the repo is in the way.
    """
    paths = remote_paths(entry, lock)
    wanted = list(wanted_files(lock, paths, os.path.abspath(folder)))  # noqa: PTH100 - keeps symbolic links
    _check_sizes(wanted)
    target, new_branch = _target(client, options)
    generated, notes = _generated(client, entry, lock, options, target, paths)
    wanted += [
        Wanted(path, len(content), _sha256(content), git_sha1=git_object_id(content))
        for path, content in generated.items()
    ]
    wanted = [_with_git_id(file, target) for file in wanted]
    others, remarks = _siblings(client, catalog, wanted, target, options)
    plan = plan_push(
        wanted,
        target,
        others if options.copy else (),
        branch=options.branch,
        delete=options.delete,
        protected=_paths_of_others(catalog, entry, options),
    )
    if target.commit is None:
        notes.append(f"{options.repo} does not exist yet and will be made")
    elif new_branch:
        notes.append(f"branch {options.branch} does not exist yet and will start at {target.commit[:7]}")
    if lock.model_format == "mlpackage":
        notes.append("the bundle holds .mlpackage folders: compile them on a Mac or on the device before use")
    return Prepared(
        plan=plan,
        options=options,
        lock=lock,
        wanted=tuple(wanted),
        generated=generated,
        paths=paths,
        others=others,
        new_branch=new_branch,
        notes=(*notes, *remarks),
    )


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def _check_sizes(wanted: Iterable[Wanted]) -> None:
    for file in wanted:
        assert file.local is not None
        try:
            size = os.stat(file.local).st_size  # noqa: PTH116 - a string is what the plan has
        except FileNotFoundError:
            raise InvalidDocument(
                f"{file.local}: missing, although the lock lists it", hint="build it again"
            ) from None
        except OSError as error:
            raise DiskError(f"{file.local}: cannot be read: {error.strerror}") from None
        if size != file.size:
            raise DigestMismatch(
                f"{file.local}: has {size} bytes, its lock says {file.size}", hint="build it again, or lock it anew"
            )


def _target(client: HubClient, options: PushOptions) -> tuple[Listing, bool]:
    """The branch as it is; whether it has to be made."""
    try:
        commit = exists(client, options.repo, options.branch)
        new_branch = False
    except RevisionMissing:
        if options.pull_request:
            raise
        commit = client.resolve(options.repo, DEFAULT_BRANCH)
        new_branch = True
    if commit is None:
        return Listing(options.repo, None), options.branch != DEFAULT_BRANCH
    return client.listing(options.repo, commit), new_branch


def _generated(
    client: HubClient, entry: Entry, lock: Lock, options: PushOptions, target: Listing, paths: Mapping[str, str]
) -> tuple[dict[str, bytes], list[str]]:
    """Card, `zoo.json` and notice, but for those that somebody wrote by hand or that the bundle has itself."""
    files = generated_files(entry, lock, options.repo, paths, branch=options.branch)
    notes: list[str] = []
    present = target.by_path()
    for path in sorted(files):
        if path in paths.values():
            del files[path]
            continue
        there = present.get(path)
        settled = there is None or path not in (CARD, NOTICE) or there.git_sha1 == git_object_id(files[path])
        if settled or options.overwrite_card or target.commit is None:
            continue
        if not written_by_zoo(client.read(options.repo, target.commit, path)):
            del files[path]
            notes.append(f"{path} was written by hand and stays; --card replaces it")
    return files, notes


def _with_git_id(file: Wanted, target: Listing) -> Wanted:
    """Compute git's id where it decides whether the repo has the bytes: for files that git itself keeps there."""
    if file.git_sha1 is not None or file.local is None:
        return file
    there = next((remote for remote in target.files if remote.path == file.path), None)
    if there is None or there.sha256 is not None or there.size != file.size:
        return file
    return replace(file, git_sha1=git_object_id(_read_local(file.local)))


def _read_local(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from None


def _siblings(
    client: HubClient, catalog: Catalog, wanted: Sequence[Wanted], target: Listing, options: PushOptions
) -> tuple[tuple[Listing, ...], list[str]]:
    """Listings of the repos that may have the bytes; the ones that cannot be read are only remarked upon."""
    locks = [lock for other in catalog.entries if (lock := other.lock) is not None]
    places = [*sibling_places((file.sha256 for file in wanted), locks)]
    notes: list[str] = []
    found: list[Listing] = []
    for repo in options.copy_from:
        places.insert(0, (repo, client.resolve(repo, DEFAULT_BRANCH)))
    for repo, commit in dict.fromkeys(places):
        if (repo, commit) == (target.repo, target.commit):
            continue
        try:
            listing = client.listing(repo, commit)
            missing = copy_candidates(wanted, target, listing)
            found.append(client.with_xet_hashes(listing, missing) if missing else listing)
        except TransientHubError:
            raise
        except HubError as error:
            notes.append(f"nothing is copied from {repo}: {error.message}")
    return tuple(found), notes


def _paths_of_others(catalog: Catalog, entry: Entry, options: PushOptions) -> set[str]:
    """Paths of other entries that are published on the same branch."""
    found: set[str] = set()
    for other in catalog.entries:
        hub = other.manifest.hub
        if other.id == entry.id or hub is None or (hub.repo, hub.revision) != (options.repo, options.branch):
            continue
        lock = other.lock
        if lock is not None:
            found.update(source.path for file in lock.files for source in file.sources if source.repo == hub.repo)
    return found


def execute(
    client: HubClient,
    prepared: Prepared,
    *,
    entry: Entry,
    cache: DigestCache | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Carry a push out, and pin the lock.

    Args:
        client: the Hub.
        prepared: what to do.
        entry: whose lock is written.
        cache: remembered digests.
        progress: receives progress.

    Raises:
        DigestMismatch: a local file is not what its lock says, or the Hub has something else after the commit. The
            lock is not written.
        Conflict: somebody else committed first.
        HubError: refused, or no answer.
        DiskError: a file cannot be read, or the lock not written.
    """
    progress = progress or Silent()
    plan, options = prepared.plan, prepared.options
    if not plan.changes:
        assert plan.parent is not None
        return _pin(prepared, entry, Committed(plan.parent), made=False)
    uploads = [action for action in plan.actions if isinstance(action, Upload)]
    additions = _additions(uploads, prepared.generated)
    before = _verify(additions, cache, progress)
    parent = _make_room(client, prepared)
    staged = client.stage(options.repo, options.branch, additions, pull_request=options.pull_request)
    if _identities(additions) != before:
        raise DigestMismatch(
            "a file of the build changed while it was uploaded; nothing was committed",
            hint="let the build finish, then run the same command again",
        )
    done = _commit(client, prepared, staged, parent, message=options.message or f"Publish {entry.id}")
    wrong = _differences(prepared, client.listing(options.repo, done.commit))
    if wrong:
        raise DigestMismatch(
            f"{options.repo}@{done.commit[:7]}: after the commit the Hub has something else: {wrong[0]}"
            + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""),
            hint="the lock was not changed; run the same command again to repair the repo",
        )
    return _pin(prepared, entry, done, made=True)


def _commit(
    client: HubClient, prepared: Prepared, staged: Sequence[CommitOperationAdd], parent: str, *, message: str
) -> Committed:
    """Commit once, however often it has to be asked for."""
    plan, options = prepared.plan, prepared.options
    pulls_before = client.pull_request_commits(options.repo) if options.pull_request else frozenset()
    for attempt in range(1, len(RETRY_WAITS) + 2):
        try:
            return client.commit(
                options.repo,
                options.branch,
                additions=staged,
                copies=[Copy(action.path, action.source) for action in plan.actions if isinstance(action, ServerCopy)],
                deletions=[action.path for action in plan.actions if isinstance(action, Delete)],
                message=message,
                description=f"{len(prepared.lock.files)} files, {prepared.lock.size} bytes.",
                parent=parent,
                pull_request=options.pull_request,
            )
        except (TransientHubError, Conflict) as error:
            # The commit may be there although the answer was lost: a second one must not be made.
            done = _landed(client, prepared, parent, pulls_before)
            if done is not None:
                client.progress.say("the answer to the commit was lost, but the commit is there")
                return done
            if isinstance(error, Conflict) or attempt > len(RETRY_WAITS):
                raise
            client.wait(error, attempt)
    raise AssertionError("the last try returns or raises")


def _additions(uploads: Sequence[Upload], generated: Mapping[str, bytes]) -> list[Addition]:
    """One addition per path; identical files name the same local file, so that one of them is read and sent."""
    first: dict[str, Path] = {}
    additions = []
    for action in uploads:
        content: Path | bytes
        if action.local is None:
            content = generated[action.path]
            size = len(content)
        else:
            content = first.setdefault(action.sha256, Path(action.local))
            size = content.stat().st_size
        additions.append(Addition(action.path, size, action.sha256, content))
    return additions


def _verify(
    additions: Sequence[Addition], cache: DigestCache | None, progress: Progress
) -> dict[Path, tuple[int, int, int, int]]:
    """Prove that what is about to be sent is what the lock says; returns what would show a later change."""
    expected = {addition.content: addition.sha256 for addition in additions if isinstance(addition.content, Path)}
    before = _identities(additions)
    item = "checking the build"
    total = sum(identity[2] for identity in before.values())
    progress.start(item, total)
    found = hash_files(expected, cache=cache, on_bytes=lambda count: progress.advance(item, count))
    progress.finish(item)
    for path, digests in found.items():
        if digests.sha256 != expected[path]:
            raise DigestMismatch(
                f"{path}: sha256 is {digests.sha256}, its lock says {expected[path]}; nothing was sent",
                hint="build it again, or lock it anew if the change is meant",
            )
    return before


def _identities(additions: Sequence[Addition]) -> dict[Path, tuple[int, int, int, int]]:
    found = {}
    for addition in additions:
        if isinstance(addition.content, Path) and addition.content not in found:
            try:
                status = addition.content.stat()
            except OSError as error:
                raise DiskError(f"{addition.content}: cannot be read: {error.strerror}") from None
            found[addition.content] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def _make_room(client: HubClient, prepared: Prepared) -> str:
    """Make the repo and the branch if they do not exist; returns the commit to build on."""
    plan, options = prepared.plan, prepared.options
    parent = plan.parent
    if parent is None:
        client.create_repo(options.repo, private=options.private)
        parent = client.resolve(options.repo, DEFAULT_BRANCH)
    if prepared.new_branch:
        client.create_branch(options.repo, options.branch, parent)
    return parent


def _landed(client: HubClient, prepared: Prepared, parent: str, pulls_before: frozenset[str]) -> Committed | None:
    """The commit, if it is on the Hub: a new head that has exactly what was planned."""
    options = prepared.options
    if options.pull_request:
        candidates = sorted(client.pull_request_commits(options.repo) - pulls_before)
    else:
        head = client.resolve(options.repo, options.branch)
        candidates = [] if head == parent else [head]
    for commit in candidates:
        if not _differences(prepared, client.listing(options.repo, commit)):
            page = f"{client.endpoint}/{options.repo}/discussions" if options.pull_request else None
            return Committed(commit, page)
    return None


def _differences(prepared: Prepared, listing: Listing) -> list[str]:
    """What the Hub has that was not planned, a phrase each."""
    present = listing.by_path()
    wrong = []
    for file in prepared.wanted:
        there = present.get(file.path)
        if there is None:
            wrong.append(f"{file.path} is missing")
            continue
        known = file
        if there.sha256 is None and file.git_sha1 is None and file.local is not None and there.size == file.size:
            known = replace(file, git_sha1=git_object_id(_read_local(file.local)))
        if not same_content(known, there):
            wrong.append(
                f"{file.path} has {there.size} bytes and digest {there.sha256 or there.git_sha1},"
                f" not {file.size} and {file.sha256}"
            )
    deleted = (action.path for action in prepared.plan.actions if isinstance(action, Delete))
    wrong.extend(f"{path} is still there" for path in deleted if path in present)
    return wrong


def _pin(prepared: Prepared, entry: Entry, done: Committed, *, made: bool) -> Pushed:
    """Write the lock that names the commit; not for a pull request, whose commit nobody has agreed to yet."""
    options = prepared.options
    if options.pull_request:
        return Pushed(done.commit, made, done.pull_request, None)
    old = entry.lock
    if not made and old is not None and _pins(old, prepared):
        return Pushed(done.commit, made, None, False)
    new = pinned(prepared.lock, options.repo, done.commit, prepared.paths, prepared.others)
    return Pushed(done.commit, made, None, save_lock(entry.lock_file, new))


def _pins(old: Lock, prepared: Prepared) -> bool:
    """Whether a lock names the same bytes in the same repo already: a newer commit alone is no reason to change it."""
    if old.manifest != prepared.lock.manifest or old.provenance != prepared.lock.provenance:
        return False
    if difference(old, prepared.lock):
        return False
    return all(
        file.sources
        and (file.sources[0].repo, file.sources[0].path) == (prepared.options.repo, prepared.paths[file.path])
        for file in old.files
    )
