"""Progress, as data. Workers report; the command line draws. Nothing below `cli/` and `report/` prints."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress of a piece of work made of named items. Calls may come from several threads."""

    def start(self, item: str, total: int, done: int = 0) -> None:
        """`item` begins; `total` units (bytes, or steps times 1000), of which `done` are there already."""

    def advance(self, item: str, amount: int) -> None:
        """`amount` more units of `item` are done; negative when work had to be thrown away."""

    def finish(self, item: str, note: str = "") -> None:
        """`item` is complete; `note` says how, e.g. `verified`, `linked from chunk4`."""

    def say(self, text: str) -> None:
        """Something worth a line of its own, e.g. a retry and its reason."""


class Silent:
    """Ignores everything."""

    def start(self, item: str, total: int, done: int = 0) -> None:
        """Ignore."""

    def advance(self, item: str, amount: int) -> None:
        """Ignore."""

    def finish(self, item: str, note: str = "") -> None:
        """Ignore."""

    def say(self, text: str) -> None:
        """Ignore."""
