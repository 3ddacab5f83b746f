"""Runs the steps of a build on an executor: longest first, each under its lock, each result checked and cached."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zoo.build.cache import CachedStep, Measured, StepCache, remove_tree
from zoo.build.checks import check_step_output
from zoo.build.executor import Executor, OpenExecutor, Order, Report
from zoo.build.graph import Step
from zoo.build.keys import Inputs
from zoo.build.store import StepStore
from zoo.digests import Digests
from zoo.errors import CONVERT_HINT, ConversionError, DiskError, MissingExtra, UnsafePath, ZooError
from zoo.events import Progress
from zoo.report.sizes import human_bytes, human_seconds

PROGRESS_UNITS = 1000
"""Progress units of a step of weight 1."""

LOG_TAIL_LINES = 15

SURPRISE = 1.25
"""A step that needs so many times what was expected is told of: others that run beside it may have suffered."""


@dataclass(frozen=True, slots=True)
class Task:
    """A step to run.

    Attributes:
        step, key, inputs: what runs, where its output goes, and what to remember of it.
        memory: expected peak, bytes.
        tensor_bytes: bytes of the checkpoint tensors it reads.
        force: run it even if the cache has its output.
    """

    step: Step
    key: str
    inputs: Inputs
    memory: int
    tensor_bytes: int = 0
    force: bool = False

    @property
    def units(self) -> int:
        """Progress units of the whole step."""
        return step_units(self.step)


def step_units(step: Step) -> int:
    """Progress units of a step."""
    return max(1, round(PROGRESS_UNITS * step.recipe.weight))


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


@dataclass(slots=True)
class _State:
    pending: list[Task]
    running: dict[str, _Running] = field(default_factory=dict)
    done: dict[str, Outcome] = field(default_factory=dict)
    error: ZooError | None = None
    announced: set[str] = field(default_factory=set)


class Scheduler:
    """Runs steps of one build."""

    def __init__(
        self,
        checkpoint: Path,
        cache: StepCache,
        progress: Progress,
        open_executor: OpenExecutor,
        *,
        store: StepStore | None = None,
        sources: Mapping[Path, tuple[int, int, int, int]] | None = None,
        check_unchanged: Callable[[], None] = lambda: None,
    ) -> None:
        """Set up; nothing starts before `run`.

        Args:
            checkpoint: the checkpoint directory.
            cache: gets every output.
            progress: what is going on.
            open_executor: makes the executor, given how many steps there are.
            store: shares outputs with other machines.
            sources: files of the checkpoint as the keys were computed for them.
            check_unchanged: called before an output is kept; raises when the checkpoint is not the one that the
                keys were computed for.
        """
        self._checkpoint = checkpoint.absolute()
        self._cache = cache
        self._progress = progress
        self._open_executor = open_executor
        self._store = store
        self._sources = {str(path.relative_to(checkpoint)): identity[1:] for path, identity in (sources or {}).items()}
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
        executor = self._open_executor(max(1, len(state.pending)))
        try:
            while state.running or (state.pending and state.error is None):
                self._start_what_fits(state, executor)
                report = executor.next_report()
                if report is not None and report.step in state.running:
                    self._receive(state, report)
        finally:
            executor.close()
            for running in state.running.values():
                remove_tree(running.output.parent)
                running.lock.release()
        if state.error is not None:
            raise state.error
        return state.done

    def _start_what_fits(self, state: _State, executor: Executor) -> None:
        if state.error is not None:
            return
        for task in list(state.pending):
            if not executor.has_room(task.memory):
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
                started = self._start(state, executor, task, lock)
            except BaseException:
                lock.release()
                raise
            state.pending.remove(task)
            if not started:
                lock.release()

    def _start(self, state: _State, executor: Executor, task: Task, lock: FileLock) -> bool:
        """Order the task, unless another build, here or elsewhere, has made its output since the plan."""
        found = None if task.force else self._made_elsewhere(task)
        if found is not None:
            state.done[task.step.id] = Outcome(found, 0.0, 0)
            return False
        step = task.step
        output = self._cache.start(task.key).absolute()
        log = (self._logs / f"{step.entry}.{step.component}.{task.key[:8]}.log").absolute()
        log.unlink(missing_ok=True)
        running = _Running(task, lock, output, log, time.monotonic())
        state.running[step.id] = running
        self._progress.start(step.id, task.units)
        job = {
            "run": step.recipe.run,
            "checkpoint": str(self._checkpoint),
            "path": step.path,
            "parameters": dict(step.parameters),
            "output": str(output),
            "log": str(log),
            "key": task.key,
        }
        inputs = {name: getattr(task.inputs, name) for name in ("tensors", "files", "libraries")}
        executor.submit(Order(step.id, job, task.memory, step.recipe.weight, inputs, self._sources))
        return True

    def _made_elsewhere(self, task: Task) -> CachedStep | None:
        """The output, if it is in the cache by now or can be had from the store. The caller holds the lock."""
        found = self._cache.find(task.key)
        if isinstance(found, CachedStep):
            return found
        if self._store is None:
            return None
        output = self._cache.start(task.key)
        try:
            files = self._store.fetch(task.key, output)
            if files is not None and sorted(path for path, _ in files) == check_step_output(task.step, output):
                self._progress.say(f"{task.step.id}: from {self._store.url}")
                return self._keep(task, output, files)
        except (ConversionError, UnsafePath) as error:
            self._progress.say(f"{error.message}; what {self._store.url} has of it is not used")
        remove_tree(output.parent)
        return None

    def _keep(self, task: Task, output: Path, files: list[tuple[str, Digests]]) -> CachedStep:
        self._check_unchanged()
        cached = self._cache.store(task.key, task.step.recipe.name, output, files)
        self._cache.set_latest(task.step, task.inputs)
        return cached

    def _receive(self, state: _State, report: Report) -> None:
        running = state.running[report.step]
        match report.event:
            case "progress":
                self._advance(running, report.message["fraction"])
            case "note":
                self._progress.say(report.message["text"])
            case "postponed":
                self._postpone(state, running, report.message)
            case _:
                self._end(state, running, report.message)

    def _postpone(self, state: _State, running: _Running, message: Mapping[str, Any]) -> None:
        self._progress.say(message["text"])
        self._advance(running, 0.0)
        task = running.task
        remove_tree(running.output.parent)
        del state.running[task.step.id]
        running.lock.release()
        state.pending.insert(0, replace(task, memory=max(task.memory, message["memory"])))

    def _end(self, state: _State, running: _Running, message: Mapping[str, Any]) -> None:
        step = running.task.step
        try:
            outcome = self._finish(running, message)
        except ZooError as error:
            remove_tree(running.output.parent)
            state.error = state.error or error
            self._progress.finish(step.id)
            if state.running.keys() - {step.id}:
                self._progress.say(f"{step.id} failed; finishing what is under way")
        else:
            state.done[step.id] = outcome
        finally:
            del state.running[step.id]
            running.lock.release()

    def _advance(self, running: _Running, fraction: float) -> None:
        reached = round(running.task.units * fraction)
        self._progress.advance(running.task.step.id, reached - running.shown)
        running.shown = reached

    def _finish(self, running: _Running, message: Mapping[str, Any]) -> Outcome:
        task, step = running.task, running.task.step
        if message["event"] != "done":
            raise self._failure(running, message)
        files = [(path, Digests(size, sha256, xxh3)) for path, size, sha256, xxh3 in message["files"]]
        stored = message.get("stored")
        if stored is not None and self._store is not None:
            self._store.bring(task.key, stored, files, running.output)
        elif message.get("output"):
            self._cache.adopt(Path(message["output"]), running.output)
        if sorted(path for path, _ in files) != check_step_output(step, running.output):
            raise ConversionError(f"{step.id}: its files changed while they were being checked")
        cached = self._keep(task, running.output, files)
        if self._store is not None:
            self._store.share(task.key, cached.record, cached.directory / "output", stored)
        running.log.unlink(missing_ok=True)
        seconds = time.monotonic() - running.started
        self._remember(task, seconds, message["peak_bytes"])
        self._advance(running, 1.0)
        self._progress.finish(step.id, f"{human_bytes(cached.record.size)} in {human_seconds(seconds)}")
        return Outcome(cached, seconds, message["peak_bytes"])

    def _remember(self, task: Task, seconds: float, peak_bytes: int) -> None:
        """Keep what the step really needed, for the next estimate."""
        if peak_bytes > SURPRISE * task.memory:
            self._progress.say(
                f"{task.step.id} took {human_bytes(peak_bytes)} of memory, {human_bytes(task.memory)} was expected;"
                " the next build reckons with it"
            )
        measured = Measured.of(task.inputs, task.tensor_bytes, peak_bytes, seconds)
        self._cache.set_measured(task.step, measured)

    def _failure(self, running: _Running, message: Mapping[str, Any]) -> ZooError:
        step, said = running.task.step, str(message["message"])
        match message["event"]:
            case "refused":
                return ConversionError(f"{step.id}: {said}")
            case "missing":
                return MissingExtra(f"{step.id} needs the package {said!r}", hint=CONVERT_HINT)
            case "disk":
                hint = message.get("hint") or "finished steps are kept; make room and build again"
                return DiskError(f"{step.id}: {said}", hint=hint)
        return self._crashed(running, said, message)

    def _crashed(self, running: _Running, what: str, message: Mapping[str, Any]) -> ConversionError:
        """The error for something no recipe foresaw; the end of the log is shown, the whole log is named."""
        tail = message.get("tail")
        if tail is None:
            try:
                tail = running.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            except OSError:
                tail = []
        for line in tail:
            self._progress.say(f"  {line}")
        return ConversionError(
            f"{running.task.step.id}: {running.task.step.recipe.name} did not finish: {what.splitlines()[0]}",
            hint=message.get("hint") or (None if "tail" in message else f"the whole log is in {running.log}"),
        )
