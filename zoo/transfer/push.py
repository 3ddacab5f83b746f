"""Publishing a build that was planned: verify, upload, one commit, read back, pin.

Safe to repeat at any point. Content that arrived is not sent again, a commit whose answer was lost is recognised by
what it made, and the lock is written last, from what the Hub says it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.catalog import Entry
from zoo.digests import DigestCache, hash_files
from zoo.errors import Conflict, DigestMismatch, DiskError
from zoo.events import Progress, Silent
from zoo.lock import Lock, save_lock
from zoo.plan.actions import Delete, ServerCopy, Upload
from zoo.plan.lock import difference, pinned
from zoo.plan.push import same_content
from zoo.plan.remote import Listing, git_object_id
from zoo.transfer.hub import RETRY_WAITS, Addition, Committed, Copy, HubClient
from zoo.transfer.hub_errors import TransientHubError
from zoo.transfer.push_look import DEFAULT_BRANCH, Prepared, read_local

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd


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
    if not plan.commits:
        return _pin(prepared, entry, Committed(_make_room(client, prepared)), made=False)
    additions = additions_of(prepared)
    before = verify(additions, cache, progress)
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


def additions_of(prepared: Prepared) -> list[Addition]:
    """The uploads of a plan, one addition per path.

    Identical files name the same local file, so that one of them is read and sent.
    """
    first: dict[str, Path] = {}
    additions = []
    for action in prepared.plan.actions:
        content: Path | bytes
        if not isinstance(action, Upload):
            continue
        if action.local is None:
            content = prepared.generated[action.path]
            size = len(content)
        else:
            content = first.setdefault(action.sha256, Path(action.local))
            size = content.stat().st_size
        additions.append(Addition(action.path, size, action.sha256, content))
    return additions


def verify(
    additions: Sequence[Addition], cache: DigestCache | None, progress: Progress
) -> dict[Path, tuple[int, int, int, int]]:
    """Prove that what is about to be sent is what the lock says; returns what would show a later change.

    Raises:
        DigestMismatch: naming the file that is something else.
        DiskError: a file cannot be read.
    """
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
            known = replace(file, git_sha1=git_object_id(read_local(file.local)))
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
