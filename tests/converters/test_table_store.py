"""Tables that were solved once: the same bytes with and without, found by other processes, harmless when broken."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from converters import kmeans, table_store
from converters.palettize import Palettization, blocks, palettize
from converters.recipe import Job
from converters.table_store import LIMIT, SOLVER, TableStore, remember_in, shared_store, table_key
from converters.weights import Weight, array_weight

pytestmark = pytest.mark.convert

SCHEME = Palettization(4, 32)


def weight(dtype: Any = "bfloat16", seed: int = 0) -> Weight:
    """Eight groups of 32 rows."""
    values = np.random.default_rng(seed).standard_normal((256, 100)).astype(np.float32)
    if dtype == "float16":
        return array_weight("w", values.astype(np.float16))
    if dtype == "float32":
        return Weight("w", values.shape, dtype, lambda start, stop: values[start:stop])
    codes = (values.view(np.uint32) >> 16).astype(np.uint16)
    return Weight("w", codes.shape, dtype, lambda start, stop: codes[start:stop])


def compress(what: Weight, store: TableStore | None, scheme: Palettization = SCHEME, **options: Any) -> bytes:
    parts = list(blocks(what, scheme, store=store, threads=2, **options))
    return b"".join(part.lut.tobytes() for part in parts) + b"".join(part.indices.tobytes() for part in parts)


class Solved:
    """How many groups have been solved."""

    def __init__(self) -> None:
        self.groups = 0

    def since(self) -> int:
        """Since the last call."""
        found, self.groups = self.groups, 0
        return found


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> Solved:
    return count_solved(monkeypatch)


def count_solved(patch: pytest.MonkeyPatch) -> Solved:
    found, solve = Solved(), kmeans.solve_groups

    def counted(codes: Any, importance: Any, known: Any, *others: Any) -> int:
        found.groups += int((~known).sum())
        return solve(codes, importance, known, *others)

    patch.setattr(kmeans, "solve_groups", counted)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TableStore]:
    with closing(TableStore(tmp_path / "cache" / "tables.sqlite")) as opened:
        yield opened


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("group_size", [1, 32])
def test_same_bytes_and_solved_once(dtype: str, bits: int, group_size: int, store: TableStore, solved: Solved) -> None:
    scheme = Palettization(bits, group_size)
    wanted = compress(weight(dtype), None, scheme)
    assert solved.since() == 256 // group_size
    assert compress(weight(dtype), store, scheme) == wanted
    assert solved.since() == 256 // group_size
    assert compress(weight(dtype), store, scheme) == wanted
    assert solved.since() == 0


def test_rows_of_a_weight_are_found_in_another(store: TableStore, solved: Solved) -> None:
    """Whatever blocks they were solved in, which depend on how many threads there are."""
    whole = weight()
    compress(whole, store)
    half = Weight("half", (128, 100), whole.dtype, lambda start, stop: whole.read(64 + start, 64 + stop))
    wanted = compress(half, None)
    solved.since()
    assert compress(half, store) == wanted
    assert solved.since() == 0


def test_importance_is_part_of_the_key(store: TableStore, solved: Solved) -> None:
    importance = np.random.default_rng(1).random((256, 100)).astype(np.float32)
    plain, weighted = compress(weight(), None), compress(weight(), None, importance=importance)
    assert plain != weighted
    solved.since()
    for _ in range(2):
        assert compress(weight(), store) == plain
        assert compress(weight(), store, importance=importance) == weighted
    assert solved.since() == 2 * 8
    compress(weight(), store, importance=2 * importance)
    assert solved.since() == 8


def test_keys_tell_everything_apart() -> None:
    codes, importance = np.arange(100, dtype=np.uint16), np.ones(100, np.float32)
    keys = [
        table_key(codes, "float16", 16),
        table_key(codes[::-1].copy(), "float16", 16),
        table_key(codes[:-1], "float16", 16),
        table_key(codes, "bfloat16", 16),
        table_key(codes, "float16", 8),
        table_key(codes, "float16", 16, importance),
        table_key(codes, "float16", 16, 2 * importance),
    ]
    assert len(set(keys)) == len(keys)
    assert table_key(codes.copy(), "float16", 16) == keys[0]


def test_a_change_of_the_solver_is_a_change_of_its_number() -> None:
    """Whoever makes this fail raises `SOLVER` and writes down the new digest: kept tables are no longer right."""
    tables = xxhash.xxh3_64()
    for bits in (1, 2, 3, 4, 6, 8):
        for columns in (64, 3000):
            codes = np.random.default_rng(bits).integers(0, 0x7C00, (4, columns), dtype=np.uint16)
            tables.update(palettize(codes.view(np.float16), Palettization(bits, 2, threshold=0)).lut.tobytes())
    assert (SOLVER, tables.hexdigest()) == (1, "47c8a2f02fb8ba20")


def test_a_damaged_table_is_solved_again(store: TableStore, solved: Solved, tmp_path: Path) -> None:
    wanted = compress(weight(), store)
    solved.since()
    with closing(sqlite3.connect(tmp_path / "cache" / "tables.sqlite")) as other, other:
        ((key, entries),) = other.execute("SELECT key, entries FROM solved LIMIT 1").fetchall()
        spoiled = bytes([entries[0] ^ 1]) + entries[1:]
        other.execute("UPDATE solved SET entries = ? WHERE key = ?", (spoiled, key))
        ((another, short),) = other.execute(
            "SELECT key, entries FROM solved WHERE key != ? LIMIT 1", (key,)
        ).fetchall()
        other.execute("UPDATE solved SET entries = ?, checksum = NULL WHERE key = ?", (short[:-2], another))
    assert compress(weight(), store) == wanted
    assert solved.since() == 2
    assert compress(weight(), store) == wanted
    assert solved.since() == 0


@pytest.mark.parametrize("size", [100, 5000])
def test_a_file_that_is_no_database_is_replaced(size: int, tmp_path: Path, solved: Solved) -> None:
    path = tmp_path / "tables.sqlite"
    path.write_bytes(b"x" * size)
    for expected in (8, 0):
        with closing(TableStore(path)) as store:
            compress(weight(), store)
        assert solved.since() == expected


def test_a_database_that_breaks_is_done_without_and_replaced(tmp_path: Path, solved: Solved) -> None:
    path = tmp_path / "tables.sqlite"
    with closing(TableStore(path)) as store:
        wanted = compress(weight(), store, Palettization(8, 1))
    content = path.read_bytes()
    assert len(content) > 100_000
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))  # the head is fine, so it can be opened
    solved.since()
    with closing(TableStore(path)) as store:
        for _ in range(2):
            assert compress(weight(), store, Palettization(8, 1)) == wanted
    solved.since()
    for _ in range(2):
        with closing(TableStore(path)) as store:
            assert compress(weight(), store, Palettization(8, 1)) == wanted
    assert solved.since() == 256


def test_no_place_to_keep_anything(tmp_path: Path, solved: Solved) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "tables.sqlite").mkdir()
    wanted = compress(weight(), None)
    for path in (tmp_path / "file" / "tables.sqlite", tmp_path / "tables.sqlite"):
        with closing(TableStore(path)) as store:
            assert compress(weight(), store) == wanted
    assert solved.since() == 3 * 8


def test_a_database_that_is_locked_is_done_without(
    tmp_path: Path, solved: Solved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_store, "LOCK_SECONDS", 0.01)
    path = tmp_path / "tables.sqlite"
    with closing(TableStore(path)) as store:
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            compress(weight(), store)
            compress(weight(), store)
            assert solved.since() == 2 * 8
        compress(weight(), store)
        compress(weight(), store)
        assert solved.since() == 8


def test_size_is_bounded(tmp_path: Path) -> None:
    path, limit = tmp_path / "tables.sqlite", 256 << 10
    keys = [number.to_bytes(16, "big") for number in range(20_000)]
    for start in range(0, len(keys), 500):
        with closing(TableStore(path, limit)) as store:
            some = keys[start : start + 500]
            store.keep({key: bytes(32) for key in some})
            assert store.find(some) == [bytes(32)] * 500  # the newest are always there
        assert path.stat().st_size <= limit
    with closing(TableStore(path, limit)) as store:
        assert store.find(keys[:1]) == [None]
        store.keep(dict.fromkeys(keys, bytes(32)))  # more than fits: none
        assert path.stat().st_size <= limit
        assert store.find(keys[:1]) == [None]
        assert store.find(some) == [bytes(32)] * 500
    assert LIMIT < 100e6


def test_the_place_of_a_process(tmp_path: Path) -> None:
    assert shared_store() is None
    try:
        remember_in(tmp_path / "a")
        first = shared_store()
        assert first is not None
        assert shared_store() is first
        remember_in(tmp_path / "a")
        assert shared_store() is first
        remember_in(tmp_path / "b")
        assert shared_store() not in (None, first)
        first.keep({b"k": b"t"})  # closed: nothing happens
        assert first.find([b"k"]) == [None]
    finally:
        remember_in(None)
    assert shared_store() is None


def test_a_second_package_solves_nothing(tmp_path: Path, solved: Solved) -> None:
    pytest.importorskip("torch")
    from tests.converters.test_package import build

    def content(package: Path) -> dict[str, bytes]:
        return {str(file.relative_to(package)): file.read_bytes() for file in package.rglob("*") if file.is_file()}

    scheme = Palettization()
    plain = [content(build(tmp_path / f"plain{length}.mlpackage", length, scheme=scheme)) for length in (1, 2)]
    assert solved.since() == 2 * 5  # of 96 and 64 rows
    remember_in(tmp_path / "tables.sqlite")
    try:
        assert content(build(tmp_path / "first.mlpackage", 1, scheme=scheme)) == plain[0]
        assert solved.since() == 5
        assert content(build(tmp_path / "second.mlpackage", 2, scheme=scheme)) == plain[1]
        assert solved.since() == 0
    finally:
        remember_in(None)


def job(job: Job) -> None:
    """What the processes below run as a recipe: compresses a few weights and says how many groups it solved."""
    with pytest.MonkeyPatch.context() as patch:
        solved = count_solved(patch)
        seeds = range(int(job.parameters["first"]), int(job.parameters["last"]))
        content = b"".join(compress(weight(seed=seed), shared_store()) for seed in seeds)
    (job.output / "weights").write_bytes(content)
    (job.output / "solved").write_text(str(solved.since()))


class Process:
    """A worker process of a build, with a cache directory."""

    def __init__(self, root: Path, name: str) -> None:
        self.output, self.log = root / name, root / f"{name}.log"
        self.output.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zoo.build.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "ZOO_CACHE": str(root / "cache")},
            cwd=Path(__file__).parents[2],
        )

    def start(self, first: int, last: int) -> None:
        """Compress the weights of some seeds."""
        assert self.process.stdin is not None
        message = {
            "log": str(self.log),
            "output": str(self.output),
            "run": "tests.converters.test_table_store:job",
            "checkpoint": "",
            "path": "",
            "parameters": {"first": first, "last": last},
        }
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def result(self) -> tuple[bytes, int]:
        """What was written, and how many groups were solved for it."""
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline() or "{}")
        assert said.get("event") == "done", self.log.read_text()
        return (self.output / "weights").read_bytes(), int((self.output / "solved").read_text())

    def end(self) -> None:
        """Kill it."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def test_processes_share_tables(tmp_path: Path) -> None:
    """Two at once, one that is killed, and one that finds everything solved."""
    wanted = b"".join(compress(weight(seed=seed), None) for seed in range(40))
    processes = [Process(tmp_path, name) for name in ("one", "two", "killed", "last")]
    one, two, killed, last = processes
    try:
        one.start(0, 40)
        two.start(0, 40)
        killed.start(0, 10_000)
        (first, _), (second, _) = one.result(), two.result()
        killed.end()
        assert first == second == wanted
        last.start(0, 40)
        assert last.result() == (wanted, 0)
    finally:
        for process in processes:
            process.end()
