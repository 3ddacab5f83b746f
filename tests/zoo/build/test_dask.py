"""Steps on a real Dask cluster: processes on loopback, some of which are killed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.zoo.build import fake
from tests.zoo.build.conftest import Bench
from tests.zoo.build.test_build import tree
from tests.zoo.build.test_interruptions import running, until
from zoo.build.dask_executor import DaskExecutor
from zoo.build.executor import Order, Report
from zoo.build.remote import Refusal, _Budget, check_checkpoint, check_libraries
from zoo.build.run import Where
from zoo.errors import ConversionError, UsageError
from zoo.events import Silent

if TYPE_CHECKING:
    from distributed import LocalCluster

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    import dask

    place = tmp_path_factory.mktemp("dask")
    with (
        dask.config.set({"temporary-directory": str(place), "distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # else 8787, which another cluster may have
            host="127.0.0.1",
            silence_logs=logging.CRITICAL,
        ) as started,
    ):
        yield started


@pytest.fixture
def on_cluster(cluster: LocalCluster) -> Where:
    return Where(executor=cluster.scheduler_address.replace("tcp://", "dask://"))


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.fractions: dict[str, int] = {}

    def say(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, item: str, amount: int) -> None:
        self.fractions[item] = self.fractions.get(item, 0) + amount


def test_a_cluster_makes_the_same_bytes_as_this_machine(
    bench: Bench, on_cluster: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bench.run(where=on_cluster)
    assert {item.state for item in result.components} == {"built"}
    assert all(item.peak_bytes > 0 for item in result.components)
    lock = (bench.build / "fake-text.lock.json").read_bytes()
    made = tree(bench.build / "fake-text")
    assert not list((bench.cache / "steps" / "tmp").iterdir())
    assert not bench.run(where=on_cluster).changed
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "other-cache"))
    bench.build = tmp_path / "other-build"
    bench.run()
    assert tree(bench.build / "fake-text") == made
    assert (bench.build / "fake-text.lock.json").read_bytes() == lock


def test_steps_of_a_worker_that_dies_run_on_another_one(bench: Bench, on_cluster: Where) -> None:
    bench.run()
    expected = tree(bench.build / "fake-text")
    mark = bench.root / "orphaned"
    bench.edit("{ layer = 1 }", f'{{ layer = 1, behave = "orphan:{mark}" }}')
    bench.edit("{ layer = 0 }", '{ layer = 0, behave = "fine" }')
    result = bench.run(where=on_cluster)
    assert mark.exists()
    assert {item.component for item in result.components if item.state == "built"} == {"chunk1", "chunk2"}
    made = tree(bench.build / "fake-text")
    assert {path: digest for path, digest in made.items() if "model.mlmodel" not in path} == {
        path: digest for path, digest in expected.items() if "model.mlmodel" not in path
    }
    assert not list((bench.cache / "steps" / "tmp").iterdir())


def test_a_step_that_kills_its_workers_fails_and_the_others_are_kept(bench: Bench, on_cluster: Where) -> None:
    behave = f'"orphan-always:{bench.root / "orphaned"}"'
    bench.edit("{ layer = 1 }", f"{{ layer = 1, behave = {behave} }}")
    with pytest.raises(ConversionError, match=r"chunk2: fake\.chunk did not finish: 2 workers of the cluster died"):
        bench.run(where=on_cluster)
    assert "fake-text/chunk1" not in bench.ran()
    assert not list((bench.cache / "steps" / "tmp").iterdir())
    bench.edit(f", behave = {behave}", "")
    bench.run(where=on_cluster)


def test_a_process_killed_for_want_of_memory_runs_again(bench: Bench, on_cluster: Where) -> None:
    bench.edit("{ layer = 1 }", f'{{ layer = 1, behave = "die:{bench.root / "died"}" }}')
    lines = Lines()
    bench.run(only=("chunk2",), where=on_cluster, progress=lines)
    assert "it runs again with more room" in "".join(lines.lines)
    assert lines.fractions["fake-text/chunk2"] == 5000


@pytest.mark.parametrize(
    ("behave", "message"),
    [
        ("refuse", r"^fake-text/chunk2: tensor x\.y has shape \[3\], expected \[4\]$"),
        ("crash", r"^fake-text/chunk2: fake\.chunk did not finish: its worker on tcp://.* killed by signal 6$"),
    ],
)
def test_failures_are_told_as_they_are_here(bench: Bench, on_cluster: Where, behave: str, message: str) -> None:
    bench.edit("{ layer = 1 }", f'{{ layer = 1, behave = "{behave}" }}')
    lines = Lines()
    with pytest.raises(ConversionError, match=message):
        bench.run(only=("chunk2",), where=on_cluster, progress=lines)
    assert behave == "refuse" or "  last words" in lines.lines


def test_an_interrupted_build_stops_its_steps_on_the_cluster(
    bench: Bench, on_cluster: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = bench.root / "gate"
    reached = gate.with_suffix(".reached")
    bench.edit("{ layer = 1 }", f'{{ layer = 1, behave = "gate:{gate}" }}')
    listen = DaskExecutor.next_report

    def interrupt(executor: DaskExecutor) -> Report | None:
        if reached.exists() and reached.read_text():
            raise KeyboardInterrupt
        return listen(executor)

    monkeypatch.setattr(DaskExecutor, "next_report", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run(only=("chunk2",), where=on_cluster)
    until(lambda: not running(int(reached.read_text())), "the end of the process")
    assert not list((bench.cache / "steps" / "tmp").iterdir())


def test_outputs_go_through_a_store_where_no_cache_is_shared(
    bench: Bench, on_cluster: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run()
    expected = tree(bench.build / "fake-text")
    shared = replace(on_cluster, store=str(tmp_path / "store"))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "one"))
    bench.build = tmp_path / "build-one"
    assert {item.state for item in bench.run(where=shared).components} == {"built"}
    assert tree(bench.build / "fake-text") == expected
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "two"))
    bench.build = tmp_path / "build-two"
    lines = Lines()
    local = bench.run(where=Where(store=shared.store), progress=lines)
    assert {item.state for item in local.components} == {"cached"}
    assert min(lines.lines) == f"fake-text/chunk1: from {shared.store}"
    assert tree(bench.build / "fake-text") == expected


def test_a_cluster_that_does_not_answer_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.build.dask_executor.CONNECT_SECONDS", 0.5)
    with pytest.raises(ConversionError, match=r"^dask://127\.0\.0\.1:9: no scheduler answers"):
        bench.run(where=Where(executor="dask://127.0.0.1:9"))
    with pytest.raises(UsageError, match="no such executor") as caught:
        bench.run(where=Where(executor="ray://somewhere"))
    assert caught.value.hint == "local, or dask://HOST:PORT"


def test_a_cache_that_the_workers_do_not_see_is_said(bench: Bench, on_cluster: Where) -> None:
    from zoo.build import remote

    call = remote.Call(_order(bench), "topic", None, None)
    with (
        pytest.raises(Refusal, match="have ZOO_CACHE on a file system that all machines share"),
        remote._attempt(call),
    ):
        pass


def _order(bench: Bench) -> Order:
    planned = next(item for item in bench.plan().steps if item.step.component == "chunk2")
    inputs = {name: getattr(planned.inputs, name) for name in ("tensors", "files", "libraries")}
    sources = {
        str(path.relative_to(bench.checkpoint)): identity[1:] for path, identity in bench.plan().sources.items()
    }
    job = {"checkpoint": str(bench.checkpoint), "output": "/nowhere/output", "key": planned.key}
    return Order("fake-text/chunk2", job, 0, 1.0, inputs, sources)


def test_another_checkpoint_under_the_same_path_is_refused(bench: Bench) -> None:
    order = _order(bench)
    check_checkpoint(order)
    fake.settle(bench.checkpoint)  # other times, same contents: as copies on each machine have
    check_checkpoint(order)
    fake.write_checkpoint(bench.checkpoint, fill={0: 99})
    check_checkpoint(order)  # chunk2 does not read that layer
    fake.write_checkpoint(bench.checkpoint, fill={1: 99})
    with pytest.raises(Refusal, match=r"layers\.1\.weight is another one than where the build was started"):
        check_checkpoint(order)
    fake.write_checkpoint(bench.checkpoint)
    config = bench.checkpoint / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(Refusal, match=r"config\.json is another one"):
        check_checkpoint(order)
    bench.checkpoint.rename(bench.root / "elsewhere")
    with pytest.raises(Refusal, match="every worker needs the checkpoint under the same path"):
        check_checkpoint(order)


def test_other_versions_of_libraries_are_refused() -> None:
    from importlib.metadata import version

    check_libraries({"msgspec": version("msgspec")})
    with pytest.raises(Refusal, match=r"msgspec is .* here and 0\.0 where the build was started"):
        check_libraries({"msgspec": "0.0"})


def test_a_worker_waits_until_memory_allows_the_next_step() -> None:
    budget = _Budget()
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        with budget.share(60, 100):
            order.append("second")

    with budget.share(60, 100):
        thread = threading.Thread(target=second)
        thread.start()
        assert not inside.wait(0.1)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    with budget.share(1000, 100):  # larger than the limit: alone, but it runs
        pass
