"""Whole commands from outside: wall seconds, CPU seconds and peak memory, as the operating system accounts them."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
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
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(writing), *command],
            env=dict(environment),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=(writing,),
        )
    finally:
        os.close(writing)
    with os.fdopen(reading) as pipe:
        output, _ = process.communicate()
        said = pipe.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:500]} failed:\n{output}")
    wall, cpu, memory = map(float, said.split())
    return Run(wall, cpu, int(memory) * (1 if sys.platform == "darwin" else 1024))


_LAUNCHER = """
import os, sys, time
begin = time.perf_counter()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - begin
os.write(int(sys.argv[1]), b"%r %r %r" % (wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""
"""A process's peak memory counts that of the process it was started from (Linux keeps it across `exec`), so commands
are started from a small one."""


def in_turn(commands: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Run the commands A B A B ..., so that drift meets all of them.

    Several rounds have one before them that is not counted.
    """
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    warm_up = 1 if rounds > 1 else 0
    for number in range(warm_up + rounds):
        for name, command in commands.items():
            result = command()
            if number >= warm_up:
                runs[name].append(result)
    return runs


def machine() -> dict[str, object]:
    """What the figures were measured on, without names of hosts or people."""
    import hashlib
    import platform
    import ssl

    cpu: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            cpu.setdefault(name.strip(), value.strip())
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "sha_extensions": ("sha_ni" in flags or "sha2" in flags) if flags else None,
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "sha256": f"{hashlib.sha256.__name__}, {ssl.OPENSSL_VERSION}",
    }


def describe(conditions: Mapping[str, object]) -> str:
    """The machine in a line or two."""
    known = conditions["sha_extensions"]
    extensions = "" if known is None else " with SHA extensions" if known else " without SHA extensions"
    return (
        f"{conditions['cpu']}, {conditions['cores']} cores{extensions}, load {conditions['load_average_at_start']}"
        f" at the start; {conditions['system']}, Python {conditions['python']}"
    )


def write_json(path: Path, document: object) -> None:
    """Keep the figures."""
    path.write_text(json.dumps(document, indent=2) + "\n")


def table(runs: Mapping[str, Sequence[Run]], *, gigabytes: float | None = None) -> str:
    """Medians, with the fastest and slowest wall time; CPU seconds per gigabyte if the amount is given."""
    rows = []
    for name, results in runs.items():
        walls = sorted(run.wall for run in results)
        cpu = statistics.median(run.cpu for run in results)
        row = [
            name,
            f"{statistics.median(walls):.2f} s",
            f"{walls[0]:.2f}-{walls[-1]:.2f}",
            f"{cpu:.2f} s",
            f"{statistics.median(run.memory for run in results) / 1e6:.0f} MB",
        ]
        if gigabytes:
            row.insert(4, f"{cpu / gigabytes:.2f}")
        rows.append(tuple(row))
    header = ("COMMAND", "WALL", "RANGE", "CPU", *(("CPU/GB",) if gigabytes else ()), "MEMORY")
    return columns(rows, header=header, align="<" + ">" * (len(header) - 1))
