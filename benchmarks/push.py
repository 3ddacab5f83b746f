"""What a push of a sibling bundle reads from the disk and sends, when the Hub has most of its bytes.

    python -m benchmarks.push [--bytes 1G] [--files 52] [--json FILE]

The first bundle is published; the second has the same files and one small one more. Its build is all hard links, so
that its digests are remembered. Read bytes are what the process asked the kernel for (`rchar` of /proc/PID/io, Linux
only); Python and the packages it imports are among them. Sent bytes are bodies of requests, counted by the Hub.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import describe, machine, run_once, write_json
from benchmarks.served import ENTRY, environment, make_bundle, parse_bytes, publish, write_manifest
from zoo.hub_server.process import running_hub
from zoo.report.sizes import human_bytes
from zoo.report.text import columns

SIBLING, OWN = "sibling", "own.bin"
OWN_BYTES = 100_000

COUNTED = """
import json, time
from zoo.cli.main import main
begin = time.perf_counter()
try:
    main()
finally:
    with open("/proc/self/io") as file:
        read = int(dict(line.split(": ") for line in file.read().splitlines())["rchar"])
    with open({path!r}, "w") as file:
        json.dump({{"read": read, "seconds": time.perf_counter() - begin}}, file)
"""
"""Runs a command of zoo and writes down what it read."""


def counted(root: Path, arguments: list[str], variables: dict[str, str]) -> dict[str, Any]:
    """Bytes that a command of zoo reads, its seconds, and what it prints.

    Raises:
        SystemExit: it failed.
    """
    place = root / "counted.json"
    code = COUNTED.format(path=str(place))
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=root, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"zoo {' '.join(arguments)} failed:\n{done.stderr}")
    return {**json.loads(place.read_text()), "output": done.stdout}


def measure(root: Path, total: int, files: int) -> dict[str, Any]:
    """The benchmark in `root`, which should be empty; returns the figures."""
    conditions = machine()
    build = root / "build"
    names = make_bundle(build / ENTRY, total, files)
    write_manifest(root / "zoo", ENTRY, names)
    (build / SIBLING).mkdir()
    for name in names:
        os.link(build / ENTRY / name, build / SIBLING / name)
    (build / SIBLING / OWN).write_bytes(os.urandom(OWN_BYTES))
    time.sleep(2.1)  # a file younger than that is not remembered, see zoo.digests
    write_manifest(root / "zoo", SIBLING, [*names, OWN], order=2)
    with running_hub(root / "hub") as hub:
        variables = environment(root, hub.endpoint)
        publish(root, ENTRY, variables)
        lock = [sys.executable, "-m", "zoo.cli.start", "lock", SIBLING, "--from", str(build / SIBLING)]
        run_once(lock, environment=variables, cwd=root)
        (root / "zoo" / f"{SIBLING}.lock.json").replace(build / f"{SIBLING}.lock.json")
        hub.log.clear()
        pushed = counted(root, ["push", SIBLING, "--yes", "--format", "json"], variables)
        sent = hub.log.bytes_received()
        again = counted(root, ["push", SIBLING, "--yes", "--format", "json"], variables)
    return {
        "machine": conditions,
        "bytes": total + OWN_BYTES,
        "files": len(names) + 1,
        "own_bytes": OWN_BYTES,
        "read": pushed["read"],
        "sent": sent,
        "seconds": pushed["seconds"],
        "read_when_nothing_is_left_to_do": again["read"],
    }


def main() -> None:
    """Make, publish one, push the other, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=parse_bytes, default=10**9)
    parser.add_argument("--files", type=int, default=52)
    parser.add_argument("--directory", type=Path, help="where to work; needs twice the bytes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zoo-bench-", dir=given.directory) as name:
        figures = measure(Path(name), given.bytes, given.files)
    print(describe(figures["machine"]))
    rows = [
        ("the sibling bundle", human_bytes(figures["bytes"])),
        ("of which the Hub lacks", human_bytes(figures["own_bytes"])),
        ("sent by its push", human_bytes(figures["sent"])),
        ("read by its push", human_bytes(figures["read"])),
        ("read by a push with nothing to do", human_bytes(figures["read_when_nothing_is_left_to_do"])),
    ]
    print(columns(rows, header=("WHAT", "BYTES"), align="<>"))
    if given.json:
        write_json(given.json, figures)


if __name__ == "__main__":
    main()
