"""Builds that are killed, interrupted, or run twice at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.zoo.build.conftest import Bench

SCRIPT = """
import sys
from pathlib import Path
from tests.zoo.build.conftest import Bench
root, entry, jobs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
bench = Bench(root, root / "zoo", root / "checkpoint", root / "build", root / "cache")
result = bench.run(entry, jobs=jobs)
print({item.component: item.state for item in result.components})
"""
PATIENCE_SECONDS = 60.0


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.02)


@contextmanager
def building(bench: Bench, entry: str = "fake-text", jobs: int = 1) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(bench.root), entry, str(jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task")
    return [int(pid) for task in path.iterdir() for pid in (task / "children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gated(bench: Bench) -> Path:
    """Make chunk2 wait for a gate file; chunk1 is done before it."""
    gate = bench.root / "gate"
    bench.edit("{ layer = 1 }", f'{{ layer = 1, behave = "gate:{gate}" }}')
    return gate


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_the_next_build_takes_up_the_finished_steps(bench: Bench, number: signal.Signals) -> None:
    gate = gated(bench)
    with building(bench) as process:
        until(gate.with_suffix(".reached").exists, "chunk2")
        workers = workers_of(process)
        assert len(workers) == 1
        process.send_signal(number)
        process.wait(timeout=PATIENCE_SECONDS)
        until(lambda: not running(workers[0]), "the worker's end")
    assert not (bench.build / "fake-text").exists()
    gate.touch()
    result = bench.run()
    assert {item.component: item.state for item in result.components} == {
        "chunk1": "cached",
        "chunk2": "built",
        "rope": "built",
        "tokenizer": "built",
        "model-config": "built",
    }
    assert not list((bench.cache / "steps" / "tmp").iterdir())


def test_a_killed_rebuild_leaves_the_old_build_usable(bench: Bench) -> None:
    bench.run()
    weight = bench.build / "fake-text" / "chunk2.mlpackage" / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    old = weight.read_bytes()
    gate = gated(bench)
    with building(bench) as process:
        until(gate.with_suffix(".reached").exists, "chunk2")
        process.kill()
        process.wait()
    assert weight.read_bytes() == old


def test_two_builds_at_once_run_every_step_once(bench: Bench) -> None:
    gate = gated(bench)
    with building(bench, "fake-text") as first:
        until(gate.with_suffix(".reached").exists, "chunk2")
        with building(bench, "fake-full") as second:
            vision = bench.cache / "steps" / "latest" / "fake-full" / "vision.json"
            until(vision.exists, "the second build's own step")
            gate.touch()
            outputs = []
            for process in (first, second):
                text, errors = process.communicate(timeout=PATIENCE_SECONDS)
                assert process.returncode == 0, errors
                outputs.append(text)
    assert "'chunk2': 'built'" in outputs[0]
    assert "'chunk2': 'cached'" in outputs[1]
    assert "'vision': 'built'" in outputs[1]
    assert not bench.ran("fake-text")
    assert not bench.ran("fake-full")


def test_two_builds_of_the_same_entry_at_once_agree(bench: Bench) -> None:
    with building(bench, jobs=2) as first, building(bench, jobs=2) as second:
        for process in (first, second):
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode == 0, errors
    assert not bench.run().changed
