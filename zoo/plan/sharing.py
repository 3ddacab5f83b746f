"""What is stored more than once, by whom, and what storing it once would save. Pure: over lists of files.

A *holder* is whoever keeps files: an entry on the Hub, an installed folder or a build on this disk. A *place* is where
bytes physically are: a path in a repo, or an inode. Two files of one place (hard links, two entries that publish the
same file of one repo) are stored once. Bytes are the same if their sha256 is; a file without one is *unknown* and is
never counted as shared, whatever its name and size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from msgspec import Struct
from msgspec.structs import replace

from zoo.links import MINIMUM_HARDLINK_BYTES
from zoo.lock import is_weight


class Held(Struct, frozen=True, gc=False):
    """One file that a holder keeps.

    A struct that the garbage collector does not look at, as `Content` is: a zoo has ten thousands of them, and none
    refers back to what refers to it.

    Attributes:
        path: in the holder.
        size: bytes; expected ones while `sha256` is None.
        sha256: of the bytes, or None.
        label: what reports call it: the component it belongs to.
        kind: what reports colour it by: a modality, or a role.
        place: where the bytes physically are; equal places are stored once.
        region: within one region bytes can be shared (one file system); between two they cannot.
    """

    path: str
    size: int
    sha256: str | None
    label: str
    kind: str
    place: Hashable
    region: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """Whoever keeps files.

    Attributes:
        name: unique among holders.
        family: holders of one family are shown together.
        files: what it keeps.
    """

    name: str
    family: str
    files: tuple[Held, ...]


class Content(Struct, frozen=True, gc=False):
    """Bytes with a known digest, and everywhere they are.

    Attributes:
        sha256: which bytes.
        size: bytes.
        label, kind: what most of the files that have them are called; the first one's, where none wins.
        holders: names, in the order of the holders.
        places: how many physical copies there are.
        files: (holder, path) of every file, in that order.
        repeated_in: holders that keep several copies.
        linkable: copies that sharing within regions would make unnecessary.
        hard_linkable: those of them that a hard link may replace (bulk weights that nothing edits in place).
    """

    sha256: str
    size: int
    label: str
    kind: str
    holders: tuple[str, ...]
    places: int
    files: tuple[tuple[str, str], ...]
    repeated_in: tuple[str, ...]
    linkable: int
    hard_linkable: int

    @property
    def wasted(self) -> int:
        """Bytes that are stored beyond the first copy."""
        return (self.places - 1) * self.size


@dataclass(frozen=True, slots=True)
class HolderTotal:
    """One holder in bytes.

    Attributes:
        files: how many.
        size: bytes of its places.
        distinct: bytes of its known contents, each once.
        shared: of those, what at least one other holder keeps too.
        twice: bytes of known contents that it stores beyond their first copy.
        unknown: bytes of files without a digest.
    """

    name: str
    family: str
    files: int
    size: int
    distinct: int
    shared: int
    twice: int
    unknown: int

    @property
    def own(self) -> int:
        """Bytes that no other holder is known to keep."""
        return self.distinct - self.shared


@dataclass(frozen=True, slots=True)
class Group:
    """Contents that exactly these holders keep."""

    holders: tuple[str, ...]
    contents: int
    size: int


@dataclass(frozen=True)
class Sharing:
    """Who keeps what, and what is kept more than once.

    Attributes:
        holders: as given.
        contents: every known content, most wasteful first.
    """

    holders: tuple[Holder, ...]
    contents: tuple[Content, ...]

    @cached_property
    def stored(self) -> int:
        """Bytes of all places."""
        return sum(_places(file for holder in self.holders for file in holder.files).values())

    @cached_property
    def unknown(self) -> int:
        """Bytes of all places without a digest."""
        files = (file for holder in self.holders for file in holder.files if file.sha256 is None)
        return sum(_places(files).values())

    @property
    def distinct(self) -> int:
        """Bytes of all known contents, each once."""
        return sum(content.size for content in self.contents)

    @property
    def duplicated(self) -> int:
        """Bytes stored beyond the first copy: `stored == distinct + duplicated + unknown`."""
        return sum(content.wasted for content in self.contents)

    @property
    def linkable(self) -> int:
        """Of the duplicated bytes those that lie in one region, so that sharing could free them."""
        return sum(content.linkable * content.size for content in self.contents)

    @property
    def hard_linkable(self) -> int:
        """Of those what hard links may free; the rest needs a file system that clones."""
        return sum(content.hard_linkable * content.size for content in self.contents)

    @cached_property
    def totals(self) -> tuple[HolderTotal, ...]:
        """One per holder, in order."""
        return tuple(self._total(holder) for holder in self.holders)

    def _total(self, holder: Holder) -> HolderTotal:
        known = [file for file in holder.files if file.sha256 is not None]
        sizes = {file.sha256: file.size for file in known}
        distinct = sum(sizes.values())
        return HolderTotal(
            name=holder.name,
            family=holder.family,
            files=len(holder.files),
            size=sum(_places(holder.files).values()),
            distinct=distinct,
            shared=sum(content.size for content in self._of(holder.name) if len(content.holders) > 1),
            twice=sum(_places(known).values()) - distinct,
            unknown=sum(_places(file for file in holder.files if file.sha256 is None).values()),
        )

    @cached_property
    def _by_holder(self) -> dict[str, tuple[Content, ...]]:
        found: dict[str, list[Content]] = {holder.name: [] for holder in self.holders}
        for content in self.contents:
            for name in content.holders:
                found[name].append(content)
        return {name: tuple(contents) for name, contents in found.items()}

    def _of(self, name: str) -> tuple[Content, ...]:
        return self._by_holder[name]

    def common(self, one: str, other: str) -> int:
        """Bytes of contents that both holders keep, each once; with itself, all known ones that a holder keeps."""
        return self._common[one, other]

    @cached_property
    def _common(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for group in self.groups:
            for one in group.holders:
                for other in group.holders:
                    found[one, other] += group.size
        return found

    @property
    def pairs(self) -> tuple[tuple[str, str, int], ...]:
        """Every two holders that have bytes in common, and how many; in the order of the holders."""
        names = [holder.name for holder in self.holders]
        place = {name: number for number, name in enumerate(names)}
        found = [(place[one], place[other]) for one, other in self._common if place[one] < place[other]]
        return tuple((names[one], names[other], self.common(names[one], names[other])) for one, other in sorted(found))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Contents by exactly who keeps them: most holders first, then largest."""
        sizes: dict[tuple[str, ...], list[int]] = {}
        for content in self.contents:
            sizes.setdefault(content.holders, []).append(content.size)
        groups = [Group(holders, len(found), sum(found)) for holders, found in sizes.items()]
        return tuple(sorted(groups, key=lambda group: (-len(group.holders), -group.size, group.holders)))


