"""`zoo verify` of a bundle that nobody has hashed yet beside `sha256sum`, and of one that has not changed.

    python -m benchmarks.verify [--bytes 8G] [--files 52] [--rounds 3] [--json FILE]

Both read the same files, on all cores, from the page cache if they fit. `nothing changed` is the whole command, with
the start of Python; what a start alone costs stands beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Run, describe, in_turn, machine, run_once, table, write_json
from benchmarks.served import ENTRY, ZOO_COMMAND, environment, make_bundle, parse_bytes, write_manifest

SUMS = 'find "$1" -type f -print0 | xargs -0 -n 1 -P "$2" sha256sum'


def measure(root: Path, total: int, files: int, rounds: int) -> dict[str, Any]:
    """The benchmark in `root`, which should be empty; returns the figures."""
    conditions = machine()
    bundle = root / "build" / ENTRY
    names = make_bundle(bundle, total, files)
    write_manifest(root / "zoo", ENTRY, names)
    variables = environment(root, "http://127.0.0.1:9")
    lock = root / "zoo" / f"{ENTRY}.lock.json"
    run_once([*ZOO_COMMAND, "lock", ENTRY, "--from", str(bundle)], environment=variables, cwd=root)
    verify = [*ZOO_COMMAND, "verify", "--folder", str(bundle), "--lock", str(lock)]
    run = partial(run_once, environment=variables, cwd=root)

    def first_time() -> Run:
        shutil.rmtree(root / "cache", ignore_errors=True)
        return run(verify)

    commands: dict[str, Callable[[], Run]] = {
        "zoo verify, first time": first_time,
        "sha256sum on all cores": partial(run, ["sh", "-c", SUMS, "sh", str(bundle), str(os.cpu_count() or 1)]),
        "zoo verify, nothing changed": partial(run, verify),
        "zoo --version": partial(run, [*ZOO_COMMAND, "--version"]),
        "python -c pass": partial(run, [sys.executable, "-c", "pass"]),
    }
    runs = in_turn(commands, rounds)
    size = sum(path.stat().st_size for path in bundle.iterdir())
    found = {name: [asdict(one) for one in several] for name, several in runs.items()}
    return {"machine": conditions, "bytes": size, "files": len(names), "runs": found}


def report(figures: dict[str, Any]) -> str:
    """The figures for people."""
    runs = {name: [Run(**run) for run in found] for name, found in figures["runs"].items()}
    head = f"{figures['bytes'] / 1e9:.2f} GB in {figures['files']} files"
    return "\n".join([head, describe(figures["machine"]), table(runs)])


def main() -> None:
    """Make, lock, verify in turn, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=parse_bytes, default=8 * 10**9, help="of the whole bundle, e.g. 8G")
    parser.add_argument("--files", type=int, default=52)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where to work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zoo-bench-", dir=given.directory) as name:
        figures = measure(Path(name), given.bytes, given.files, given.rounds)
    print(report(figures))
    if given.json:
        write_json(given.json, figures)


if __name__ == "__main__":
    main()
