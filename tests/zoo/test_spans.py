from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zoo.spans import MOST_SPANS, SLOT_BYTES, Spans, State, read_record, record

SIZE = 60

intervals = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), max_size=12)


def write(state: State) -> tuple[int, bytes]:
    return record(state.there, state.size, state.sequence, state.safe, state.boot)


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
    states = [State(Spans.of(pairs), SIZE, number) for number, pairs in enumerate(history)]
    data = bytearray(2 * SLOT_BYTES)
    for state in states:
        place, line = write(state)
        before = bytes(data)
        data[place : place + len(line)] = line
    last = len(states) - 1
    assert read_record(bytes(data), SIZE) == states[last]
    # The last write got no further than `cut` bytes of its line, then noise: the state before is still there.
    place, line = write(states[last])
    cut = at % len(line)
    torn = bytearray(before)
    torn[place : place + cut] = line[:cut]
    torn[place + cut : place + cut + len(noise)] = noise
    found = read_record(bytes(torn[: 2 * SLOT_BYTES]), SIZE)
    assert found in (states[last], states[last - 1] if last else None)


def test_a_record_has_room_for_what_it_may_hold() -> None:
    far = 10**15
    spans = Spans.of((far + 10 * n, far + 10 * n + 1) for n in range(MOST_SPANS + 5))
    place, line = record(spans, 2 * far, 10**15, spans, "0" * 36)
    assert len(line) <= SLOT_BYTES
    kept = Spans(spans.parts[:MOST_SPANS])
    assert read_record(b"\0" * place + line, 2 * far) == State(kept, 2 * far, 10**15, kept, "0" * 36)


def test_after_a_start_of_the_machine_only_flushed_bytes_are_believed() -> None:
    state = State(Spans(((0, 9),)), 20, safe=Spans(((0, 4),)), boot="monday")
    assert state.believed("monday") == state.there
    assert state.believed("tuesday") == state.safe


def test_what_is_no_record() -> None:
    state = State(Spans(((0, 5),)), 10, 4)
    _, line = write(state)
    assert read_record(line, 10) == read_record(line) == state
    for data in (b"", b"\n", b"zoo", line[:-2], line.replace(b"5", b"6"), b"\xff" * 9000, line[1:]):
        assert read_record(data, 10) is None
    assert read_record(line, 11) is None, "of a file of another size"
