"""How much of this machine a build may use: cores, memory, threads of each worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converters.recipe import Recipe
    from zoo.build.cache import Measured
    from zoo.build.keys import Inputs

WORKER_BASE_BYTES = 1_000_000_000
"""A worker with torch and coremltools imported and a graph in the making: 0.5 to 0.8 GB measured on Linux with
checkpoints of a few megabytes. Less than that is not worth starting with."""

MEASURED_MARGIN = 1.1
"""What a step took the last time, and so much more, is what it is expected to take."""

MEMORY_SHARE = 0.8
"""Part of the available memory that a build takes."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def expected_memory(recipe: Recipe, sizes: Sequence[int], measured: Measured | None, inputs: Inputs) -> int:
    """Bytes that a step's worker is expected to hold at most.

    Args:
        recipe: what runs; says what it needs.
        sizes: bytes of each checkpoint tensor that it reads.
        measured: what the component's last run took; counts if it was a run of the same kind.
        inputs: of the run to come.
    """
    if measured is not None and measured.peak_bytes and measured.tells_of(inputs, sum(sizes)):
        return int(MEASURED_MARGIN * measured.peak_bytes)
    return recipe.memory.of(sizes)


def usable_memory() -> int:
    """Bytes a build may use: a share of what is available, a container's limit included."""
    candidates = [_physical_memory()]
    available = _meminfo_available(Path("/proc/meminfo"))
    if available is not None:
        candidates.append(available)
    limit = _cgroup_available(Path("/sys/fs/cgroup"))
    if limit is not None:
        candidates.append(limit)
    return int(MEMORY_SHARE * min(candidates))


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 << 30  # Windows has no sysconf; what a small development machine has


def _meminfo_available(path: Path) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup_available(folder: Path) -> int | None:
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        return None if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return None


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_environment(base: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of a worker: its share of the cores, fixed hashing, this process's import path, no network.

    Thread counts the user has set are kept.
    """
    changed = {name: str(max(1, threads)) for name in _THREAD_VARIABLES if name not in base}
    changed |= {
        # Set order leaks into serialised programs where a converter iterates over a set of names.
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
        # The current directory is on the import path already if the parent had it there.
        "PYTHONSAFEPATH": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    return {**base, **changed}
