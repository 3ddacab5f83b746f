"""A few threads for compiled loops that run without Python's lock; as many as torch uses for its own operations.

Numba's parallel loops are not used: two of their three thread pools must not be called from two threads at a time,
and the third is not part of its package.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import torch

Task = Callable[[int, int], object]
"""Works on the items from the first number up to, without, the second."""


_reserved: ContextVar[int] = ContextVar("_reserved", default=0)
"""Threads that `reserved` keeps for `shared`, 0 for none."""


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """Keeps torch's operations in the calling thread, so that all cores are there for `shared`.

    After each operation that torch divides, its threads stay busy waiting for the next one, for some milliseconds.
    Where such operations are small beside the loops that `shared` runs in between, those threads cost more than they
    bring: half of the time of a decode step.
    """
    threads = torch.get_num_threads()
    token = _reserved.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _reserved.reset(token)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="zoo-mil")


if hasattr(os, "register_at_fork"):
    # A forked process has the pool, but not its threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def shared(task: Task, items: int, least: int) -> None:
    """Divides the numbers 0 to `items` among threads, this one included, and waits for all.

    Args:
        task: called with a range of numbers, in several threads at a time. Raises nothing that is to be caught.
        items: how many there are.
        least: fewer than this are not worth a thread.
    """
    available = _reserved.get() or torch.get_num_threads()
    threads = min(available, items // max(least, 1))
    if threads < 2:
        task(0, items)
        return
    bounds = [items * number // threads for number in range(threads + 1)]
    others = [_pool(available).submit(task, *bounds[i : i + 2]) for i in range(1, threads)]
    try:
        task(*bounds[:2])
    finally:
        for other in others:
            other.result()