def find_sharing(holders: Iterable[Holder]) -> Sharing:
    """Find out who keeps the same bytes.

    Args:
        holders: with unique names, in the order of reports.
    """
    listed = _one_truth_per_place(tuple(holders))
    by_content: dict[str, list[tuple[str, Held]]] = {}
    for holder in listed:
        for file in sorted(holder.files, key=lambda file: file.path):
            if file.sha256 is not None:
                by_content.setdefault(file.sha256, []).append((holder.name, file))
    contents = [_content(sha256, found) for sha256, found in by_content.items()]
    return Sharing(
        listed, tuple(sorted(contents, key=lambda content: (-content.wasted, -content.size, content.sha256)))
    )


def _one_truth_per_place(holders: tuple[Holder, ...]) -> tuple[Holder, ...]:
    """What one holder knows about a place holds for all; a place with two digests is unknown, because one is wrong."""
    known: dict[Hashable, Held] = {}
    doubted: set[Hashable] = set()
    for holder in holders:
        for file in holder.files:
            before = known.setdefault(file.place, file)
            if before is file:
                continue
            if before.sha256 is None and file.sha256 is not None:
                # The first one's size counts for all, whoever knows the digest.
                known[file.place] = replace(file, size=before.size)
            elif file.sha256 not in (None, before.sha256):
                doubted.add(file.place)

    def settle(file: Held) -> Held:
        truth = known[file.place]
        if truth is file and not doubted:
            return file
        sha256 = None if file.place in doubted else truth.sha256
        if sha256 == file.sha256 and truth.size == file.size:
            return file
        return replace(file, sha256=sha256, size=truth.size)

    return tuple(Holder(holder.name, holder.family, tuple(map(settle, holder.files))) for holder in holders)


def _content(sha256: str, found: Sequence[tuple[str, Held]]) -> Content:
    if len(found) == 1:
        # Most contents of a large zoo; the general way is ten times as slow.
        name, file = found[0]
        alone = (name, file.path)
        return Content(sha256, file.size, file.label, file.kind, (name,), 1, (alone,), (), 0, 0)
    first = found[0][1]
    places = {file.place: file for _, file in reversed(found)}
    everywhere = [file.region for file in places.values()]
    bulk = [file.region for file in places.values() if file.size >= MINIMUM_HARDLINK_BYTES and is_weight(file.path)]
    holders = tuple(dict.fromkeys(name for name, _ in found))
    repeated: tuple[str, ...] = ()
    if len(holders) < len(found):
        copies = Counter(name for name, _ in {(name, file.place) for name, file in found})
        repeated = tuple(name for name in holders if copies[name] > 1)
    label, kind = _commonest([(file.label, file.kind) for _, file in found])
    return Content(
        sha256=sha256,
        size=first.size,
        label=label,
        kind=kind,
        holders=holders,
        places=len(places),
        files=tuple((name, file.path) for name, file in found),
        repeated_in=repeated,
        linkable=len(everywhere) - len(set(everywhere)),
        hard_linkable=len(bulk) - len(set(bulk)),
    )


def _commonest(names: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """What most are called; the first one's name, where none wins."""
    if names.count(names[0]) == len(names):
        return names[0]
    # `most_common` keeps the order of first appearance among equals.
    return Counter(names).most_common(1)[0][0]


def _places(files: Iterable[Held]) -> dict[Hashable, int]:
    return {file.place: file.size for file in files}
