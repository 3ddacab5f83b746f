"""Publishing several entries at once: in which order, and what each may copy from those before it.

What two entries share travels with the first of them; the Hub copies it for the others, from the commit that the
first one made. That commit has no id yet when the plan is made: it is spelt `new:ENTRY` (see `pending`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from zoo.errors import InvalidDocument
from zoo.plan.actions import Action, Delete, ServerCopy, Upload
from zoo.plan.push import PushPlan, Wanted, plan_push
from zoo.plan.remote import Listing, RemoteFile

MAIN = "main"
"""The branch at which a new branch starts."""

_PENDING = "new:"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of those that are published together.

    Attributes:
        entry: its id.
        wanted: what its repo should have; `large` tells what others can copy from there.
        target: what the branch has now; `commit` is None if the repo does not exist.
        siblings: other places whose bytes may be copied, best first.
        branch: where the commit goes.
        delete: delete files of the repo that nothing wants.
        protected: paths in the repo that belong to other entries.
        page: paths of `wanted` that describe the repo. On a branch with several entries the first one writes them.
        copy: let the Hub copy from other repos.
        moves: the branch moves; False for a pull request.
        new_branch: the branch does not exist yet; `target` is where it starts.
    """

    entry: str
    wanted: tuple[Wanted, ...]
    target: Listing
    siblings: tuple[Listing, ...] = ()
    branch: str = MAIN
    delete: bool = False
    protected: frozenset[str] = frozenset()
    page: frozenset[str] = frozenset()
    copy: bool = True
    moves: bool = True
    new_branch: bool = False

    @property
    def place(self) -> tuple[str, str]:
        """Repo and branch."""
        return (self.target.repo, self.branch)


@dataclass(frozen=True, slots=True)
class Step:
    """What is done for one entry.

    Attributes:
        entry: its id.
        plan: the push; copies from commits of this plan name them as `pending`.
        wanted: what the repo will have: the member's, without the page if another entry of the branch writes it.
        protected: paths in the repo that belong to other entries, those of this plan included.
    """

    entry: str
    plan: PushPlan
    wanted: tuple[Wanted, ...]
    protected: frozenset[str]


def pending(entry: str) -> str:
    """What stands for the commit that will publish `entry`."""
    return f"{_PENDING}{entry}"


def pending_entry(commit: str | None) -> str | None:
    """The entry that `pending` was asked about, or None for a commit that exists."""
    if commit is None or not commit.startswith(_PENDING):
        return None
    return commit.removeprefix(_PENDING)


def waits_for(plan: PushPlan) -> frozenset[str]:
    """The entries from whose commits a plan copies, or on whose commit it builds."""
    commits = [action.source.commit for action in plan.actions if isinstance(action, ServerCopy)]
    return frozenset(entry for commit in (*commits, plan.parent) if (entry := pending_entry(commit)) is not None)


def publish_order(bundles: Mapping[str, Sequence[Wanted]]) -> tuple[str, ...]:
    """Entries in the order in which they are published: most bytes that others want, then fewest of its own, then id.

    The order depends on the bundles alone, so that a push that is taken up again keeps it.

    Args:
        bundles: what each entry consists of.
    """
    contents = {entry: {file.sha256: file.size for file in files} for entry, files in bundles.items()}
    holders = Counter(digest for sizes in contents.values() for digest in sizes)

    def rank(entry: str) -> tuple[int, int, str]:
        shared = sum(size for digest, size in contents[entry].items() if holders[digest] > 1)
        return (-shared, sum(contents[entry].values()) - shared, entry)

    return tuple(sorted(bundles, key=rank))


def plan_family(members: Iterable[Member]) -> tuple[Step, ...]:
    """Plan several pushes as one, in the order in which they are to be carried out.

    Every plan is made for what the Hub will have after the ones before it. So content that the Hub can copy travels
    with the first entry that wants it, and the rest copy it.

    Args:
        members: the entries, each once.

    Raises:
        InvalidDocument: two entries want different content at one place.
        Conflict: a file of a repo lies where a folder is needed, or the other way round.
    """
    by_entry = {member.entry: member for member in members}
    bundles = {
        entry: [file for file in member.wanted if file.path not in member.page] for entry, member in by_entry.items()
    }
    ordered = [by_entry[entry] for entry in publish_order(bundles)]
    ordered = _one_page_per_branch(ordered)
    _check_agreement(ordered)
    existing = tuple(member.target for member in ordered if member.target.commit is not None)
    branches: dict[tuple[str, str], Listing] = {}
    made: list[Listing] = []
    steps = []
    for member in ordered:
        target = _target(member, branches)
        neighbours = [other for other in ordered if other.place == member.place and other.entry != member.entry]
        protected = member.protected | {file.path for other in neighbours for file in other.wanted}
        plan = plan_push(
            member.wanted,
            target,
            (*member.siblings, *existing, *made) if member.copy else (),
            branch=member.branch,
            delete=member.delete,
            protected=protected,
            new_branch=member.new_branch and member.place not in branches,
        )
        plan = replace(plan, actions=tuple(map(_with_reason, plan.actions)))
        steps.append(Step(member.entry, plan, member.wanted, protected))
        after = _afterwards(plan, target, member)
        made.append(after)
        if member.moves:
            branches[member.place] = after
    return tuple(steps)


def _one_page_per_branch(ordered: Sequence[Member]) -> list[Member]:
    taken: dict[tuple[str, str], set[str]] = {}
    found = []
    for member in ordered:
        before = taken.setdefault(member.place, set())
        kept = tuple(file for file in member.wanted if not (file.path in member.page and file.path in before))
        before.update(file.path for file in kept)
        found.append(replace(member, wanted=kept))
    return found


def _check_agreement(ordered: Sequence[Member]) -> None:
    first: dict[tuple[str, str, str], tuple[str, str]] = {}
    for member in ordered:
        for file in member.wanted:
            entry, digest = first.setdefault((*member.place, file.path), (member.entry, file.sha256))
            if digest != file.sha256:
                repo, branch = member.place
                raise InvalidDocument(
                    f"{entry} and {member.entry} both put {file.path} into {repo} ({branch}), but not the same bytes",
                    hint="give one of the components another `remote`, or one of the entries another branch",
                )


def _target(member: Member, branches: Mapping[tuple[str, str], Listing]) -> Listing:
    """What the member's branch will have when its turn comes."""
    if member.place in branches:
        return branches[member.place]
    if member.target.commit is None and member.moves:
        # A branch that has to be made in a repo that has to be made starts at what `main` has by then.
        return branches.get((member.target.repo, MAIN), member.target)
    return member.target


def _with_reason(action: Action) -> Action:
    if isinstance(action, ServerCopy) and (entry := pending_entry(action.source.commit)) is not None:
        return replace(action, reason=f"published with {entry}")
    return action


def _afterwards(plan: PushPlan, target: Listing, member: Member) -> Listing:
    """What the repo will have at the commit that the plan makes."""
    if not plan.commits and target.commit is not None:
        return target
    commit = pending(member.entry)
    wanted = {file.path: file for file in member.wanted}
    files = target.by_path()
    for action in plan.actions:
        match action:
            case Delete(path=path):
                del files[path]
            case Upload(path=path) | ServerCopy(path=path):
                file = wanted[path]
                large = file.large or isinstance(action, ServerCopy)
                files[path] = RemoteFile(
                    path=path,
                    size=file.size,
                    sha256=file.sha256 if large else None,
                    git_sha1="" if large else file.git_sha1 or "",
                    xet_hash=commit if large else None,
                )
            case _:
                pass
    return Listing(plan.repo, commit, tuple(files.values()))
