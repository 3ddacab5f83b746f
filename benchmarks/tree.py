"""A command and all processes that it starts: wall and CPU seconds, and how much memory they have together at most.

Linux only for the memory: `/proc` is sampled while the command runs.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.1
"""A worker grows by some hundred megabytes in that time, at most."""


@dataclass(frozen=True, slots=True)
class TreeRun:
    """A finished command.

    Attributes:
        wall: seconds.
        cpu: seconds of all its processes that ended before it did.
        held: bytes that all processes together had at most, without pages of files, which the system can take back.
        resident: the same with pages of files; those mapped by two processes count twice.
        output: what it wrote to standard output.
    """

    wall: float
    cpu: float
    held: int
    resident: int
    output: str


def run_tree(command: Sequence[str], *, environment: Mapping[str, str], cwd: Path) -> TreeRun:
    """Run a command and watch its processes; standard error passes through.

    Raises:
        SystemExit: it failed.
    """
    with tempfile.TemporaryFile("w+") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, env=dict(environment), cwd=cwd, stdout=output)
        ended = threading.Event()
        peaks = [0, 0]
        watching = threading.Thread(target=_watch, args=(process.pid, ended, peaks))
        watching.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            ended.set()
            watching.join()
        wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:500]} failed:\n{said}")
    return TreeRun(wall, usage.ru_utime + usage.ru_stime, peaks[0], peaks[1], said)


def _watch(pid: int, ended: threading.Event, peaks: list[int]) -> None:
    while not ended.wait(SAMPLE_SECONDS):
        held = resident = 0
        for each in processes_below(pid):
            sizes = _sizes(each)
            held += sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0)
            resident += sum(sizes.values())
        peaks[:] = max(peaks[0], held), max(peaks[1], resident)


def processes_below(pid: int) -> Iterator[int]:
    """The process and everything that it has started, as far as they live."""
    yield pid
    try:
        tasks = [path / "children" for path in Path(f"/proc/{pid}/task").iterdir()]
        children = [int(child) for path in tasks for child in path.read_text().split()]
    except OSError:
        return
    for child in children:
        yield from processes_below(child)


def _sizes(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    parts = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    return {name: int(value.split()[0]) * 1024 for name, value in parts.items()}
