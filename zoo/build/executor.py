"""Runs steps on worker processes: longest first, as many at once as cores and memory allow, each result cached."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zoo.build.cache import CachedStep, StepCache, remove_tree
from zoo.build.checks import check_step_output
from zoo.build.graph import Step
from zoo.build.keys import Inputs
from zoo.build.pool import Pool, Worker
from zoo.build.recipes import CONVERT_HINT
from zoo.digests import Digests
from zoo.errors import ConversionError, DiskError, MissingExtra, ZooError
from zoo.events import Progress
from zoo.report.sizes import human_bytes, human_seconds

PROGRESS_UNITS = 1000
"""Progress units of a step of weight 1."""

LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Task:
    """A step to run.

    Attributes:
        step, key, inputs: what runs, where its output goes, and what to remember of it.
        memory: estimated peak, bytes.
        force: run it even if the cache has its output.
    """

    step: Step
    key: str
    inputs: Inputs
    memory: int
    force: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """A step that is done; `peak_bytes` and `seconds` are 0 where another build did it."""

    cached: CachedStep
    seconds: float
    peak_bytes: int


@dataclass(slots=True)
class _Running:
    task: Task
    lock: FileLock
    output: Path
    log: Path
    started: float
    shown: int = 0

    @property
    def units(self) -> int:
        return max(1, round(PROGRESS_UNITS * self.task.step.recipe.weight))


@dataclass(slots=True)
class _State:
    pending: list[Task]
    running: dict[Worker, _Running] = field(default_factory=dict)
    done: dict[str, Outcome] = field(default_factory=dict)
    error: ZooError | None = None
    announced: set[str] = field(default_factory=set)


class Executor:
    """Runs steps of one build."""

    def __init__(
        self,
        checkpoint: Path,
        cache: StepCache,
        progress: Progress,
        *,
        jobs: int,
        memory: int,
        check_unchanged: Callable[[], None] = lambda: None,
    ) -> None:
        """Set up; nothing starts before `run`.

        Args:
            checkpoint: the checkpoint directory.
            cache: gets every output.
            progress: what is going on.
            jobs: workers at most.
            memory: bytes all workers together may be expected to need; one step always runs.
            check_unchanged: called before an output is kept; raises when the checkpoint is not the one that the
                keys were computed for.
        """
        self._checkpoint = checkpoint
        self._cache = cache
        self._progress = progress
        self._jobs = max(1, jobs)
        self._memory = memory
        self._check_unchanged = check_unchanged
        self._logs = cache.directory / "logs"

    def run(self, tasks: Iterable[Task]) -> dict[str, Outcome]:
        """Run the steps; outputs by step id.

        After a failure nothing new starts, what is under way finishes and is kept, and the error is raised.

        Raises:
            ConversionError: a recipe refused, failed or crashed; names the step.
            MissingExtra: a package that a recipe imports is not installed.
            DiskError: no space or no permission.
        """
        state = _State(sorted(tasks, key=lambda task: (-task.step.recipe.weight, -task.memory, task.step.id)))
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError(f"{self._logs}: cannot be made: {error.strerror}") from None
        pool = Pool(min(self._jobs, max(1, len(state.pending))))
        try:
            while state.running or (state.pending and state.error is None):
                self._start_what_fits(state, pool)
                report = pool.next_report()
                if report is not None and report.worker in state.running:
                    self._receive(state, pool, report.worker, report.message)
        finally:
            pool.close()
            for running in state.running.values():
                remove_tree(running.output.parent)
                running.lock.release()
        if state.error is not None:
            raise state.error
        return state.done

    def _start_what_fits(self, state: _State, pool: Pool) -> None:
        if state.error is not None:
            return
        for task in list(state.pending):
            used = sum(running.task.memory for running in state.running.values())
            if len(state.running) >= pool.size:
                return
            if state.running and used + task.memory > self._memory:
                continue
            lock = self._cache.lock(task.key)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                if task.step.id not in state.announced:
                    state.announced.add(task.step.id)
                    self._progress.say(f"{task.step.id}: another build is making it; waiting for that")
                continue
            try:
                started = self._start(state, pool, task, lock)
            except BaseException:
                lock.release()
                raise
            state.pending.remove(task)
            if not started:
                lock.release()

    def _start(self, state: _State, pool: Pool, task: Task, lock: FileLock) -> bool:
        """Give the task to a worker, unless another build has made its output since the plan."""
        if not task.force:
            found = self._cache.find(task.key)
            if isinstance(found, CachedStep):
                state.done[task.step.id] = Outcome(found, 0.0, 0)
                return False
        step = task.step
        output = self._cache.start(task.key)
        log = self._logs / f"{step.entry}.{step.component}.{task.key[:8]}.log"
        log.unlink(missing_ok=True)
        worker = pool.take(log)
        running = _Running(task, lock, output, log, time.monotonic())
        state.running[worker] = running
        self._progress.start(step.id, running.units)
        worker.give(
            {
                "run": step.recipe.run,
                "checkpoint": str(self._checkpoint.absolute()),
                "path": step.path,
                "parameters": dict(step.parameters),
                "output": str(output.absolute()),
                "log": str(log.absolute()),
            }
        )
        return True

    def _receive(self, state: _State, pool: Pool, worker: Worker, message: Mapping[str, Any] | None) -> None:
        running = state.running[worker]
        if message is not None and message["event"] == "progress":
            self._advance(running, message["fraction"])
            return
        try:
            if message is None:
                ending = worker.ending()
                pool.drop(worker)
                raise self._crashed(running, f"its worker ended: {ending}")
            pool.put_back(worker)
            outcome = self._finish(running, message)
        except ZooError as error:
            remove_tree(running.output.parent)
            state.error = state.error or error
            self._progress.finish(running.task.step.id)
            if state.running.keys() - {worker}:
                self._progress.say(f"{running.task.step.id} failed; finishing what is under way")
        else:
            state.done[running.task.step.id] = outcome
        finally:
            del state.running[worker]
            running.lock.release()

    def _advance(self, running: _Running, fraction: float) -> None:
        reached = round(running.units * fraction)
        self._progress.advance(running.task.step.id, reached - running.shown)
        running.shown = reached

    def _finish(self, running: _Running, message: Mapping[str, Any]) -> Outcome:
        step = running.task.step
        match message["event"]:
            case "done":
                pass
            case "refused":
                raise ConversionError(f"{step.id}: {message['message']}")
            case "missing":
                raise MissingExtra(f"{step.id} needs the package {message['message']!r}", hint=CONVERT_HINT)
            case "disk":
                raise DiskError(
                    f"{step.id}: {message['message']}", hint="finished steps are kept; make room and build again"
                )
            case _:
                raise self._crashed(running, str(message["message"]))
        paths = check_step_output(step, running.output)
        files = [(path, Digests(size, sha256, xxh3)) for path, size, sha256, xxh3 in message["files"]]
        if sorted(path for path, _ in files) != paths:
            raise ConversionError(f"{step.id}: its files changed while they were being checked")
        self._check_unchanged()
        cached = self._cache.store(running.task.key, step.recipe.name, running.output, files)
        self._cache.set_latest(step, running.task.inputs)
        running.log.unlink(missing_ok=True)
        seconds = time.monotonic() - running.started
        self._advance(running, 1.0)
        self._progress.finish(step.id, f"{human_bytes(cached.record.size)} in {human_seconds(seconds)}")
        return Outcome(cached, seconds, message["peak_bytes"])

    def _crashed(self, running: _Running, what: str) -> ConversionError:
        """The error for something no recipe foresaw; the end of the log is shown, the whole log is named."""
        try:
            tail = running.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        except OSError:
            tail = []
        for line in tail:
            self._progress.say(f"  {line}")
        return ConversionError(
            f"{running.task.step.id}: {running.task.step.recipe.name} did not finish: {what.splitlines()[0]}",
            hint=f"the whole log is in {running.log}",
        )
