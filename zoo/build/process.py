"""A worker process from outside: start, give a job, receive what it says, see its memory, kill."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.build.resources import worker_environment
from zoo.errors import DiskError

POLL_SECONDS = 0.25
"""How often a wait looks up: for Ctrl-C where waits cannot be interrupted, and for locks of other builds."""


@dataclass(frozen=True, slots=True)
class Said:
    """Something a worker said; `message` is None when its output ended."""

    worker: Worker
    message: dict[str, Any] | None


class Worker:
    """One process. `log` gets what it prints until its first job gives it a log of its own."""

    def __init__(self, reports: queue.Queue[Said], threads: int, log: Path) -> None:
        try:
            with log.open("a") as stderr:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "zoo.build.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=worker_environment(os.environ, threads),
                    text=True,
                    encoding="utf-8",
                    # Ctrl-C goes to the foreground's process group; the parent decides what it means.
                    start_new_session=True,
                )
        except OSError as error:
            raise DiskError(f"a worker cannot be started: {error.strerror}") from None
        self._thread = threading.Thread(target=self._listen, args=(reports,), daemon=True)
        self._thread.start()

    def _listen(self, reports: queue.Queue[Said]) -> None:
        stdout = self._process.stdout
        if stdout is None:
            raise AssertionError("standard output is a pipe")
        for line in stdout:
            try:
                reports.put(Said(self, json.loads(line)))
            except ValueError:
                continue  # a library wrote past the redirection; the log has the rest
        reports.put(Said(self, None))

    def give(self, job: Mapping[str, Any]) -> None:
        """Send a job. If the process is dead already, its end is reported like any other."""
        stdin = self._process.stdin
        if stdin is None:
            raise AssertionError("standard input is a pipe")
        try:
            stdin.write(json.dumps(dict(job)) + "\n")
            stdin.flush()
        except BrokenPipeError:
            return

    def ending(self) -> str:
        """How a process whose output has ended came to its end, e.g. `exit status 1`, `killed by signal 9`."""
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
            return "it closed its output"
        return f"killed by signal {-status}" if status < 0 else f"exit status {status}"

    @property
    def status(self) -> int | None:
        """Exit status of a process that has ended, negative for a signal; None while it runs."""
        return self._process.poll()

    def memory(self) -> int:
        """Bytes that the process holds and nobody could take from it: without pages of files. 0 if unknown."""
        return held_memory(self._process.pid)

    def kill(self) -> None:
        """End the process at once and wait for it."""
        self._process.kill()
        self._process.wait()
        self._thread.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue


def held_memory(pid: int) -> int:
    """Resident bytes of a process that are not pages of a file; 0 where the system does not say (it does on Linux)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "RssShmem")))
    return sum(int(value.split()[0]) for value in found.values()) * 1024
