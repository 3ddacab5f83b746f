"""What a push has to do: which files the repo has, which the Hub can copy itself, which must travel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zoo.errors import Conflict, InvalidDocument
from zoo.lock import Lock, Source
from zoo.plan.actions import Action, Delete, Keep, ServerCopy, Upload
from zoo.plan.remote import Listing, RemoteFile

CARD = "README.md"
NEVER_DELETED = frozenset({CARD, ".gitattributes", ".gitignore", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE"})
"""Files of a repo that no lock lists and that are nevertheless not left-overs."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that the repo should have after the push.

    Attributes:
        path: in the repo.
        size: bytes.
        sha256: of the content.
        local: absolute path on this disk; None for generated content.
        git_sha1: git's id of the content. Needed only where the repo keeps a file of this size and path in git
            itself, because the Hub does not tell the sha256 of those.
        large: the Hub is expected to keep the content outside git, so that other repos can have it copied. Only
            the plan of a family looks at it.
    """

    path: str
    size: int
    sha256: str
    local: str | None = None
    git_sha1: str | None = None
    large: bool = False


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push will do to one branch of one repo.

    Attributes:
        repo, branch: where to.
        parent: the commit that the plan was made against; None if the repo does not exist yet.
        actions: one per wanted file, in path order, then the deletions.
        extra: files of the repo that nothing here knows and that stay, with their sizes.
        new_branch: the branch has to be made, at `parent` or at the first commit of a new repo.
    """

    repo: str
    branch: str
    parent: str | None
    actions: tuple[Action, ...]
    extra: tuple[tuple[str, int], ...] = ()
    new_branch: bool = False

    @property
    def commits(self) -> bool:
        """Whether a commit is needed."""
        return any(action.kind != "keep" for action in self.actions)

    @property
    def changes(self) -> bool:
        """Whether the push does anything: makes the repo or the branch, or commits."""
        return self.parent is None or self.new_branch or self.commits


def same_content(wanted: Wanted, remote: RemoteFile) -> bool:
    """Whether `remote` is known to have the bytes of `wanted`; False also when nobody can tell."""
    if wanted.size != remote.size:
        return False
    if remote.sha256 is not None:
        return remote.sha256 == wanted.sha256
    return wanted.git_sha1 is not None and remote.git_sha1 == wanted.git_sha1


def plan_push(
    wanted: Iterable[Wanted],
    target: Listing,
    siblings: Sequence[Listing] = (),
    *,
    branch: str = "main",
    delete: bool = False,
    protected: Iterable[str] = (),
    new_branch: bool = False,
) -> PushPlan:
    """Decide for every file: keep, server-side copy, or upload; and what to do with files nobody knows.

    Identical content travels once: its other paths cost no bytes. The Hub copies large files only, and between repos
    only those whose xet hash it told.

    Args:
        wanted: what the repo should have.
        target: what its branch has now.
        siblings: other repos, or other commits of this one, whose bytes may be copied, best first.
        branch: where the commit goes.
        delete: delete files of the repo that nothing wants.
        protected: paths in the repo that belong to somebody else, e.g. to another entry published there.
        new_branch: the branch does not exist yet; `target` is where it starts.

    Raises:
        Conflict: a file of the repo lies where a folder is needed, or the other way round, and may not be deleted.
    """
    files = sorted(wanted, key=lambda file: file.path)
    present = target.by_path()
    copies = _copy_sources(target, siblings)
    first_upload: dict[str, str] = {}
    actions: list[Action] = []
    for file in files:
        there = present.get(file.path)
        if there is not None and same_content(file, there):
            actions.append(Keep(file.path, file.size))
        elif file.sha256 in copies and file.size > 0:
            source = copies[file.sha256]
            where = "this repo" if source.repo == target.repo else source.repo
            actions.append(ServerCopy(file.path, file.size, file.sha256, source, f"{where} has it"))
        elif file.sha256 in first_upload:
            reason = f"same bytes as {first_upload[file.sha256]}"
            actions.append(Upload(file.path, 0, file.sha256, file.local, reason))
        else:
            first_upload[file.sha256] = file.path
            reason = "new" if there is None else "differs"
            actions.append(Upload(file.path, file.size, file.sha256, file.local, reason))
    keep = {file.path for file in files} | set(protected) | NEVER_DELETED
    extra = [remote for remote in sorted(target.files, key=lambda remote: remote.path) if remote.path not in keep]
    if delete:
        actions.extend(Delete(remote.path, remote.size, "no lock knows it") for remote in extra)
        extra = []
    _check_no_file_is_folder(files, extra, target.repo)
    left = tuple((remote.path, remote.size) for remote in extra)
    return PushPlan(target.repo, branch, target.commit, tuple(actions), left, new_branch)


