"""Before a push: look at the repo and at those that may have the bytes, and plan. Nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from zoo.catalog import Catalog, Entry
from zoo.errors import DigestMismatch, DiskError, HubError, InvalidDocument
from zoo.lock import Lock
from zoo.plan.lock import remote_paths
from zoo.plan.push import PushPlan, Wanted, copy_candidates, plan_push, sibling_places, wanted_files
from zoo.plan.remote import Listing, git_object_id
from zoo.report.card import CARD, NOTICE, generated_files, written_by_zoo
from zoo.transfer.hub import HubClient, exists
from zoo.transfer.hub_errors import RevisionMissing, TransientHubError
from zoo.transfer.listing import checked_content

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
        target: what the branch has, as the plan was made for.
        protected: paths in the repo that belong to other entries.
        others: what other repos have.
        notes: remarks for a person.
    """

    plan: PushPlan
    options: PushOptions
    lock: Lock
    wanted: tuple[Wanted, ...]
    generated: Mapping[str, bytes]
    paths: Mapping[str, str]
    target: Listing
    protected: frozenset[str]
    others: tuple[Listing, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def new_branch(self) -> bool:
        """The branch does not exist yet and starts at the plan's parent."""
        return self.plan.new_branch


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
    target, new_branch = look(client, options)
    generated, notes = _generated(client, entry, lock, options, target, paths)
    wanted += [
        Wanted(path, len(content), _sha256(content), git_sha1=git_object_id(content))
        for path, content in generated.items()
    ]
    wanted = [with_git_id(file, target) for file in wanted]
    protected = frozenset(_paths_of_others(catalog, entry, options))
    others, remarks = _siblings(client, catalog, wanted, target, options)
    plan = plan_push(
        wanted,
        target,
        others if options.copy else (),
        branch=options.branch,
        delete=options.delete,
        protected=protected,
        new_branch=new_branch,
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
        target=target,
        protected=protected,
        others=others,
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


def look(client: HubClient, options: PushOptions) -> tuple[Listing, bool]:
    """The branch as it is; whether it has to be made.

    Raises:
        HubError: it cannot be read.
    """
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
        if there is None or target.commit is None or path not in (CARD, NOTICE) or options.overwrite_card:
            continue
        if there.git_sha1 == git_object_id(files[path]):
            continue
        content = client.read(options.repo, target.commit, path)
        if not written_by_zoo(checked_content(content, there, options.repo, target.commit)):
            del files[path]
            notes.append(f"{path} was written by hand and stays; --card replaces it")
    return files, notes


def with_git_id(file: Wanted, target: Listing) -> Wanted:
    """Compute git's id where it decides whether the repo has the bytes: for files that git itself keeps there."""
    if file.git_sha1 is not None or file.local is None:
        return file
    there = next((remote for remote in target.files if remote.path == file.path), None)
    if there is None or there.sha256 is not None or there.size != file.size:
        return file
    return replace(file, git_sha1=git_object_id(read_local(file.local)))


def read_local(path: str) -> bytes:
    """The content of a file on this disk.

    Raises:
        DiskError: it cannot be read.
    """
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
