"""`zoo pull` to verified beside what others need to unverified, from one Hub on loopback, in one run.

    python -m benchmarks.pull [--bytes 1G] [--files 52] [--rounds 3] [--json FILE]
    python -m benchmarks.pull --bytes 200M --limit 10M       each connection gets 10 MB a second

The bundle has the proportions of gemma4-e4b-multimodal: one file with a third of the bytes, a dozen large ones,
forty small ones. Every client fetches it into a fresh folder, in turn, after one round that is not counted (unless
there is only one); before each run the disk is allowed to finish what it has to write. `zoo` flushes every file to the
disk and checks its sha256; the others do neither. A tool that is not installed is named. `sha256 alone` is the CPU
time of hashing as many bytes in memory: what verification costs at least on this machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Run, describe, in_turn, machine, run_once, table, write_json
from benchmarks.served import (
    ENTRY,
    REPO,
    ZOO_COMMAND,
    environment,
    make_bundle,
    parse_bytes,
    publish,
    served,
    write_manifest,
)

JOBS = 4
"""Connections of zoo, curl and aria2c: zoo's default. `hf download` runs as it comes, with eight threads."""

SHA256_ALONE = """
import hashlib, sys
left, block, digest = int(sys.argv[1]), bytes(1 << 18), hashlib.sha256()
while left > 0:
    digest.update(block)
    left -= len(block)
"""


@dataclass(frozen=True)
class Client:
    """One way to fetch the bundle.

    Attributes:
        name: in the table.
        program: what has to be installed.
        command: makes the command line for a Hub's address and a folder.
    """

    name: str
    program: str
    command: Callable[[str, Path], Sequence[str]]


def clients(names: Sequence[str], *, limited: bool) -> list[Client]:
    """Everybody who takes part."""

    def curl(endpoint: str, got: Path) -> list[str]:
        pairs = [item for name in names for item in (f"{endpoint}/{REPO}/resolve/main/{name}", "-o", str(got / name))]
        return ["curl", "-sSf", "-Z", "--parallel-max", str(JOBS), "--create-dirs", *pairs]

    def aria2(endpoint: str, got: Path, *options: str) -> list[str]:
        orders = got.parent / "aria2.txt"
        orders.write_text("".join(f"{endpoint}/{REPO}/resolve/main/{name}\n out={name}\n" for name in names))
        common = ["-q", "--no-conf", "--file-allocation=none", "-d", str(got), "-i", str(orders)]
        return ["aria2c", *common, *options]

    def zoo(_endpoint: str, got: Path, *options: str) -> list[str]:
        return [*ZOO_COMMAND, "pull", ENTRY, "--dest", str(got), *options]

    found = [
        Client("zoo pull (verified)", sys.executable, zoo),
        Client("hf download", "hf", lambda _, got: [_program("hf"), "download", REPO, "--local-dir", str(got)]),
        Client(f"curl -Z ({JOBS})", "curl", curl),
        Client(f"aria2c -j{JOBS} -x1", "aria2c", partial(_with, aria2, f"-j{JOBS}", "-x1")),
    ]
    if limited:
        found += [
            Client("zoo pull --jobs 1", sys.executable, partial(_with, zoo, "--jobs", "1")),
            Client(f"aria2c -j1 -x{JOBS} -s{JOBS}", "aria2c", partial(_with, aria2, "-j1", f"-x{JOBS}", f"-s{JOBS}")),
        ]
    return found


def _with(make: Callable[..., list[str]], *options_then_place: Any) -> list[str]:
    *options, endpoint, got = options_then_place
    return make(endpoint, got, *options)


def _program(name: str) -> str:
    """Where a program is: beside this Python, else on the path; empty if nowhere."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else shutil.which(name) or ""


def measure(root: Path, total: int, files: int, rounds: int, limit: int | None = None) -> dict[str, Any]:
    """The benchmark in `root`, which should be empty; returns the figures."""
    conditions = machine()
    names = make_bundle(root / "build" / ENTRY, total, files)
    sizes = {name: (root / "build" / ENTRY / name).stat().st_size for name in names}
    write_manifest(root / "zoo", ENTRY, names)
    with served(root / "hub") as endpoint:
        publish(root, ENTRY, environment(root, endpoint))
    shutil.rmtree(root / "build")
    got = root / "got"
    everybody = clients(names, limited=limit is not None)
    present = [client for client in everybody if _program(client.program)]
    with served(root / "hub", limit=limit) as endpoint:
        variables = environment(root, endpoint)

        def fetch(client: Client) -> Run:
            shutil.rmtree(got, ignore_errors=True)
            command = client.command(endpoint, got)
            os.sync()
            run = run_once(command, environment=variables, cwd=root)
            found = {name: (got / name).stat().st_size for name in names if (got / name).is_file()}
            if found != sizes:
                raise SystemExit(f"{client.name}: did not fetch everything")
            return run

        commands = {client.name: partial(fetch, client) for client in present}
        hashing = [sys.executable, "-c", SHA256_ALONE, str(sum(sizes.values()))]
        commands["(sha256 alone)"] = partial(run_once, hashing, environment=variables, cwd=root)
        runs = in_turn(commands, rounds)
    shutil.rmtree(got)
    return {
        "machine": conditions,
        "bytes": sum(sizes.values()),
        "files": len(names),
        "bytes_per_second_of_a_connection": limit,
        "absent": sorted({client.program for client in everybody} - {client.program for client in present}),
        "runs": {name: [asdict(run) for run in found] for name, found in runs.items()},
    }


def report(figures: dict[str, Any]) -> str:
    """The figures for people."""
    runs = {name: [Run(**run) for run in found] for name, found in figures["runs"].items()}
    gigabytes = figures["bytes"] / 1e9
    limit = figures["bytes_per_second_of_a_connection"]
    lines = [
        f"{gigabytes:.2f} GB in {figures['files']} files"
        + (f", {limit / 1e6:g} MB a second for each connection" if limit else ""),
        describe(figures["machine"]),
        table(runs, gigabytes=gigabytes),
    ]
    if "hf download" in runs:
        zoo, hf = (statistics.median(run.cpu for run in runs[name]) for name in ("zoo pull (verified)", "hf download"))
        alone = statistics.median(run.cpu for run in runs["(sha256 alone)"])
        lines.append(
            f"CPU of zoo: {zoo / hf:.0%} of hf's; without sha256, which hf does not compute, {(zoo - alone) / hf:.0%}"
        )
    lines += [f"not installed: {name}" for name in figures["absent"]]
    return "\n".join(lines)


def main() -> None:
    """Make, serve, publish, fetch in turn, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=parse_bytes, default=10**9, help="of the whole bundle, e.g. 6G")
    parser.add_argument("--files", type=int, default=52)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=parse_bytes, help="bytes a second for each connection, e.g. 10M")
    parser.add_argument("--directory", type=Path, help="where to work; needs three times the bytes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zoo-bench-", dir=given.directory) as name:
        figures = measure(Path(name), given.bytes, given.files, given.rounds, given.limit)
    print(report(figures))
    if given.json:
        write_json(given.json, figures)


if __name__ == "__main__":
    main()
