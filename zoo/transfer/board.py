"""Where a thread that has nothing to fetch finds files that others fetch, to bring a part of one.

Connections are as many as threads: a file gets a second connection only when no file waits for its first.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.errors import ZooError
from zoo.transfer.arriving import Part

if TYPE_CHECKING:
    from zoo.transfer.connection import Order

LOOK_SECONDS = 0.02
"""How often a waiting helper looks whether the pull is over; everything else wakes it."""


@dataclass(eq=False)
class Shared:
    """A fetch that takes help.

    Attributes:
        order: what is fetched.
        failures: of helpers in a row, without a byte.
        rests_until: on the monotonic clock; the server asked for a pause, or is to have one.
        error: what ends the whole fetch, found by a helper.
    """

    order: Order
    failures: int = 0
    rests_until: float = 0.0
    error: ZooError | None = None


class Board:
    """Fetches that take help. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[int, Shared] = {}

    def open(self, order: Order) -> None:
        """From now on others may bring parts of this file."""
        with self._changed:
            if id(order) not in self._open:
                self._open[id(order)] = Shared(order)
                self._changed.notify_all()

    def close(self, order: Order) -> None:
        """No more help. Parts that are being brought stay with who brings them."""
        with self._changed:
            self._open.pop(id(order), None)
            self._changed.notify_all()

    def find_part(self, over: threading.Event, stop: threading.Event) -> tuple[Shared, Part] | None:
        """Wait for a part that nobody brings, of the file that misses most; None when it is `over`."""
        with self._changed:
            while not (over.is_set() or stop.is_set()):
                now = time.monotonic()
                for shared in sorted(self._open.values(), key=lambda shared: -shared.order.arriving.missing):
                    if shared.rests_until > now:
                        continue
                    try:
                        part = shared.order.arriving.take(shared.order.rule)
                    except ZooError:
                        # It stays with its own thread, which will meet the same error if it matters.
                        del self._open[id(shared.order)]
                        continue
                    if part is not None:
                        return shared, part
                self._changed.wait(LOOK_SECONDS)
            return None

    def left(self, shared: Shared, part: Part) -> None:
        """A helper is done with a part, whole or not."""
        shared.order.arriving.leave(part)
        with self._changed:
            self._changed.notify_all()

    def rest(self, shared: Shared, seconds: float) -> None:
        """Nobody helps with this file for a while."""
        with self._changed:
            shared.rests_until = time.monotonic() + seconds

    def fail(self, shared: Shared, error: ZooError) -> None:
        """The whole fetch cannot go on."""
        with self._changed:
            shared.error = error
            self._changed.notify_all()

    def take_or_wait(self, order: Order) -> Part | None:
        """The next part for the thread that answers for the file; waits a little if helpers bring all that is left.

        Raises:
            ZooError: what a helper found that ends the fetch.
        """
        with self._changed:
            shared = self._open.get(id(order))
            if shared is not None and shared.error is not None:
                raise shared.error
            part = order.arriving.take(order.rule)
            if part is None and order.arriving.missing:
                self._changed.wait(LOOK_SECONDS)
            return part
