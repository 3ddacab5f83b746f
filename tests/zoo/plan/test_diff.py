from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from zoo.plan.diff import RELATIONS, Compared, Diff, diff

EXCHANGED = {"only_here": "only_there", "only_there": "only_here"}


def known(path: str, content: bytes, component: str | None = None) -> Compared:
    return Compared(path, len(content), hashlib.sha256(content).hexdigest(), exact=True, component=component)


def expected(path: str, size: int) -> Compared:
    """A file of a provisional lock."""
    return Compared(path, size, None, exact=False, component=None)


def unread(path: str, size: int) -> Compared:
    """A file of a folder that nobody needed to read."""
    return Compared(path, size, None, exact=True)


PATHS = ("a", "b", "c", "m.mlpackage/x", "m.mlpackage/y")


def _file(path: str) -> st.SearchStrategy[Compared]:
    contents = st.sampled_from([b"", b"1", b"2", b"33", b"44", b"555"])
    component = st.sampled_from([None, "one", "two"])
    return st.one_of(
        st.builds(known, st.just(path), contents, component),
        st.builds(expected, st.just(path), st.integers(0, 3)),
    )


SIDES = st.sets(st.sampled_from(PATHS)).flatmap(lambda paths: st.tuples(*map(_file, sorted(paths))))


def relations(found: Diff) -> dict[str, str]:
    return {row.path: row.relation for row in found.rows}


def test_every_relation() -> None:
    here = [
        known("same", b"1"),
        known("old name", b"22"),
        known("edited", b"333"),
        known("mine", b"4"),
        expected("p", 9),
    ]
    there = [
        known("same", b"1"),
        known("new name", b"22"),
        known("edited", b"334"),
        known("theirs", b"5"),
        known("p", b"9"),
    ]
    found = diff(here, there)
    assert relations(found) == {
        "same": "shared",
        "old name": "renamed",
        "new name": "renamed",
        "edited": "changed",
        "mine": "only_here",
        "theirs": "only_there",
        "p": "unknown",
    }
    assert next(row.elsewhere for row in found.rows if row.path == "new name") == ("old name",)
    assert (found.to_there.known, found.to_there.unknown) == (3 + 1 + 1, 0)
    assert (found.to_here.known, found.to_here.unknown) == (3 + 1, 9)


def test_only_measured_sizes_prove_a_difference() -> None:
    assert relations(diff([expected("a", 1)], [known("a", b"22")])) == {"a": "unknown"}
    assert relations(diff([expected("a", 2)], [unread("a", 2)])) == {"a": "unknown"}
    assert relations(diff([unread("a", 1)], [known("a", b"22")])) == {"a": "changed"}
    assert relations(diff([unread("a", 1)], [known("b", b"22")])) == {"a": "only_here", "b": "only_there"}


def test_a_model_folder_is_one_unit_when_one_side_knows_its_component() -> None:
    here = [known("m.mlpackage/x", b"1", "model"), known("t", b"2", "tokenizer")]
    there = [unread("m.mlpackage/extra", 7), unread("n.mlpackage/x", 7), unread("t", 7)]
    units = {row.path: row.unit for row in diff(here, there).rows}
    assert units == {
        "m.mlpackage/extra": "model",
        "m.mlpackage/x": "model",
        "n.mlpackage/x": "n.mlpackage",
        "t": "tokenizer",
    }


@given(SIDES, SIDES)
def test_exchanging_the_sides_exchanges_the_answer(here: Sequence[Compared], there: Sequence[Compared]) -> None:
    found, mirrored = diff(here, there), diff(there, here)
    assert [replace_sides(row.relation) for row in found.rows] == [row.relation for row in mirrored.rows]
    assert [(row.path, row.unit, row.here, row.there, row.elsewhere) for row in found.rows] == [
        (row.path, row.unit, row.there, row.here, row.elsewhere) for row in mirrored.rows
    ]
    assert (found.to_here, found.to_there) == (mirrored.to_there, mirrored.to_here)


def replace_sides(relation: str) -> str:
    return EXCHANGED.get(relation, relation)


@given(SIDES, SIDES)
def test_bytes_add_up(here: Sequence[Compared], there: Sequence[Compared]) -> None:
    found = diff(here, there)
    totals = found.totals()
    assert set(totals) == set(RELATIONS)
    assert sum(total.here for total in totals.values()) == sum(file.size for file in here)
    assert sum(total.there for total in totals.values()) == sum(file.size for file in there)
    assert sum(total.files for total in totals.values()) == len({file.path for file in (*here, *there)})
    assert totals["shared"].here == totals["shared"].there
    by_unit = found.by_unit()
    for relation in RELATIONS:
        assert sum(unit[relation].here for unit in by_unit.values()) == totals[relation].here
        assert sum(unit[relation].files for unit in by_unit.values()) == totals[relation].files


@given(SIDES, SIDES)
def test_equality_is_never_claimed_without_two_digests(here: Sequence[Compared], there: Sequence[Compared]) -> None:
    digests = [{file.sha256 for file in side if file.sha256} for side in (here, there)]
    for row in diff(here, there).rows:
        if row.relation == "shared":
            assert row.here is not None
            assert row.there is not None
            assert row.here.sha256 is not None
            assert row.here.sha256 == row.there.sha256
        if row.relation == "renamed":
            file = row.here or row.there
            assert file is not None
            assert file.sha256 in digests[0] & digests[1]
        if row.relation == "changed":
            assert row.here is not None
            assert row.there is not None
            assert row.here.sha256 != row.there.sha256
            assert (row.here.sha256 and row.there.sha256) or (row.here.exact and row.there.exact)


@given(SIDES)
def test_a_side_lacks_nothing_of_itself_and_everything_of_nothing(side: Sequence[Compared]) -> None:
    against_itself = diff(side, side)
    assert against_itself.to_here == against_itself.to_there
    assert against_itself.to_there.known == 0
    assert against_itself.same == all(file.sha256 is not None for file in side)
    distinct = {file.sha256 or file.path: file.size for file in side}
    assert diff([], side).to_there.known == sum(distinct.values())
    assert diff([], side).to_there.unknown == 0


def test_a_digest_more_can_only_settle_things() -> None:
    here = [known("a", b"1"), expected("b", 2)]
    there = [known("a", b"1"), known("b", b"22")]
    assert not diff(here, there).same
    assert diff([here[0], replace(known("b", b"22"))], there).same
