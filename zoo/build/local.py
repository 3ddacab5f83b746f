"""Runs steps in worker processes on this machine, as many at once as cores and a memory budget allow.

What a step needs is an estimate, so the budget is watched as well: when the workers together hold more than it, the
one that started last is stopped and runs again when it can have the memory to itself. A single step that is larger
than the budget goes on, since it could not run otherwise; that is said.
"""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.build.executor import Order, Report
from zoo.build.process import POLL_SECONDS, Said, Worker
from zoo.build.resources import usable_cores
from zoo.report.sizes import human_bytes

WATCH_SECONDS = 1.0
"""How often the workers' memory is looked at."""


@dataclass(slots=True)
class _Running:
    order: Order
    held: int = 0
    told: bool = False


class LocalExecutor:
    """Worker processes of this machine."""

    def __init__(self, jobs: int, memory: int) -> None:
        """Set up; nothing starts before the first order.

        Args:
            jobs: workers at most.
            memory: bytes that all workers together may hold; one step always runs.
        """
        self._jobs = max(1, jobs)
        self._memory = memory
        self._said: queue.Queue[Said] = queue.Queue()
        self._idle: list[Worker] = []
        self._running: dict[Worker, _Running] = {}
        self._alone: set[str] = set()
        self._watched = time.monotonic()

    def has_room(self, memory: int) -> bool:
        """Whether cores and memory allow one more."""
        expected = sum(max(running.order.memory, running.held) for running in self._running.values())
        return not self._running or (len(self._running) < self._jobs and expected + memory <= self._memory)

    def submit(self, order: Order) -> None:
        """Give the order to an idle worker or a new one."""
        worker = self._idle.pop() if self._idle else self._start(Path(order.job["log"]))
        self._running[worker] = _Running(order)
        worker.give(order.job)

    def _start(self, log: Path) -> Worker:
        return Worker(self._said, usable_cores() // self._jobs, log)

    def next_report(self) -> Report | None:
        """What a worker says, or what is done about memory."""
        if time.monotonic() - self._watched >= WATCH_SECONDS:
            self._watched = time.monotonic()
            report = self._watch()
            if report is not None:
                return report
        try:
            said = self._said.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return None
        if said.worker not in self._running:
            if said.worker in self._idle:  # died of its own accord; others were stopped by us
                self._idle.remove(said.worker)
            return None
        if said.message is None:
            return self._ended(said.worker)
        return self._report(said.worker, said.message)

    def _report(self, worker: Worker, message: Mapping[str, Any]) -> Report:
        order = self._running[worker].order
        if message["event"] != "progress":
            del self._running[worker]
            self._idle.append(worker)
        return Report(order.step, message)

    def _watch(self) -> Report | None:
        """Look at the memory, and act when it is too much."""
        for worker, running in self._running.items():
            running.held = worker.memory()
        total = sum(running.held for running in self._running.values())
        if total <= self._memory:
            return None
        if len(self._running) > 1:
            return self._stop_last(total)
        (running,) = self._running.values()
        if running.told:
            return None
        running.told = True
        text = f"{running.order.step} holds {human_bytes(total)}, over the budget of {human_bytes(self._memory)}"
        return Report(running.order.step, {"event": "note", "text": f"{text}; it runs alone, so it goes on"})

    def _stop_last(self, total: int) -> Report:
        worker, running = list(self._running.items())[-1]
        del self._running[worker]
        worker.kill()
        step = running.order.step
        text = (
            f"{step} stopped: {human_bytes(total)} held by {len(self._running) + 1} steps, over the budget of"
            f" {human_bytes(self._memory)}; it runs again when it can run alone (--memory SIZE sets the budget)"
        )
        return Report(step, {"event": "postponed", "text": text, "memory": max(running.held, self._memory)})

    def _ended(self, worker: Worker) -> Report:
        """The report on a process that has ended by itself."""
        running = self._running.pop(worker)
        order = running.order
        ending, killed = worker.ending(), worker.status == -signal.SIGKILL
        worker.kill()
        if killed and self._running and order.step not in self._alone:
            self._alone.add(order.step)
            text = f"{order.step}: its worker was {ending}, as happens when memory runs out; it runs again alone"
            return Report(order.step, {"event": "postponed", "text": text, "memory": self._memory})
        message: dict[str, Any] = {"event": "died", "message": f"its worker ended: {ending}"}
        if killed:
            message["message"] += f", as happens when memory runs out (it held {human_bytes(running.held)})"
            message["hint"] = "close programs, or build with --jobs 1 on a machine with more memory"
        return Report(order.step, message)

    def close(self) -> None:
        """End every worker."""
        for worker in (*self._running, *self._idle):
            worker.kill()
        self._running.clear()
        self._idle.clear()
