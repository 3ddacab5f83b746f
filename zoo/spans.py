"""Which bytes of a file are there, when they do not arrive in order: values, and the record of them beside the file.

The record outlives `kill -9` and a power cut at any moment: it is written in turn to one of two slots, each with a
sequence number and a checksum, so one whole slot is there whatever happens to the other. It is written after the
bytes it speaks of; what it does not mention is fetched again. After a power cut the record may have reached the disk
and the bytes not: a record from before the machine started is believed as far as the bytes had been flushed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

SLOT_BYTES = 4096
"""Room for one state of the record: one page, so that a kill finds it written or not."""

MOST_SPANS = 55
"""Spans of each kind a slot has room for: two positions of at most sixteen digits each. The file's beginning counts
most, so those at its end are forgotten first."""

_SAFE = "safe"
_NO_BOOT = "-"

_LARGEST = 10**16 - 1


@dataclass(frozen=True, slots=True)
class Spans:
    """Positions of bytes as half-open intervals `(start, end)`: ascending, apart from each other, none empty."""

    parts: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, intervals: Iterable[tuple[int, int]]) -> Self:
        """The positions that are in at least one of `intervals`."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted(interval for interval in intervals if interval[0] < interval[1]):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        return cls(tuple(merged))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.parts)

    @property
    def total(self) -> int:
        """How many positions."""
        return sum(end - start for start, end in self.parts)

    @property
    def front(self) -> int:
        """The first position that is missing: all before it are there."""
        return self.parts[0][1] if self.parts and self.parts[0][0] == 0 else 0

    def plus(self, start: int, end: int) -> Self:
        """With the positions from `start` up to `end` too."""
        return type(self).of((*self.parts, (start, end)))

    def within(self, start: int, end: int) -> Self:
        """Those that lie between `start` and `end`."""
        return type(self).of((max(start, a), min(end, b)) for a, b in self.parts)

    def gaps(self, start: int, end: int) -> Self:
        """The positions between `start` and `end` that are missing."""
        inside = self.within(start, end)
        edges = ((start, start), *inside, (end, end))
        return type(self).of((one[1], other[0]) for one, other in pairwise(edges))


NOTHING = Spans()
"""No position."""


@dataclass(frozen=True, slots=True)
class State:
    """One state of a record.

    Attributes:
        there: what has been written.
        size: bytes the file will have.
        sequence: one more than that of the state before.
        safe: what has been flushed to the disk.
        boot: which start of the machine `there` is about; empty if the system does not tell.
    """

    there: Spans
    size: int
    sequence: int = 0
    safe: Spans = NOTHING
    boot: str = ""

    def believed(self, boot: str) -> Spans:
        """What is on the disk, now that the machine's start is `boot`."""
        return self.there if boot == self.boot else self.safe


def record(there: Spans, size: int, sequence: int, safe: Spans = NOTHING, boot: str = "") -> tuple[int, bytes]:
    """Where a `State` goes in the record's file, and its bytes; of each kind the first `MOST_SPANS` are written down.

    A line `sequence size there... safe boot safe... checksum`, the intervals as `start-end`. The app's
    `ZooArriving.swift` reads it, too.
    """
    written, flushed = ([f"{start}-{end}" for start, end in spans.parts[:MOST_SPANS]] for spans in (there, safe))
    words = [str(sequence), str(size), *written, _SAFE, boot or _NO_BOOT, *flushed]
    line = " ".join(words).encode("ascii")
    return sequence % 2 * SLOT_BYTES, b"%s %08x\n" % (line, zlib.crc32(line))


def read_record(data: bytes, size: int | None = None) -> State | None:
    """The newest whole state of a record.

    Args:
        data: the record's file.
        size: bytes the file it is about will have, if known; a record of another size is not believed.

    Returns:
        None if no slot is whole.
    """
    found = [state for at in (0, SLOT_BYTES) if (state := _read_slot(data[at : at + SLOT_BYTES], size)) is not None]
    return max(found, key=lambda state: state.sequence, default=None)


def _read_slot(data: bytes, size: int | None) -> State | None:
    line, _, checksum = data.partition(b"\n")[0].rpartition(b" ")
    if checksum != b"%08x" % zlib.crc32(line):
        return None
    try:
        sequence, said, *words = line.decode("ascii").split(" ")
        if size not in (None, _position(said)):
            return None
        middle = words.index(_SAFE)
        boot = words[middle + 1].removeprefix(_NO_BOOT) if middle + 1 < len(words) else ""
        there, safe = (_spans(part, _position(said)) for part in (words[:middle], words[middle + 2 :]))
        return State(there, _position(said), _position(sequence), safe, boot)
    except ValueError:
        return None


def _spans(words: Iterable[str], size: int) -> Spans:
    intervals = [tuple(map(_position, word.split("-"))) for word in words]
    return Spans.of((start, end) for start, end in intervals if start < end <= size)


def _position(word: str) -> int:
    if not word.isdigit() or int(word) > _LARGEST:
        raise ValueError(word)
    return int(word)
