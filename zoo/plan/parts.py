"""Which part of a file a connection takes next, when several bring one file. Pure.

Connections take the first bytes that nobody brings yet, so that sha256, which needs them in order, is never far
behind. A part is asked for by a bounded `Range` and read to its end: nothing travels twice because another connection
came to help, and the connection can be used again. Parts shrink as the file nears its end (guided self-scheduling,
Polychronopoulos and Kuck 1987), so that connections of different speed end at about the same time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zoo.spans import Spans

SMALLEST_PART = 16 << 20
"""Bytes. At 50 MB a second a third of a second: the two round trips of a request to the Hub and its CDN are a third of
that. Files of less than two such parts travel in one piece."""

LARGEST_PART = 512 << 20
"""Bytes; what a connection holds on to when another one becomes free to help."""

PARTS_EACH = 2
"""Parts that would be left for each connection if all were as large as the next one."""


@dataclass(frozen=True, slots=True)
class PartRule:
    """How files are divided.

    Attributes:
        connections: most that may bring one file at once; 1 leaves every file in one piece.
        smallest, largest: bytes of a part.
    """

    connections: int = 1
    smallest: int = SMALLEST_PART
    largest: int = LARGEST_PART

    def divides(self, missing: int) -> bool:
        """Whether several connections are worth their requests for so many bytes."""
        return self.connections > 1 and missing >= 2 * self.smallest


def next_part(there: Spans, taken: Iterable[tuple[int, int]], size: int, rule: PartRule) -> tuple[int, int] | None:
    """The part to bring next, as `(start, end)`.

    Args:
        there: what has arrived.
        taken: what other connections are bringing.
        size: bytes of the file.
        rule: how it is divided.

    Returns:
        None if somebody brings or has brought every byte.
    """
    free = Spans.of((*there, *taken)).gaps(0, size)
    if not free.parts:
        return None
    start, end = free.parts[0]
    if not rule.divides(free.total):
        return start, end
    length = min(max(free.total // (PARTS_EACH * rule.connections), rule.smallest), rule.largest)
    # A rest too small for a request of its own is brought along.
    return (start, start + length) if start + length + rule.smallest <= end else (start, end)
