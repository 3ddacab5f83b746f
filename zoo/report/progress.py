"""Progress on stderr: live bars on a terminal, a line now and then elsewhere, nothing when it is quick."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from zoo.events import Progress, Silent
from zoo.report.sizes import human_bytes

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Unit = Literal["bytes", "steps"]
LINE_EVERY_SECONDS = 10.0
"""How often a log without a terminal gets a line: often enough to see life, rare enough to read."""


@contextmanager
def progress_display(title: str, *, unit: Unit, quiet: bool = False) -> Iterator[Progress]:
    """Show progress of a piece of work for as long as the context lasts.

    Args:
        title: what is being done, e.g. `Fetching`.
        unit: `bytes`, or `steps` (fractions of a step are reported in thousandths).
        quiet: show nothing.
    """
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with _live(title, unit) as display:
            yield display
    else:
        yield _Lines(title, unit)


@contextmanager
def _live(title: str, unit: Unit) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as RichProgress

    figures: list[ProgressColumn]
    if unit == "bytes":
        figures = [DownloadColumn(), TransferSpeedColumn()]
    else:
        figures = [TextColumn("{task.fields[count]}"), TimeElapsedColumn()]
    del MofNCompleteColumn
    columns = [TextColumn("{task.description}"), BarColumn(bar_width=28), *figures]
    with RichProgress(*columns, console=Console(stderr=True), transient=True, expand=False) as bars:
        yield _Live(bars, title, unit)


class _Live:
    """Rich bars: one for everything, one per item under way."""

    def __init__(self, bars: RichProgress, title: str, unit: Unit) -> None:
        self._bars = bars
        self._unit = unit
        self._guard = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._total = 0
        self._done_items = 0
        self._all = bars.add_task(f"[bold]{title}", total=0, count="")

    def _count(self) -> str:
        return f"{self._done_items} done, {len(self._tasks)} running" if self._unit == "steps" else ""

    def start(self, item: str, total: int, done: int = 0) -> None:
        with self._guard:
            self._total += total
            self._tasks[item] = self._bars.add_task(f"  {item}", total=total, completed=done, count="")
            self._bars.update(self._all, total=self._total, advance=done, count=self._count())

    def advance(self, item: str, amount: int) -> None:
        with self._guard:
            if item in self._tasks:
                self._bars.advance(self._tasks[item], amount)
            self._bars.advance(self._all, amount)

    def finish(self, item: str, note: str = "") -> None:
        with self._guard:
            task = self._tasks.pop(item, None)
            if task is not None:
                self._bars.remove_task(task)
            self._done_items += 1
            self._bars.update(self._all, count=self._count())
        if note:
            self.say(f"[green]✓[/] {item} [dim]{note}[/]")

    def say(self, text: str) -> None:
        self._bars.console.print(text, highlight=False)


class _Lines:
    """A line when an item is complete and every few seconds in between."""

    def __init__(self, title: str, unit: Unit) -> None:
        self._title = title
        self._unit = unit
        self._guard = threading.Lock()
        self._total = 0
        self._done = 0
        self._items: dict[str, list[int]] = {}
        self._last = time.monotonic()

    def start(self, item: str, total: int, done: int = 0) -> None:
        with self._guard:
            self._total += total
            self._done += done
            self._items[item] = [done, total]

    def advance(self, item: str, amount: int) -> None:
        with self._guard:
            self._done += amount
            if item in self._items:
                self._items[item][0] += amount
            now = time.monotonic()
            if now - self._last < LINE_EVERY_SECONDS or not self._total:
                return
            self._last = now
            line = f"{self._title}: {self._state()}"
        self.say(line)

    def _state(self) -> str:
        if self._unit == "bytes":
            return f"{human_bytes(self._done)} of {human_bytes(self._total)}, {100 * self._done // self._total} %"
        # Steps begin one after another, so the sum over those begun says nothing about all of them.
        return ", ".join(f"{item} {100 * done // max(1, total)} %" for item, (done, total) in self._items.items())

    def finish(self, item: str, note: str = "") -> None:
        with self._guard:
            self._items.pop(item, None)
        if note:
            self.say(f"{self._title}: {item} {note}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
