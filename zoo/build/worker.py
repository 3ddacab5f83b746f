"""A worker process: takes one job after another on standard input, reports on standard output, both as JSON lines.

Run as `python -m zoo.build.worker`. A fresh interpreter, never a fork (torch's threads do not survive one), kept for
several jobs because importing torch and coremltools takes seconds. Everything that libraries print goes to the job's
log. The worker ends when its standard input does, also in the middle of a job: nobody would take the result.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

PROGRESS_EVERY_SECONDS = 0.1
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO})

Send = Callable[[dict[str, Any]], None]


def main() -> None:
    """Serve jobs until standard input ends."""
    reports = _take_over_stdout()
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        reports.write(json.dumps(message) + "\n")
        reports.flush()

    while True:
        run_job(jobs.get(), send)
        _return_memory()


def _take_over_stdout() -> IO[str]:
    """A private stream to the parent; file descriptor 1 becomes standard error, so that a stray print is harmless."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return private


def _read_jobs(jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)


def run_job(message: dict[str, Any], send: Send) -> None:
    """Carry one job out and send its result: `done`, `refused`, `missing`, `disk` or `failed`."""
    with Path(message["log"]).open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    _forget_peak()
    try:
        send(_convert(message, send))
    except Exception as error:  # noqa: BLE001 - whatever a converter raises belongs into the log and the report
        traceback.print_exc()
        send(_failure(error, message["output"]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _convert(message: dict[str, Any], send: Send) -> dict[str, Any]:
    from converters.recipe import Job
    from converters.table_store import remember_in
    from zoo.digests import hash_file
    from zoo.locations import cache_directory

    remember_in(cache_directory() / "tables.sqlite")
    output = Path(message["output"])
    module, _, function = message["run"].partition(":")
    work: Callable[[Job], None] = getattr(importlib.import_module(module), function)
    last = 0.0

    def progress(what: str, fraction: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_EVERY_SECONDS or fraction >= 1:
            last = now
            send({"event": "progress", "what": str(what), "fraction": min(1.0, max(0.0, float(fraction)))})

    work(Job(Path(message["checkpoint"]), message["path"], message["parameters"], output, progress))
    files = []
    for directory, _folders, names in os.walk(output):
        for name in sorted(names):
            path = Path(directory) / name
            if path.is_symlink():
                continue  # refused by `check_step_output`
            _flush_to_disk(path)
            digests = hash_file(path)
            relative = path.relative_to(output).as_posix()
            files.append([relative, digests.size, digests.sha256, digests.xxh3])
    return {"event": "done", "files": files, "peak_bytes": _peak_bytes()}


def _failure(error: Exception, output: str) -> dict[str, Any]:
    from converters.errors import RecipeError
    from zoo.errors import ZooError

    if isinstance(error, RecipeError):
        return {"event": "refused", "message": str(error)}
    if isinstance(error, ZooError):
        return {"event": "refused", "message": error.message}
    if isinstance(error, ModuleNotFoundError):
        return {"event": "missing", "message": str(error.name)}
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return {"event": "disk", "message": f"{error.filename or output}: {error.strerror}"}
    return {"event": "failed", "message": f"{type(error).__name__}: {error}"}


def _flush_to_disk(path: Path) -> None:
    """So that `step.json`, which is flushed too, never outlives the bytes it vouches for in a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget_peak() -> None:
    """Start measuring anew, so that a job is not blamed for the one before it. Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def _peak_bytes() -> int:
    """Peak resident size of this job; where that cannot be told apart, of the worker so far; 0 if unknown."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _return_memory() -> None:
    """Give the last job's memory back, so that the next one starts from little more than the imports."""
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):
            return  # musl has no malloc_trim


if __name__ == "__main__":
    main()
