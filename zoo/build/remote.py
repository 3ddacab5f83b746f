"""The part of a cluster build that runs inside a Dask worker.

It makes sure that this machine would give the bytes the step's key promises (same libraries, same tensors), waits
until memory allows the step, and runs it in a worker process like those of a local build. The process is ours: when
Dask's worker dies its standard input ends and it ends too, and when the step is cancelled we end it.

Every attempt writes into a directory of its own, so an attempt that was given up for dead cannot spoil the next one.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.build.executor import Order
from zoo.build.process import POLL_SECONDS, Said, Worker
from zoo.build.recipes import library_version
from zoo.build.resources import usable_cores, usable_memory
from zoo.build.store import StepStore
from zoo.errors import ZooError

if TYPE_CHECKING:
    import distributed

TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Call:
    """What is sent to a Dask worker.

    Attributes:
        order: the step.
        topic: of Dask's events; gets progress.
        memory: bytes for all steps of a Dask worker; None for its own limit.
        store: where the output goes; None for the step cache, which must be visible here.
    """

    order: Order
    topic: str
    memory: int | None
    store: str | None


class Refusal(Exception):
    """This machine cannot carry the step out; the message says why."""


def carry_out(call: Call) -> dict[str, Any]:
    """Run a step here and now, inside a Dask worker. Returns the message of a `Report`; never raises for the step."""
    from distributed import get_worker

    worker = get_worker()
    order = call.order
    try:
        check_libraries(order.inputs["libraries"])
        check_checkpoint(order)
        with _attempt(call) as output, _BUDGET.share(order.memory, call.memory or _limit(worker)):
            message = _run(worker, call, output)
            if message["event"] == "done" and call.store is None:
                message["output"] = str(output)
            elif message["event"] == "done":
                message["stored"] = _upload(call, output, message["files"])
            return message
    except Refusal as refusal:
        return {"event": "refused", "message": f"{worker.address}: {refusal}"}
    except ZooError as error:
        return {"event": "disk", "message": f"{worker.address}: {error.message}", "hint": error.hint}
    except OSError as error:
        where = error.filename or order.job["output"]
        return {"event": "disk", "message": f"{worker.address}: {where}: {error.strerror}"}


def check_libraries(expected: Mapping[str, str]) -> None:
    """Raise `Refusal` when a library whose version is part of the step's key has another version here."""
    for name, version in expected.items():
        found = library_version(name)
        if found != version:
            raise Refusal(f"{name} is {found or 'not installed'} here and {version} where the build was started")


def check_checkpoint(order: Order) -> None:
    """Raise `Refusal` when what the step reads of the checkpoint is not what it is where the build was started.

    Files that are the same file (same inode, size and time of modification, as on a shared file system) are believed;
    of others, the tensors that the step reads are digested.
    """
    from converters.checkpoint import Checkpoint
    from converters.errors import RecipeError

    directory = Path(order.job["checkpoint"])
    others = {name for name, identity in order.sources.items() if _identity(directory / name) != tuple(identity)}
    if not others:
        return
    try:
        checkpoint = Checkpoint.open(directory)
        for name, digest in order.inputs["tensors"].items():
            if checkpoint.info(name).file in others and checkpoint.digest(name) != digest:
                raise Refusal(f"{directory}: tensor {name} is another one than where the build was started")
        for name, digest in order.inputs["files"].items():
            if name in others and checkpoint.file_digest(name) != digest:
                raise Refusal(f"{directory}: {name} is another one than where the build was started")
    except RecipeError as error:
        raise Refusal(f"{error}; every worker needs the checkpoint under the same path") from None


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _attempt(call: Call) -> Iterator[Path]:
    """An empty directory for this attempt: beside the ordered one in the step cache, or a temporary one."""
    if call.store is not None:
        with tempfile.TemporaryDirectory(prefix="zoo-step-") as folder:
            output = Path(folder) / "output"
            output.mkdir()
            yield output
        return
    place = Path(call.order.job["output"]).parent
    if not place.is_dir():
        raise Refusal(f"{place} is not here; have ZOO_CACHE on a file system that all machines share, or use --store")
    output = place / f"attempt-{uuid.uuid4().hex[:12]}"
    output.mkdir()
    yield output


class _Budget:
    """Memory that the steps of this Dask worker are expected to need together."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._used = 0

    @contextlib.contextmanager
    def share(self, memory: int, limit: int) -> Iterator[None]:
        """Wait until `memory` more bytes stay below `limit`, or until nothing else runs, and hold them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + memory <= limit)
            self._used += memory
        try:
            yield
        finally:
            with self._changed:
                self._used -= memory
                self._changed.notify_all()


_BUDGET = _Budget()


def _limit(worker: distributed.Worker) -> int:
    """Bytes that the Dask worker was given, or what is free here if it was given no limit."""
    return int(worker.memory_manager.memory_limit or 0) or usable_memory()


def _run(worker: distributed.Worker, call: Call, output: Path) -> dict[str, Any]:
    """Run the step in a process of its own and pass on what it says, until it ends or nobody wants it any more."""
    order = call.order
    key = worker.get_current_task()
    said: queue.Queue[Said] = queue.Queue()
    with tempfile.TemporaryDirectory(prefix="zoo-log-") as folder:
        log = Path(folder) / "log"
        process = Worker(said, usable_cores() // max(1, worker.state.nthreads), log)
        try:
            process.give({**order.job, "output": str(output), "log": str(log)})
            while True:
                if not _wanted(worker, key):
                    raise Refusal("cancelled")
                try:
                    message = said.get(timeout=POLL_SECONDS).message
                except queue.Empty:
                    continue
                if message is None:
                    ending = process.ending()
                    killed = process.status == -signal.SIGKILL
                    return {
                        "event": "died",
                        "message": f"its worker on {worker.address} ended: {ending}",
                        "killed": killed,
                        "tail": _tail(log),
                    }
                if message["event"] != "progress":
                    return message if message["event"] == "done" else {**message, "tail": _tail(log)}
                worker.log_event(call.topic, {"step": order.step, "report": message})
        finally:
            process.kill()


_ENDING = ("closing", "closed", "failed")
"""States of a Dask worker that will not report the step any more."""


def _wanted(worker: distributed.Worker, key: object) -> bool:
    """Whether the task that this thread runs is still wanted; not after a cancel, or the client's or worker's end."""
    task = worker.state.tasks.get(key)
    return task is not None and task.state != "cancelled" and worker.status.name not in _ENDING


def _tail(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return []


def _upload(call: Call, output: Path, files: list[list[Any]]) -> str:
    if call.store is None:
        raise AssertionError("called with a store")
    return StepStore(call.store).put(call.order.job["key"], output, [file[0] for file in files])
