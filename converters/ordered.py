"""Work on parts side by side in threads, results in order.

For functions that release the GIL: compiled kernels, NumPy, reading. Threads of Python's own, not OpenMP's: a process
that has run OpenMP must not fork, and coremltools does.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(function: Callable[[Part], Result], parts: Iterable[Part], threads: int) -> Iterator[Result]:
    """`map` on several threads. At most `threads + 1` results wait for being taken, so memory stays bounded.

    Args:
        function: called once per part; an exception ends the iteration.
        parts: taken one by one.
        threads: 1 works in the calling thread.
    """
    if threads == 1:
        yield from map(function, parts)
        return
    with ThreadPoolExecutor(threads, "zoo-weights") as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for part in parts:
                pending.append(pool.submit(function, part))
                if len(pending) > threads + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for left in pending:
                left.cancel()
