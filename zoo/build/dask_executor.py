"""Runs steps on a Dask cluster: the same worker processes as on this machine, started by Dask's workers.

What every machine must see: the checkpoint under the same path (the same contents will do), and either the step cache
(`ZOO_CACHE` on a shared file system) or a store (`--store`). What Dask does: it chooses a worker for each step, and
when a worker dies it runs the step on another one. See `zoo.build.remote` for the part that runs there.
"""

from __future__ import annotations

import importlib.util
import logging
import queue
import time
import uuid
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from zoo.build.executor import Order, Report
from zoo.build.process import POLL_SECONDS
from zoo.build.remote import Call, carry_out
from zoo.build.store import StepStore
from zoo.errors import ConversionError, MissingExtra
from zoo.events import Progress

if TYPE_CHECKING:
    from distributed import Client, Future

DASK_HINT = "pip install 'zoo[dask]'"

CONNECT_SECONDS = 10
"""How long a scheduler may take to answer."""

MORE_ROOM = 2
"""A step whose process was killed is expected to need so many times as much."""

LOOK_SECONDS = 2.0
"""How often the cluster is asked for its workers."""


def connect(
    address: str, *, jobs: int | None, memory: int | None, store: StepStore | None, progress: Progress
) -> DaskExecutor:
    """An executor on the cluster whose scheduler listens at `host:port`.

    Args:
        address: of the scheduler.
        jobs: steps at once; None for as many as the cluster has threads.
        memory: bytes that the steps of one Dask worker may be expected to need together; None for its own limit.
        store: where workers put outputs; None when they see the step cache itself.
        progress: told when the cluster has no workers.

    Raises:
        MissingExtra: Dask is not installed.
        ConversionError: no scheduler answers there.
    """
    if importlib.util.find_spec("distributed") is None:
        raise MissingExtra("Dask is not installed", hint=DASK_HINT)
    from distributed import Client

    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it says about a lost scheduler, we say
    try:
        client = Client(f"tcp://{address}", timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConversionError(
            f"dask://{address}: no scheduler answers: {error}", hint="start one with `dask scheduler`, and workers"
        ) from None
    return DaskExecutor(client, jobs, memory, store, progress)


class DaskExecutor:
    """Steps on a cluster; close it to stop them."""

    def __init__(
        self, client: Client, jobs: int | None, memory: int | None, store: StepStore | None, progress: Progress
    ) -> None:
        self._client = client
        self._jobs = jobs
        self._memory = memory
        self._store = store
        self._progress = progress
        self._topic = f"zoo-{uuid.uuid4().hex}"
        self._reports: queue.Queue[Report] = queue.Queue()
        self._futures: dict[str, Future[dict[str, Any]]] = {}
        self._expected: dict[str, int] = {}
        self._again: set[str] = set()
        self._slots = 0
        self._looked = -LOOK_SECONDS
        self._told = False
        client.subscribe_topic(self._topic, self._hear)

    def has_room(self, memory: int) -> bool:
        """Whether fewer steps are under way than the cluster has threads. Its workers mind their own memory."""
        del memory
        return not self._futures or len(self._futures) < self._look()

    def _look(self) -> int:
        """Steps the cluster takes at once, asked every now and then."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._slots = sum(self._client.ncores().values())
            if not self._slots and not self._told:
                self._progress.say("the cluster has no workers; waiting for one")
            self._told = not self._slots
        return min(self._slots, self._jobs or self._slots)

    def submit(self, order: Order) -> None:
        """Hand the order to the cluster, which runs it again when its worker dies."""
        call = Call(order, self._topic, self._memory, self._store.url if self._store else None)
        future = self._client.submit(
            carry_out,
            call,
            key=f"{order.step}-{uuid.uuid4().hex[:8]}",
            priority=round(1000 * order.weight),
            pure=False,
        )
        self._futures[order.step] = future
        self._expected[order.step] = order.memory
        future.add_done_callback(partial(self._ended, order.step))

    def next_report(self) -> Report | None:
        """What a worker says, or what Dask says about one."""
        self._look()
        try:
            report = self._reports.get(timeout=POLL_SECONDS)
        except queue.Empty:
            self._check_connection()
            return None
        if report.event not in ("progress", "note"):
            self._futures.pop(report.step, None)
        elif report.step not in self._futures:
            return None
        return report

    def _check_connection(self) -> None:
        if self._client.status != "running" or self._client.scheduler is None:
            for step in list(self._futures):
                self._reports.put(
                    Report(step, {"event": "died", "message": "the cluster's scheduler went away", "tail": []})
                )

    def _hear(self, event: tuple[float, Any] | Any) -> None:
        """An event that a worker sent to our topic."""
        message = event[1] if isinstance(event, tuple) else event
        if isinstance(message, Mapping) and "step" in message:
            self._reports.put(Report(message["step"], message["report"]))

    def _ended(self, step: str, future: Future[dict[str, Any]]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        message = future.result() if error is None else _failure(error)
        if message.get("killed") and step not in self._again:
            self._again.add(step)
            message = {
                "event": "postponed",
                "text": f"{step}: {message['message']}, as happens when memory runs out; it runs again with more room",
                "memory": MORE_ROOM * self._expected[step],
            }
        self._reports.put(Report(step, message))

    def close(self) -> None:
        """Have the workers drop what is under way, and part from the cluster."""
        if self._futures:
            self._client.cancel(list(self._futures.values()), force=True)
            self._futures.clear()
        self._client.close()


def _failure(error: BaseException) -> dict[str, Any]:
    """The report on a step for which Dask raised an error of its own, or of our part on the worker."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return {
            "event": "died",
            "message": f"{error.allowed_failures + 1} workers of the cluster died under it",
            "hint": "the logs of the Dask workers say more; memory is the usual reason",
            "tail": [],
        }
    return {"event": "failed", "message": f"{type(error).__name__}: {error}", "tail": []}
