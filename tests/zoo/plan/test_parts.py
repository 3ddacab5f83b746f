from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zoo.plan.parts import LARGEST_PART, SMALLEST_PART, PartRule, next_part
from zoo.spans import Spans

rules = st.builds(PartRule, connections=st.integers(1, 6), smallest=st.integers(1, 30), largest=st.integers(30, 100))
intervals = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=6)


@given(intervals, st.integers(0, 400), rules, st.randoms(use_true_random=False))
def test_everything_missing_is_brought_once_whoever_ends_first(
    pairs: list[tuple[int, int]], size: int, rule: PartRule, chance: object
) -> None:
    there = Spans.of(pairs).within(0, size)
    taken: list[tuple[int, int]] = []
    brought: list[int] = [at for start, end in there for at in range(start, end)]
    while (part := next_part(there, taken, size, rule)) is not None or taken:
        if part is not None and len(taken) < rule.connections:
            start, end = part
            assert 0 <= start < end <= size
            taken.append(part)
        else:
            # One of the connections ends: at the end of its part, or cut off before.
            start, end = taken.pop(chance.randrange(len(taken)))  # type: ignore[attr-defined]
            cut = chance.randint(start + 1, end)  # type: ignore[attr-defined]
            brought.extend(range(start, cut))
            there = there.plus(start, cut)
    assert sorted(brought) == list(range(size))


@given(intervals, st.integers(0, 400), rules)
def test_parts_are_neither_tiny_nor_huge(pairs: list[tuple[int, int]], size: int, rule: PartRule) -> None:
    there = Spans.of(pairs).within(0, size)
    part = next_part(there, [], size, rule)
    gaps = there.gaps(0, size)
    if part is None:
        assert not gaps.parts
        return
    first = gaps.parts[0]
    assert part[0] == first[0], "the first missing byte is what the digest waits for"
    if rule.divides(gaps.total) and part != first:
        assert rule.smallest <= part[1] - part[0] <= rule.largest
        assert first[1] - part[1] >= rule.smallest


def test_files_that_travel_in_one_piece() -> None:
    rule = PartRule(connections=4)
    assert next_part(Spans(), [], 2 * SMALLEST_PART - 1, rule) == (0, 2 * SMALLEST_PART - 1)
    assert next_part(Spans(), [], 1 << 40, PartRule()) == (0, 1 << 40)
    assert next_part(Spans(), [], 2 * SMALLEST_PART, rule) == (0, SMALLEST_PART)
    assert next_part(Spans(), [], 1 << 40, rule) == (0, LARGEST_PART)
    assert next_part(Spans(((0, 7),)), [(7, 20)], 20, rule) is None
