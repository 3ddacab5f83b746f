"""Whole commands from outside: wall seconds, CPU seconds and peak memory, as the operating system accounts them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.report.text import columns


@dataclass(frozen=True, slots=True)
class Run:
    """One finished command. `memory` is the peak resident size in bytes of the largest process."""

    wall: float
    cpu: float
    memory: int


def run_once(command: Sequence[str], *, environment: Mapping[str, str], cwd: Path) -> Run:
    """Run a command with its output thrown away.

    Raises:
        SystemExit: it failed; its output is shown.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=dict(environment), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def in_turn(commands: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Run the commands A B A B ..., after one round that is not counted, so that drift meets all of them."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            result = command()
            if number:
                runs[name].append(result)
    return runs


def table(runs: Mapping[str, Sequence[Run]]) -> str:
    """Medians, with the fastest and slowest wall time."""
    rows = []
    for name, results in runs.items():
        walls = sorted(run.wall for run in results)
        rows.append(
            (
                name,
                f"{statistics.median(walls):.2f} s",
                f"{walls[0]:.2f}-{walls[-1]:.2f}",
                f"{statistics.median(run.cpu for run in results):.2f} s",
                f"{statistics.median(run.memory for run in results) / 1e6:.0f} MB",
            )
        )
    return columns(rows, header=("COMMAND", "WALL", "RANGE", "CPU", "MEMORY"), align="<>>>>")
