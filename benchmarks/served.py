"""A bundle of random bytes, a zoo that knows it, and a Hub in a process of its own that has it.

python -m benchmarks.served DIRECTORY [--limit BYTES_PER_SECOND]     serves until it is terminated
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import run_once

ROOT = Path(__file__).parents[1]

ENTRY, REPO = "bench", "zoo/bench"

MANIFEST = """
schema = 1
id = "{id}"
name = "Benchmark"
family = "bench"
folder = "{id}"
order = {order}
description = "Random bytes."
license = "apache-2.0"
hub = {{ repo = "zoo/{id}" }}
[[component]]
name = "weights"
files = [{files}]
prebuilt = true
role = "decoder"
modality = "text"
"""

SHARES = (0.345, 0.12, 0.092, 0.092, 0.082, 0.072, 0.07, 0.05, 0.042, 0.018, 0.007, 0.005)
"""Of all bytes, the largest files of gemma4-e4b-multimodal; what is left is spread over small ones."""

START_SECONDS = 30.0

LONGEST_SECONDS = 7200.0
"""A Hub that nobody stops ends by itself."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def parse_bytes(text: str) -> int:
    """`6G`, `200M`, `5000`: bytes, in powers of ten.

    Raises:
        ValueError: something else.
    """
    number = text.upper().removesuffix("B")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    return int(float(number.removesuffix(unit)) * _UNITS[unit])


def make_bundle(folder: Path, total: int, files: int, seed: int = 0) -> list[str]:
    """Write random files with the proportions of a real bundle and return their names."""
    source = random.Random(seed)
    shares = SHARES[: max(1, files - 1)]
    sizes = [int(total * share) for share in shares]
    small = files - len(sizes)
    sizes += [(total - sum(sizes)) // small] * small if small else []
    names = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        name = f"part{number:02d}.bin"
        with (folder / name).open("wb") as file:
            while size > 0:
                block = min(size, 1 << 24)
                file.write(source.randbytes(block))
                size -= block
        names.append(name)
    return names


def write_manifest(zoo: Path, entry: str, names: list[str], order: int = 1) -> None:
    """The manifest of a bundle of these files."""
    zoo.mkdir(exist_ok=True)
    quoted = ", ".join(f'"{name}"' for name in names)
    (zoo / f"{entry}.toml").write_text(MANIFEST.format(id=entry, order=order, files=quoted))


def environment(root: Path, endpoint: str) -> dict[str, str]:
    """For commands that work with this Hub and leave nothing outside `root`."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ZOO_DIR": str(root / "zoo"),
        "ZOO_BUILD": str(root / "build"),
        "ZOO_CACHE": str(root / "cache"),
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(root / "hf"),
        "HF_TOKEN": "hf_bench",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }


ZOO_COMMAND = (sys.executable, "-m", "zoo.cli.start")


def publish(root: Path, entry: str, variables: dict[str, str]) -> None:
    """Lock `root/build/<entry>` and push it."""
    run_once([*ZOO_COMMAND, "lock", entry, "--from", str(root / "build" / entry)], environment=variables, cwd=root)
    shutil.copyfile(root / "zoo" / f"{entry}.lock.json", root / "build" / f"{entry}.lock.json")
    run_once([*ZOO_COMMAND, "push", entry, "--yes"], environment=variables, cwd=root)


@contextlib.contextmanager
def served(directory: Path, *, limit: int | None = None) -> Iterator[str]:
    """A Hub in another process, so that its CPU is not the client's; gives its address.

    Args:
        directory: where its content lies.
        limit: bytes a second that each connection gets of a file.
    """
    options = ["--limit", str(limit)] if limit else []
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.served", str(directory), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        endpoint = process.stdout.readline().strip() if ready else ""
        if not endpoint:
            raise SystemExit("the Hub did not start")
        yield endpoint
    finally:
        process.terminate()
        process.communicate(timeout=30)


def main() -> None:
    """Serve until a signal comes."""
    from zoo.hub_server.faults import Fault
    from zoo.hub_server.process import running_hub

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    faults = [Fault(path="/resolve/", method="GET", times=None, bytes_per_s=given.limit)] if given.limit else []
    with running_hub(given.directory, faults=faults) as hub:
        print(hub.endpoint, flush=True)
        stop.wait(LONGEST_SECONDS)


if __name__ == "__main__":
    main()
