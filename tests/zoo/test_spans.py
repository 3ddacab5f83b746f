from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zoo.spans import MOST_SPANS, SLOT_BYTES, Spans, read_record, record

SIZE = 60

intervals = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), max_size=12)


def positions(pairs: object) -> set[int]:
    return {at for start, end in pairs for at in range(start, end)}  # type: ignore[attr-defined]


@given(intervals, st.integers(0, SIZE), st.integers(0, SIZE))
def test_spans_are_sets_of_positions(pairs: list[tuple[int, int]], start: int, end: int) -> None:
    spans, model = Spans.of(pairs), positions(pairs)
    assert positions(spans) == model
    assert spans.total == len(model)
    assert spans.front == next(at for at in range(SIZE + 1) if at not in model)
    assert positions(spans.plus(start, end)) == model | set(range(start, end))
    assert positions(spans.within(start, end)) == model & set(range(start, end))
    assert positions(spans.gaps(start, end)) == set(range(start, end)) - model
    assert all(a < b for a, b in spans)
    assert all(one[1] < other[0] for one, other in zip(spans.parts, spans.parts[1:], strict=False))


@given(st.lists(intervals, min_size=1, max_size=6), st.integers(0, 2 * SLOT_BYTES), st.binary(max_size=40))
def test_a_torn_record_gives_the_state_before(history: list[list[tuple[int, int]]], at: int, noise: bytes) -> None:
    states = [Spans.of(pairs) for pairs in history]
    data = bytearray(2 * SLOT_BYTES)
    for sequence, spans in enumerate(states):
        place, line = record(spans, SIZE, sequence)
        before = bytes(data)
        data[place : place + len(line)] = line
    last = len(states) - 1
    assert read_record(bytes(data), SIZE) == (states[last], last)
    # The last write got no further than `cut` bytes of its line, then noise: the state before is still there.
    place, line = record(states[last], SIZE, last)
    cut = at % len(line)
    torn = bytearray(before)
    torn[place : place + cut] = line[:cut]
    torn[place + cut : place + cut + len(noise)] = noise
    found = read_record(bytes(torn[: 2 * SLOT_BYTES]), SIZE)
    expected = {(states[last], last), (states[last - 1], last - 1) if last else None}
    assert found in expected


def test_a_record_has_room_for_what_it_may_hold() -> None:
    far = 10**15
    spans = Spans.of((far + 10 * n, far + 10 * n + 1) for n in range(MOST_SPANS + 5))
    place, line = record(spans, 2 * far, 10**15)
    assert len(line) <= SLOT_BYTES
    found = read_record(b"\0" * place + line, 2 * far)
    assert found == (Spans(spans.parts[:MOST_SPANS]), 10**15)


def test_what_is_no_record() -> None:
    _, line = record(Spans(((0, 5),)), 10, 4)
    assert read_record(line, 10) == (Spans(((0, 5),)), 4)
    for data in (b"", b"\n", b"zoo", line[:-2], line.replace(b"5", b"6"), b"\xff" * 9000, line[1:]):
        assert read_record(data, 10) is None
    assert read_record(line, 11) is None, "of a file of another size"
