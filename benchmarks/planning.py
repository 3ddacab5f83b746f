"""Planning over a zoo of a thousand entries with sixty files each: nothing but decisions, in memory.

    python -m benchmarks.planning [--entries 1000] [--files 60] [--rounds 5] [--json FILE]

Entries come in families of four that share two thirds of their bytes, as the app's do. Reading the zoo's documents
is measured apart: a command that is about one entry reads one lock.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import describe, machine, write_json
from zoo.catalog import Catalog, load_catalog
from zoo.folder import FolderFile, FolderState
from zoo.lock import Lock, LockedFile, Source, lock_path, make_lock, save_lock
from zoo.manifest import manifest_digest
from zoo.plan.published import hub_holders, unpublished
from zoo.plan.pull import PullRequest, plan_pull
from zoo.plan.push import Wanted, plan_push
from zoo.plan.remote import Listing, RemoteFile
from zoo.plan.sharing import find_sharing
from zoo.receipt import Receipt
from zoo.report.text import columns

FAMILY = 4
"""Entries that share bytes."""

SHARED = 2 / 3
"""Of an entry's files, those that its family has too."""

MANIFEST = """
schema = 1
id = "{id}"
name = "{id}"
family = "{family}"
folder = "{id}"
order = {order}
description = "A model."
license = "apache-2.0"
hub = {{ repo = "zoo/{id}" }}
[[component]]
name = "weights"
files = [{files}]
prebuilt = true
role = "decoder"
modality = "text"
"""

TARGET_SECONDS = 0.5


@dataclass(frozen=True)
class Zoo:
    """A zoo in memory: its catalog, every lock read."""

    catalog: Catalog
    locks: tuple[Lock, ...]


def digest_of(name: str) -> str:
    """A sha256 that stands for the bytes called `name`."""
    return hashlib.sha256(name.encode()).hexdigest()


def write_zoo(directory: Path, entries: int, files: int) -> None:
    """Manifests and locks of a synthetic zoo."""
    names = [f"part{number:02d}/weight.bin" for number in range(files)]
    quoted = ", ".join(f'"{name}"' for name in names)
    for number in range(entries):
        family, name = f"family{number // FAMILY}", f"entry{number:04d}"
        text = MANIFEST.format(id=name, family=family, order=number, files=quoted)
        (directory / f"{name}.toml").write_text(text)
    for entry in load_catalog(directory).entries:
        rows = []
        for index, path in enumerate(names):
            whose = entry.manifest.family if index < SHARED * files else entry.id
            source = Source(repo=f"zoo/{entry.id}", commit=digest_of(entry.id)[:40], path=path)
            digest = digest_of(f"{whose} {index}")
            rows.append(
                LockedFile(path=path, component="weights", size=10_000_000 + index, sha256=digest, sources=(source,))
            )
        save_lock(lock_path(directory, entry.id), make_lock(entry.id, manifest_digest(entry.manifest), rows))


def read_zoo(directory: Path) -> Zoo:
    """Read every document of it."""
    catalog = load_catalog(directory)
    locks = tuple(lock for entry in catalog.entries if (lock := entry.lock) is not None)
    return Zoo(catalog, locks)


def plan_sharing(zoo: Zoo) -> int:
    """`zoo shared`: who has the same bytes, what is stored twice, what is still to publish."""
    sharing = find_sharing(hub_holders(zoo.catalog.entries))
    return len(sharing.totals) + len(sharing.groups) + len(sharing.pairs) + len(unpublished(zoo.catalog.entries))


def plan_pulls(zoo: Zoo) -> int:
    """A pull of every entry, each into an empty folder."""
    empty = FolderState({}, frozenset(), Receipt(), {})
    return sum(len(plan_pull(PullRequest(lock.entry, lock, lock.files), empty).actions) for lock in zoo.locks)


def plan_switches(zoo: Zoo) -> int:
    """Every entry into a folder that has the one before it."""
    count = 0
    for before, lock in zip(zoo.locks, zoo.locks[1:], strict=False):
        files = {file.path: FolderFile(file.size, file.sha256) for file in before.files}
        count += len(
            plan_pull(
                PullRequest(lock.entry, lock, lock.files), FolderState(files, frozenset(), Receipt(), {})
            ).actions
        )
    return count


def plan_one_push(zoo: Zoo) -> int:
    """A push of one entry to a new repo, with the repos of all others to copy from."""
    first, *others = zoo.locks
    siblings = [
        Listing(
            f"zoo/{lock.entry}",
            "0" * 40,
            tuple(RemoteFile(file.path, file.size, file.sha256, "", file.sha256) for file in lock.files),
        )
        for lock in others
    ]
    wanted = [Wanted(file.path, file.size, file.sha256 or "") for file in first.files]
    return len(plan_push(wanted, Listing("zoo/new", None), siblings).actions)


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one round: on the wall, and of the CPU."""

    wall: float
    cpu: float


def taken(work: Callable[[], object], rounds: int) -> list[Taken]:
    """What each round takes; one before them is not counted."""
    found = []
    for number in range(rounds + 1):
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        if number:
            found.append(Taken(time.perf_counter() - wall, time.process_time() - cpu))
    return found


def measure(entries: int, files: int, rounds: int) -> dict[str, list[Taken]]:
    """Every kind of planning."""
    with tempfile.TemporaryDirectory(prefix="zoo-bench-") as name:
        directory = Path(name)
        write_zoo(directory, entries, files)
        reading = taken(lambda: read_zoo(directory), 1)
        zoo = read_zoo(directory)
    return {
        "sharing of the whole zoo": taken(lambda: plan_sharing(zoo), rounds),
        "a pull of every entry": taken(lambda: plan_pulls(zoo), rounds),
        "every entry after another": taken(lambda: plan_switches(zoo), rounds),
        "a push, all others as siblings": taken(lambda: plan_one_push(zoo), rounds),
        "(reading all documents)": reading,
    }


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    given = parser.parse_args()
    conditions = machine()
    found = measure(given.entries, given.files, given.rounds)
    print(f"{given.entries:,} entries of {given.files} files; target {TARGET_SECONDS} s each")
    print(describe(conditions))
    print(columns([_row(name, runs) for name, runs in found.items()], header=HEADER, align="<>>>"))
    if given.json:
        seconds = {name: [asdict(run) for run in runs] for name, runs in found.items()}
        write_json(
            given.json, {"machine": conditions, "entries": given.entries, "files": given.files, "seconds": seconds}
        )


HEADER = ("PLANNING", "WALL", "RANGE", "CPU")


def _row(name: str, runs: list[Taken]) -> tuple[str, ...]:
    walls = [run.wall for run in runs]
    cpu = statistics.median(run.cpu for run in runs)
    return name, f"{statistics.median(walls):.3f} s", f"{min(walls):.3f}-{max(walls):.3f}", f"{cpu:.3f} s"


if __name__ == "__main__":
    main()
