"""Progress on stderr: live bars on a terminal, a line now and then elsewhere, nothing when it is quick."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from zoo.events import Progress, Silent
from zoo.report.sizes import human_bytes, human_seconds
from zoo.report.text import elide

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Unit = Literal["bytes", "steps"]

LINE_EVERY_SECONDS = 10.0
"""How often a log without a terminal gets a line: often enough to see life, rare enough to read."""

QUICK_SECONDS = 0.5
"""Work that is over by then shows no bars: they would only flicker."""

ITEM_COLUMNS = 36
"""Longest item name beside a bar, so that the bar keeps room on a terminal of eighty columns."""

NOTED_BYTES = 1_000_000
"""Smaller files are counted but get no line of their own: a bundle has dozens that take no time."""


EARLY_SECONDS = 2.0
"""Before that, nobody can say how long the rest takes."""


def seconds_left(advanced: float, remaining: float, elapsed: float) -> float | None:
    """How long the rest takes if it goes on as it went; None while that is unknown, or nothing remains.

    Args:
        advanced: units done in the time that has passed.
        remaining: units still to do.
        elapsed: that time, in seconds.
    """
    if elapsed < EARLY_SECONDS or advanced <= 0 or remaining <= 0:
        return None
    return remaining * elapsed / advanced


@contextmanager
def progress_display(title: str, *, unit: Unit, total: float | None = None, quiet: bool = False) -> Iterator[Progress]:
    """Show progress of a piece of work for as long as the context lasts.

    Args:
        title: what is being done, e.g. `Fetching`.
        unit: `bytes`, or `steps` (fractions of a step are reported in thousandths).
        total: units of the whole piece of work; without it the items begun so far add up to the total.
        quiet: show nothing.
    """
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with _live(title, unit, total) as display:
            yield display
    else:
        yield _Lines(title, unit, total)


class _Tally:
    """What both displays count: items under way, and everything together."""

    def __init__(self, unit: Unit, total: float | None) -> None:
        self.unit = unit
        self.fixed = total
        self.begun = 0.0
        self.done = 0.0
        self.found = 0.0  # of what is done: was done already when its item began
        self.since: float | None = None
        self.finished = 0
        self.items: dict[str, list[float]] = {}

    @property
    def total(self) -> float:
        return max(self.fixed or 0.0, self.begun)

    def start(self, item: str, total: float, done: float) -> None:
        self.since = time.monotonic() if self.since is None else self.since
        self.begun += total
        self.done += done
        self.found += done
        self.items[item] = [done, total]

    def advance(self, item: str, amount: float) -> None:
        self.done += amount
        if item in self.items:
            self.items[item][0] += amount

    def finish(self, item: str) -> bool:
        """Count the item as complete, and return whether it is worth a line."""
        done, total = self.items.pop(item, (0.0, 0.0))
        # What a step did not report, and what was found to be there already, is done all the same.
        self.done += total - done
        self.finished += 1
        return self.unit == "steps" or total >= NOTED_BYTES

    def left(self) -> str:
        """`3 min 05 s left`, or nothing while that is unknown."""
        if self.since is None or (self.unit == "steps" and not self.fixed):
            return ""
        seconds = seconds_left(self.done - self.found, self.total - self.done, time.monotonic() - self.since)
        return "" if seconds is None else f"{human_seconds(seconds)} left"


@contextmanager
def _live(title: str, unit: Unit, total: float | None) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
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
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        *figures,
        TextColumn("{task.fields[left]}"),
    ]
    bars = RichProgress(*columns, console=Console(stderr=True), transient=True, expand=False)
    try:
        yield _Live(bars, title, _Tally(unit, total))
    finally:
        bars.stop()


class _Live:
    """Rich bars: one for everything, one per item under way."""

    def __init__(self, bars: RichProgress, title: str, tally: _Tally) -> None:
        self._bars = bars
        self._tally = tally
        self._guard = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._all = bars.add_task(title, total=tally.total or None, count="", left="")
        self._began = time.monotonic()

    def _refresh(self) -> None:
        if time.monotonic() - self._began > QUICK_SECONDS:
            self._bars.start()
        tally = self._tally
        count = f"{tally.finished} done, {len(self._tasks)} running" if tally.unit == "steps" else ""
        self._bars.update(self._all, total=tally.total, completed=tally.done, count=count, left=tally.left())

    def start(self, item: str, total: int, done: int = 0) -> None:
        with self._guard:
            self._tally.start(item, total, done)
            self._tasks[item] = self._bars.add_task(
                f"  {elide(item, ITEM_COLUMNS)}", total=total, completed=done, count="", left=""
            )
            self._refresh()

    def advance(self, item: str, amount: int) -> None:
        with self._guard:
            self._tally.advance(item, amount)
            if item in self._tasks:
                self._bars.advance(self._tasks[item], amount)
            self._refresh()

    def finish(self, item: str, note: str = "") -> None:
        with self._guard:
            worth_a_line = self._tally.finish(item)
            task = self._tasks.pop(item, None)
            if task is not None:
                self._bars.remove_task(task)
            self._refresh()
        if note and worth_a_line:
            self.say(f"✓ {item} {note}")

    def say(self, text: str) -> None:
        # Paths and messages may contain brackets; they are text, not markup.
        self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Lines:
    """A line when an item is complete and every few seconds in between."""

    def __init__(self, title: str, unit: Unit, total: float | None) -> None:
        self._title = title
        self._tally = _Tally(unit, total)
        self._guard = threading.Lock()
        self._last = time.monotonic()

    def start(self, item: str, total: int, done: int = 0) -> None:
        with self._guard:
            self._tally.start(item, total, done)

    def advance(self, item: str, amount: int) -> None:
        with self._guard:
            self._tally.advance(item, amount)
            now = time.monotonic()
            if now - self._last < LINE_EVERY_SECONDS or not self._tally.total:
                return
            self._last = now
            line = f"{self._title}: {self._state()}"
        self.say(line)

    def _state(self) -> str:
        tally = self._tally
        said = []
        if tally.unit == "bytes":
            said.append(f"{human_bytes(int(tally.done))} of {human_bytes(int(tally.total))}")
        if tally.unit == "bytes" or tally.fixed:
            said.append(f"{100 * tally.done / tally.total:.0f} %")
        if left := tally.left():
            said.append(left)
        if tally.unit == "steps":
            # Steps begin one after another, so without a fixed total those begun say nothing about all of them.
            said += (f"{item} {100 * done / max(1, total):.0f} %" for item, (done, total) in tally.items.items())
        return ", ".join(said)

    def finish(self, item: str, note: str = "") -> None:
        with self._guard:
            worth_a_line = self._tally.finish(item)
        if note and worth_a_line:
            self.say(f"{self._title}: {item} {note}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
