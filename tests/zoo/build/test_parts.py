"""The engine's parts on their own: swapping folders, scheduling by memory, static checks, digests of tensors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from tests.zoo.build import fake
from tests.zoo.build.conftest import Bench
from zoo.build import assemble, resources
from zoo.build.cache import StepCache
from zoo.build.checks import check_model_folder
from zoo.build.local import LocalExecutor
from zoo.build.run import Where, carry_out, open_caches
from zoo.build.scheduler import Scheduler, Task
from zoo.build.tensor_digests import TensorDigestCache, tensor_digests
from zoo.digests import DigestCache
from zoo.errors import ConversionError
from zoo.events import Silent

FIRST = f"{fake.PREFIX}0.weight"


@pytest.mark.parametrize("atomic", [True, False])
def test_folders_are_swapped_with_and_without_the_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    if not atomic:
        monkeypatch.setattr(assemble, "exchange", lambda _one, _other: False)
    for name in ("new", "current"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    assemble._swap(tmp_path / "new", tmp_path / "current")
    assert (tmp_path / "current" / "f").read_text() == "new"
    assert (tmp_path / "new" / "f").read_text() == "current"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "new"]


def test_a_swap_that_died_halfway_is_undone(bench: Bench) -> None:
    bench.run()
    (bench.build / "fake-text").rename(bench.build / ".fake-text.old")
    assert bench.run().changed
    assert (bench.build / "fake-text" / "cos.npy").is_file()
    assert not (bench.build / ".fake-text.old").exists()


class Starts(Silent):
    """Counts steps under way."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def start(self, item: str, total: int, done: int = 0) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def finish(self, item: str, note: str = "") -> None:
        self.now -= 1


@pytest.mark.parametrize(("memory", "most"), [(0, 1), (1 << 60, 2)])
def test_memory_bounds_how_many_steps_run_at_once(bench: Bench, memory: int, most: int) -> None:
    plan = bench.plan()
    shown = Starts()
    with DigestCache(bench.cache / "digests.sqlite") as digests:
        cache = StepCache(bench.cache / "steps", digests)
        scheduler = Scheduler(bench.checkpoint, cache, shown, lambda _steps: LocalExecutor(2, memory))
        done = scheduler.run(Task(item.step, item.key, item.inputs, 1 << 30) for item in plan.to_run)
    assert set(done) == {item.step.id for item in plan.steps}
    assert shown.most == most


def test_longest_steps_start_first(bench: Bench) -> None:
    order: list[str] = []

    class Order(Silent):
        def start(self, item: str, total: int, done: int = 0) -> None:
            order.append(item)

    plan = bench.plan()
    with open_caches() as caches:
        carry_out(plan, bench.build, caches, where=Where(jobs=1), progress=Order())
    steps = [f"fake-text/{name}" for name in ("chunk1", "chunk2", "model-config", "rope", "tokenizer")]
    assert order == [*steps, "assembly"]


def test_memory_is_found_and_positive() -> None:
    assert 0 < resources.usable_memory() < 1 << 60
    assert resources.usable_cores() >= 1


def test_a_container_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert resources._cgroup_available(tmp_path) == 700
    (tmp_path / "memory.max").write_text("max\n")
    assert resources._cgroup_available(tmp_path) is None
    assert resources._cgroup_available(tmp_path / "absent") is None


def test_threads_the_user_set_are_kept() -> None:
    environment = resources.worker_environment({"OMP_NUM_THREADS": "7"}, 2)
    assert environment["OMP_NUM_THREADS"] == "7"
    assert environment["MKL_NUM_THREADS"] == "2"


@pytest.mark.parametrize("settled", [True, False])
def test_only_settled_shards_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool) -> None:
    checkpoint = Checkpoint.open(fake.write_checkpoint(tmp_path / "checkpoint"))
    if settled:
        fake.settle(checkpoint.directory)
    reads: list[str] = []
    original = Checkpoint.digest

    def counting(self: Checkpoint, name: str) -> str:
        reads.append(name)
        return original(self, name)

    monkeypatch.setattr(Checkpoint, "digest", counting)
    with TensorDigestCache(tmp_path / "tensors.sqlite") as cache:
        first = tensor_digests(checkpoint, [FIRST], cache)
        second = tensor_digests(checkpoint, [FIRST], cache)
    assert first == second == {FIRST: original(checkpoint, FIRST)}
    assert len(reads) == (1 if settled else 2)


def test_a_touched_shard_is_read_again_and_an_unusable_database_is_replaced(tmp_path: Path) -> None:
    fake.write_checkpoint(tmp_path / "checkpoint")
    fake.settle(tmp_path / "checkpoint")
    database = tmp_path / "tensors.sqlite"
    database.write_bytes(b"this is no database" * 100)
    with TensorDigestCache(database) as cache:
        before = tensor_digests(Checkpoint.open(tmp_path / "checkpoint"), [FIRST], cache)
    fake.write_checkpoint(tmp_path / "checkpoint", fill={0: 77})
    for path in (tmp_path / "checkpoint").iterdir():
        os.utime(path, ns=(10**18 + 1, 10**18 + 1))
    with TensorDigestCache(database) as cache:
        after = tensor_digests(Checkpoint.open(tmp_path / "checkpoint"), [FIRST], cache)
    assert before[FIRST] != after[FIRST]


def package(folder: Path, items: dict[str, dict[str, str]]) -> Path:
    model = folder / "Data" / "com.apple.CoreML"
    model.mkdir(parents=True)
    (model / "model.mlmodel").write_bytes(b"\x0a\x1e@model_path/weights/weight.bin")
    (folder / "Manifest.json").write_text(json.dumps({"itemInfoEntries": items}))
    return folder


def test_incomplete_packages_are_named(tmp_path: Path) -> None:
    model = {"path": "com.apple.CoreML/model.mlmodel"}
    weights = {"path": "com.apple.CoreML/weights"}
    listed = package(tmp_path / "a.mlpackage", {"m": model, "w": weights})
    with pytest.raises(ConversionError, match=r"a: Manifest\.json lists Data/com\.apple\.CoreML/weights, which"):
        check_model_folder(listed, "a")
    unlisted = package(tmp_path / "b.mlpackage", {"m": model})
    with pytest.raises(ConversionError, match=r"b: model\.mlmodel refers to weights/weight\.bin"):
        check_model_folder(unlisted, "b")
    weight = unlisted / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    weight.parent.mkdir()
    weight.write_bytes(b"0")
    check_model_folder(unlisted, "b")
    outside = package(tmp_path / "c.mlpackage", {"m": {"path": "../../etc/passwd"}})
    with pytest.raises(ConversionError, match="leaves the package"):
        check_model_folder(outside, "c")
    (outside / "Manifest.json").write_text("[]")
    with pytest.raises(ConversionError, match="no list of items"):
        check_model_folder(outside, "c")
    (outside / "Manifest.json").unlink()
    with pytest.raises(ConversionError, match=r"Manifest\.json is missing"):
        check_model_folder(outside, "c")
