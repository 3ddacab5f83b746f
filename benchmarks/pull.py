"""`zoo pull` to verified beside `hf download` to unverified, from the embedded Hub on loopback.

    python -m benchmarks.pull [--gigabytes 1.0] [--rounds 3]

The bundle has the proportions of gemma4-e4b-multimodal: one file with a third of the bytes, a dozen large ones,
forty small ones. The Hub runs in a process of its own; both clients fetch the same repo into a fresh folder.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Run, in_turn, run_once, table

MANIFEST = """
schema = 1
id = "bench"
name = "Benchmark"
family = "bench"
folder = "bench"
order = 1
description = "Random bytes."
license = "apache-2.0"
[hub]
repo = "zoo/bench"
[[component]]
name = "weights"
files = [{files}]
prebuilt = true
role = "decoder"
modality = "text"
"""

SHARES = (0.345, 0.12, 0.092, 0.092, 0.082, 0.072, 0.07, 0.05, 0.042, 0.018, 0.007, 0.005)
"""Of all bytes, the largest files of gemma4-e4b-multimodal; what is left is spread over forty small ones."""


def make_bundle(folder: Path, total: int) -> list[str]:
    """Write the files and return their names."""
    source = random.Random(0)
    sizes = [int(total * share) for share in SHARES]
    sizes += [(total - sum(sizes)) // 40] * 40
    names = []
    for number, size in enumerate(sizes):
        name = f"part{number:02d}.bin"
        with (folder / name).open("wb") as file:
            while size > 0:
                block = min(size, 1 << 24)
                file.write(source.randbytes(block))
                size -= block
        names.append(name)
    return names


def main() -> None:
    """Make, serve, publish, then fetch in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zoo-bench-") as name:
        measure(Path(name), int(given.gigabytes * 1e9), given.rounds)


def measure(root: Path, total: int, rounds: int) -> None:
    """The benchmark in `root`."""
    bundle, zoo = root / "bundle", root / "zoo"
    bundle.mkdir()
    zoo.mkdir()
    names = make_bundle(bundle, total)
    (zoo / "bench.toml").write_text(MANIFEST.format(files=", ".join(f'"{name}"' for name in names)))
    programs = Path(sys.executable).parent
    port = "8799"
    environment = {
        **os.environ,
        "ZOO_DIR": str(zoo),
        "ZOO_CACHE": str(root / "cache"),
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(root / "hf"),
        "HF_TOKEN": "hf_bench",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    server = subprocess.Popen(
        [str(programs / "zoo"), "serve", str(root / "hub"), "--port", port, "--for", "1800"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(3)
        zoo_command = str(programs / "zoo")
        run_once([zoo_command, "lock", "bench", "--from", str(bundle)], environment=environment, cwd=root)
        shutil.copyfile(zoo / "bench.lock.json", root / "bench.lock.json")
        (root / "build").mkdir()
        bundle.rename(root / "build" / "bench")
        (root / "bench.lock.json").rename(root / "build" / "bench.lock.json")
        run_once([zoo_command, "push", "bench", "--yes"], environment=environment, cwd=root)

        def fresh(*command: str) -> Run:
            shutil.rmtree(root / "got", ignore_errors=True)
            return run_once(command, environment=environment, cwd=root)

        hf = str(programs / "hf")
        runs = in_turn(
            {
                "zoo pull (verified)": lambda: fresh(zoo_command, "pull", "bench", "--models", "got"),
                "hf download (unverified)": lambda: fresh(hf, "download", "zoo/bench", "--local-dir", "got"),
            },
            rounds,
        )
    finally:
        server.terminate()
        server.wait(30)
    print(f"{total / 1e9:.2f} GB in {len(names)} files")
    print(table(runs))


if __name__ == "__main__":
    main()
