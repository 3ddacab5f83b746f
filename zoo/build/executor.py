"""Where steps run: what the scheduler asks of an executor, be it this machine or a cluster.

An executor takes orders and reports what became of them. It decides how many orders it takes at once, what a process
that dies means, and whether memory allows one more; it knows nothing of caches, locks or bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Order:
    """A step to be run by some worker process.

    Attributes:
        step: its id; one order per step at a time.
        job: what the worker process is told, see `zoo.build.worker.run_job`.
        memory: bytes its worker is expected to need at most.
        weight: rough cost, for those who choose an order themselves.
        inputs: digests of the checkpoint's tensors and files and versions of libraries, which a worker elsewhere has
            to find as they are here; see `zoo.build.remote`.
        sources: files of the checkpoint as they are here: path relative to it -> (inode, size, mtime in ns).
    """

    step: str
    job: Mapping[str, Any]
    memory: int
    weight: float
    inputs: Mapping[str, Mapping[str, str]]
    sources: Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of an order.

    Attributes:
        step: whose.
        message: `event` says what it is, other keys follow from that:

            - `progress`: `fraction` done.
            - `note`: `text` worth a line of its own.
            - `postponed`: the step was stopped and is to be ordered again; `text` why, `memory` what it needs.
            - `done`: `files` written, as (path, size, sha256, xxh3); `peak_bytes`; `output` if they lie elsewhere than
              ordered; `stored` if they lie in the store instead.
            - `refused`, `missing`, `disk`, `failed`: it ended with an error; `message`.
            - `died`: its process ended; `message` how, `hint` what to do.

            `tail` may have the last lines of the worker's log where the client cannot read it.
    """

    step: str
    message: Mapping[str, Any]

    @property
    def event(self) -> str:
        """The kind of message."""
        return str(self.message["event"])


class Executor(Protocol):
    """Runs orders."""

    def has_room(self, memory: int) -> bool:
        """Whether an order that is expected to need `memory` bytes may be given now. True when nothing runs."""

    def submit(self, order: Order) -> None:
        """Take an order.

        Raises:
            ZooError: no worker can be started.
        """

    def next_report(self) -> Report | None:
        """The next thing to know; None after a short while of silence."""

    def close(self) -> None:
        """Stop everything that is under way."""


OpenExecutor = Callable[[int], Executor]
"""Makes an executor for so many steps at most."""
