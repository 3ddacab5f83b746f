"""What two bundles have in common, path by path and byte by byte. Pure: no input, no output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from zoo.paths import model_folder

Relation = Literal["shared", "renamed", "changed", "unknown", "only_here", "only_there"]
"""How a path of one side relates to the other side.

- `shared`: the same path with the same sha256.
- `renamed`: the path is on one side only, and the other side has its bytes at another path.
- `changed`: the same path, proven to be other bytes.
- `unknown`: a digest is missing, so nobody can tell.
- `only_here`, `only_there`: the path is on one side only, and no file of the other side is known to have its bytes.
"""

RELATIONS: tuple[Relation, ...] = ("shared", "renamed", "changed", "only_here", "only_there", "unknown")
"""In the order of reports."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One file of one side.

    Attributes:
        path: in the bundle.
        size: bytes; an estimate unless `exact`.
        sha256: of the bytes; None where nobody knows or needed to read them.
        exact: whether `size` was measured. A provisional lock only expects a size.
        component: what a lock says it belongs to; None in a folder.
    """

    path: str
    size: int
    sha256: str | None
    exact: bool
    component: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One path, on one side or on both.

    Attributes:
        path: in the bundle.
        unit: what reports group it by: a component, else a model folder, else the path itself.
        relation: how the sides relate there.
        here, there: the file on each side; None where the path does not exist.
        elsewhere: paths of the other side that have the same bytes, for `renamed`.
    """

    path: str
    unit: str
    relation: Relation
    here: Compared | None
    there: Compared | None
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sum:
    """Files and bytes of one relation, on each side; every path counts."""

    files: int = 0
    here: int = 0
    there: int = 0


@dataclass(frozen=True, slots=True)
class Missing:
    """What somebody who has one side lacks of the other; identical contents count once.

    Attributes:
        known: bytes that the other side is not known to have.
        unknown: bytes of files that cannot be compared for want of a digest; some may be there already.
    """

    known: int
    unknown: int


@dataclass(frozen=True)
class Diff:
    """Two sides compared.

    Attributes:
        rows: one per path, in path order.
        to_there: what must come to someone who has this side, so that they have the other.
        to_here: the same in the other direction.
    """

    rows: tuple[Row, ...]
    to_there: Missing
    to_here: Missing

    @property
    def same(self) -> bool:
        """Whether both sides are proven to be the same files."""
        return all(row.relation == "shared" for row in self.rows)

    def totals(self) -> dict[Relation, Sum]:
        """Files and bytes of every relation; all relations are there."""
        return totals(self.rows)

    def by_unit(self) -> dict[str, dict[Relation, Sum]]:
        """The same for each component, in order of its first path."""
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.unit, []).append(row)
        return {unit: totals(rows) for unit, rows in grouped.items()}


def totals(rows: Iterable[Row]) -> dict[Relation, Sum]:
    """Files and bytes of every relation; all relations are there."""
    files = dict.fromkeys(RELATIONS, 0)
    here = dict.fromkeys(RELATIONS, 0)
    there = dict.fromkeys(RELATIONS, 0)
    for row in rows:
        files[row.relation] += 1
        here[row.relation] += row.here.size if row.here else 0
        there[row.relation] += row.there.size if row.there else 0
    return {relation: Sum(files[relation], here[relation], there[relation]) for relation in RELATIONS}


def diff(here: Sequence[Compared], there: Sequence[Compared]) -> Diff:
    """Compare two sides; `diff(b, a)` says the same as `diff(a, b)` with the sides exchanged.

    Nothing is ever called the same because of its name or size.

    Args:
        here: the files of one side, each path once.
        there: those of the other.
    """
    left = {file.path: file for file in here}
    right = {file.path: file for file in there}
    left_contents = _paths_by_content(here)
    right_contents = _paths_by_content(there)
    units = _Units([*here, *there])
    rows = []
    for path in sorted(left.keys() | right.keys()):
        mine, theirs = left.get(path), right.get(path)
        if mine is not None and theirs is not None:
            rows.append(Row(path, units.of(path), _relation(mine, theirs), mine, theirs))
        elif mine is not None:
            relation, elsewhere = _one_sided(mine, right_contents, there, "only_here")
            rows.append(Row(path, units.of(path), relation, mine, None, elsewhere))
        elif theirs is not None:
            relation, elsewhere = _one_sided(theirs, left_contents, here, "only_there")
            rows.append(Row(path, units.of(path), relation, None, theirs, elsewhere))
    return Diff(tuple(rows), _missing(there, here), _missing(here, there))


class _Units:
    """What paths are grouped by: whatever side knows a component names it, for all of its model folder."""

    def __init__(self, files: Iterable[Compared]) -> None:
        self._names: dict[str, str] = {}
        for file in files:
            if file.component is not None:
                key = model_folder(file.path) or file.path
                # Two locks may call it differently; the choice must not depend on which side is which.
                self._names[key] = min(file.component, self._names.get(key, file.component))

    def of(self, path: str) -> str:
        """The unit that `path` belongs to."""
        key = model_folder(path) or path
        return self._names.get(key, key)


def _paths_by_content(files: Iterable[Compared]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for file in files:
        if file.sha256 is not None:
            found.setdefault(file.sha256, []).append(file.path)
    return {sha256: tuple(sorted(paths)) for sha256, paths in found.items()}


def _relation(mine: Compared, theirs: Compared) -> Relation:
    if mine.sha256 is not None and theirs.sha256 is not None:
        return "shared" if mine.sha256 == theirs.sha256 else "changed"
    return "unknown" if _may_be_equal(mine, theirs) else "changed"


def _may_be_equal(one: Compared, other: Compared) -> bool:
    """Whether two files, not both with a digest, could have the same bytes: only measured sizes prove otherwise."""
    if one.sha256 is not None and other.sha256 is not None:
        return one.sha256 == other.sha256
    return not (one.exact and other.exact and one.size != other.size)


def _one_sided(
    file: Compared, others: Mapping[str, tuple[str, ...]], other_side: Sequence[Compared], alone: Relation
) -> tuple[Relation, tuple[str, ...]]:
    """The relation of a path that one side has, and where the other side has its bytes."""
    if file.sha256 is None:
        return ("unknown" if any(_may_be_equal(file, other) for other in other_side) else alone), ()
    elsewhere = others.get(file.sha256, ())
    return ("renamed" if elsewhere else alone), elsewhere


def _missing(wanted: Iterable[Compared], present: Sequence[Compared]) -> Missing:
    there = {file.sha256 for file in present if file.sha256 is not None}
    known: dict[str, int] = {}
    unknown = 0
    for file in wanted:
        if file.sha256 is None and any(_may_be_equal(file, other) for other in present):
            unknown += file.size
        elif file.sha256 not in there:
            # Without a digest and yet known to be missing: its measured size is that of no other file.
            known[file.sha256 or f"path {file.path}"] = file.size
    return Missing(sum(known.values()), unknown)