def _copy_sources(target: Listing, siblings: Sequence[Listing]) -> dict[str, Source]:
    """For each sha256 the place to copy it from: the repo itself before others, then in the order given."""
    found: dict[str, Source] = {}
    for listing in (target, *siblings):
        if listing.commit is None:
            continue
        for file in sorted(listing.files, key=lambda file: file.path):
            if file.sha256 is None or not (listing.repo == target.repo or file.xet_hash):
                continue
            if file.sha256 not in found:
                found[file.sha256] = Source(repo=listing.repo, commit=listing.commit, path=file.path)
    return found


def _check_no_file_is_folder(files: Sequence[Wanted], extra: Sequence[RemoteFile], repo: str) -> None:
    folders = {parent for file in files for parent in _parents(file.path)}
    paths = {file.path for file in files}
    for remote in extra:
        blocked = remote.path in folders or any(parent in paths for parent in _parents(remote.path))
        if blocked:
            raise Conflict(
                f"{repo}: {remote.path!r} is in the way of a file or folder of this bundle",
                hint="delete it with --delete, or on the Hub",
            )


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))


def copy_candidates(wanted: Iterable[Wanted], target: Listing, sibling: Listing) -> tuple[str, ...]:
    """Paths of `sibling` that a push could copy and whose xet hash is not known yet.

    The Hub's tree listing tells xet hashes; a server that does not must be asked for these paths.
    """
    if sibling.repo == target.repo:
        return ()
    present = target.by_path()
    needed = {file.sha256 for file in wanted if not (file.path in present and same_content(file, present[file.path]))}
    needed -= {file.sha256 for file in target.files if file.sha256 is not None}
    return tuple(file.path for file in sibling.files if file.sha256 in needed and file.xet_hash is None)


def sibling_places(wanted: Iterable[str], locks: Iterable[Lock]) -> tuple[tuple[str, str], ...]:
    """Repos and commits in which published locks know bytes that are wanted, the most useful first.

    Args:
        wanted: sha256 of what is needed.
        locks: the published locks of the zoo.

    Returns:
        (repo, commit) pairs; ties in alphabetical order.
    """
    needed = frozenset(wanted)
    useful: dict[tuple[str, str], set[str]] = {}
    sizes: dict[str, int] = {}
    for lock in locks:
        for file in lock.files:
            if file.sha256 is None or file.sha256 not in needed:
                continue
            sizes[file.sha256] = file.size
            for source in file.sources:
                useful.setdefault((source.repo, source.commit), set()).add(file.sha256)
    return tuple(sorted(useful, key=lambda place: (-sum(sizes[digest] for digest in useful[place]), place)))


def wanted_files(lock: Lock, remote_paths: Mapping[str, str], folder: str) -> tuple[Wanted, ...]:
    """The files of a built bundle as a push wants them.

    Args:
        lock: the build's lock.
        remote_paths: path in the repo by bundle path.
        folder: absolute path of the built bundle.

    Raises:
        InvalidDocument: a file without digest, or two files of the bundle with one place in the repo.
    """
    found: dict[str, Wanted] = {}
    for file in lock.files:
        if file.sha256 is None:
            raise InvalidDocument(
                f"{lock.entry}: the lock is provisional: the digest of {file.path} is not known",
                hint="build the bundle, or lock it with `zoo lock --from DIR`",
            )
        remote = remote_paths[file.path]
        if remote in found:
            raise InvalidDocument(
                f"{lock.entry}: {file.path} and {found[remote].local} both go to {remote} in the repo",
                hint="give one of the components another `remote` in the manifest",
            )
        found[remote] = Wanted(remote, file.size, file.sha256, f"{folder}/{file.path}")
    return tuple(found.values())
