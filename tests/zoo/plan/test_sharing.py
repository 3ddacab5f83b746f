from __future__ import annotations

import hashlib
import itertools

from hypothesis import given
from hypothesis import strategies as st

from zoo.plan.sharing import Held, Holder, find_sharing

CONTENTS = (b"", b"1", b"22", b"333", b"x" * 7)


def held(path: str, content: bytes | None, *, size: int = 0, place: object = None, region: str = "") -> Held:
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    count = size if content is None else len(content)
    return Held(path, count, sha256, label=path, kind="other", place=place or path, region=region)


@st.composite
def zoos(draw: st.DrawFn) -> list[Holder]:
    """Holders with files at places; some places are shared, and a place has one content."""
    places = [
        (number, draw(st.sampled_from([*CONTENTS, None])), draw(st.sampled_from(["", "other disk"])))
        for number in range(draw(st.integers(0, 8)))
    ]
    holders = []
    for name in "abcd"[: draw(st.integers(0, 4))]:
        chosen = draw(st.lists(st.sampled_from(places), max_size=6)) if places else []
        files = tuple(
            held(f"file{index}", content, size=5, place=number, region=region)
            for index, (number, content, region) in enumerate(chosen)
        )
        holders.append(Holder(name, draw(st.sampled_from(["f", "g"])), files))
    return holders


@given(zoos())
def test_totals_equal_counting_by_hand(holders: list[Holder]) -> None:
    sharing = find_sharing(holders)
    files = [(holder.name, file) for holder in holders for file in holder.files]
    places = {file.place: file for _, file in files}
    assert sharing.stored == sum(file.size for file in places.values())
    assert sharing.unknown == sum(file.size for file in places.values() if file.sha256 is None)
    digests = {file.sha256: file.size for file in places.values() if file.sha256 is not None}
    assert sharing.distinct == sum(digests.values())
    assert sharing.stored == sharing.distinct + sharing.duplicated + sharing.unknown
    by_region = {(file.region, file.sha256): file.size for file in places.values() if file.sha256 is not None}
    assert sharing.linkable == sum(file.size for file in places.values() if file.sha256) - sum(by_region.values())
    assert 0 <= sharing.hard_linkable <= sharing.linkable <= sharing.duplicated


@given(zoos())
def test_holders_pairs_and_groups_equal_counting_by_hand(holders: list[Holder]) -> None:
    sharing = find_sharing(holders)
    contents = {
        holder.name: {file.sha256: file.size for file in holder.files if file.sha256 is not None} for holder in holders
    }
    for total, holder in zip(sharing.totals, holders, strict=True):
        mine = contents[holder.name]
        others = set().union(*(found for name, found in contents.items() if name != holder.name))
        assert total.distinct == sum(mine.values())
        assert total.shared == sum(size for sha256, size in mine.items() if sha256 in others)
        assert total.size == total.distinct + total.twice + total.unknown
        assert sharing.common(holder.name, holder.name) == total.distinct
    for one, other in itertools.combinations(contents, 2):
        common = sum(size for sha256, size in contents[one].items() if sha256 in contents[other])
        assert sharing.common(one, other) == sharing.common(other, one) == common
    assert sum(group.size for group in sharing.groups) == sharing.distinct
    assert len({group.holders for group in sharing.groups}) == len(sharing.groups)
    assert [pair[:2] for pair in sharing.pairs] == [
        pair for pair in itertools.combinations(contents, 2) if contents[pair[0]].keys() & contents[pair[1]].keys()
    ]


@given(zoos())
def test_the_order_of_files_does_not_matter(holders: list[Holder]) -> None:
    mixed = [Holder(h.name, h.family, tuple(reversed(h.files))) for h in holders]
    one, other = find_sharing(holders), find_sharing(mixed)
    assert [(c.sha256, c.holders, c.files, c.places) for c in one.contents] == [
        (c.sha256, c.holders, c.files, c.places) for c in other.contents
    ]


def test_names_and_sizes_prove_nothing() -> None:
    same_name = [Holder(name, "f", (held("weight.bin", None, size=100, place=name),)) for name in "ab"]
    sharing = find_sharing(same_name)
    assert (sharing.duplicated, sharing.unknown, sharing.distinct) == (0, 200, 0)
    assert sharing.pairs == ()


def test_a_hard_link_is_stored_once_and_shared() -> None:
    sharing = find_sharing([Holder(name, "f", (held("w.bin", b"12345", place=(1, 2)),)) for name in "ab"])
    assert (sharing.stored, sharing.duplicated) == (5, 0)
    assert sharing.common("a", "b") == 5


def test_what_one_holder_knows_about_a_place_holds_for_the_other() -> None:
    sharing = find_sharing(
        [
            Holder("a", "f", (held("w.bin", b"12345", place=1),)),
            Holder("b", "f", (held("w.bin", None, size=5, place=1),)),
        ]
    )
    assert (sharing.unknown, sharing.distinct) == (0, 5)


def test_two_digests_of_one_place_cannot_both_be_right() -> None:
    sharing = find_sharing(
        [Holder("a", "f", (held("w.bin", b"12345", place=1),)), Holder("b", "f", (held("w.bin", b"54321", place=1),))]
    )
    assert (sharing.unknown, sharing.distinct, sharing.stored) == (5, 0, 5)


def test_hard_links_are_for_large_weights_only() -> None:
    large = b"w" * (1 << 20)
    holders = [
        Holder(name, "f", (held("w.bin", large, place=(name, 1)), held("config.json", b"{}", place=(name, 2))))
        for name in "ab"
    ]
    sharing = find_sharing(holders)
    assert sharing.linkable == len(large) + 2
    assert sharing.hard_linkable == len(large)


def test_several_copies_in_one_holder_are_named() -> None:
    holder = Holder("a", "f", (held("chunk3", b"1234", place=1), held("chunk4", b"1234", place=2)))
    sharing = find_sharing([holder, Holder("b", "f", (held("chunk4", b"1234", place=3),))])
    (content,) = sharing.contents
    assert content.repeated_in == ("a",)
    assert content.label == "chunk4"
    assert content.wasted == 8
    assert [total.twice for total in sharing.totals] == [4, 0]
