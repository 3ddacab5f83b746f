"""Memory: what steps are expected to need, what happens when they need more."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from converters.recipe import Memory
from tests.zoo.build import fake
from tests.zoo.build.conftest import Bench
from zoo.build import local
from zoo.build.cache import Measured
from zoo.build.executor import Order, Report
from zoo.build.local import LocalExecutor
from zoo.build.process import Said, held_memory
from zoo.build.resources import expected_memory
from zoo.build.run import Where, carry_out, open_caches
from zoo.events import Silent

GIGABYTE = 10**9


class FakeWorker:
    """A process that says and holds what the test wants."""

    def __init__(self, said: queue.Queue[Said], _threads: int, _log: Path) -> None:
        self.said = said
        self.jobs: list[Mapping[str, Any]] = []
        self.held = 0
        self.killed = False
        self.status: int | None = None

    def give(self, job: Mapping[str, Any]) -> None:
        self.jobs.append(job)

    def memory(self) -> int:
        return self.held

    def ending(self) -> str:
        return "killed by signal 9"

    def kill(self) -> None:
        self.killed = True

    def says(self, message: dict[str, Any] | None) -> None:
        self.said.put(Said(self, message))  # type: ignore[arg-type]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[FakeWorker]:
    made: list[FakeWorker] = []

    def make(*arguments: Any) -> FakeWorker:
        made.append(FakeWorker(*arguments))
        return made[-1]

    monkeypatch.setattr(local, "Worker", make)
    monkeypatch.setattr(local, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(local, "WATCH_SECONDS", 0.0)
    return made


def order(step: str, memory: int = 2 * GIGABYTE) -> Order:
    return Order(step, {"log": "log", "step": step}, memory, 1.0, {}, {})


def report_of(executor: LocalExecutor) -> Report:
    for _attempt in range(10):
        report = executor.next_report()
        if report is not None:
            return report
    raise AssertionError("nothing was reported")


def test_as_many_run_at_once_as_fit_the_budget(workers: list[FakeWorker]) -> None:
    executor = LocalExecutor(3, 5 * GIGABYTE)
    assert executor.has_room(100 * GIGABYTE)  # one always runs
    for name in "ab":
        assert executor.has_room(2 * GIGABYTE)
        executor.submit(order(name))
    assert not executor.has_room(2 * GIGABYTE)
    assert executor.has_room(GIGABYTE)
    executor.submit(order("c", GIGABYTE))
    assert not executor.has_room(0)  # three jobs are all
    workers[0].says({"event": "done"})
    assert report_of(executor) == Report("a", {"event": "done"})
    assert executor.has_room(2 * GIGABYTE)
    executor.submit(order("d"))
    assert len(workers) == 3  # the idle worker took it
    executor.close()
    assert all(worker.killed for worker in workers)


def test_when_the_budget_is_exceeded_the_last_step_runs_again_alone(workers: list[FakeWorker]) -> None:
    executor = LocalExecutor(2, 5 * GIGABYTE)
    executor.submit(order("a"))
    executor.submit(order("b"))
    workers[0].held, workers[1].held = 4 * GIGABYTE, 3 * GIGABYTE
    report = report_of(executor)
    assert (report.step, report.event) == ("b", "postponed")
    assert report.message["memory"] == 5 * GIGABYTE
    assert "7.00 GB held by 2 steps, over the budget of 5.00 GB" in report.message["text"]
    assert "--memory" in report.message["text"]
    assert workers[1].killed
    assert not executor.has_room(report.message["memory"])
    assert executor.has_room(GIGABYTE)
    assert not executor.has_room(2 * GIGABYTE)  # the first one holds twice what was expected


def test_a_step_larger_than_the_budget_goes_on_and_is_told_of_once(workers: list[FakeWorker]) -> None:
    executor = LocalExecutor(2, GIGABYTE)
    executor.submit(order("a"))
    workers[0].held = 3 * GIGABYTE
    report = report_of(executor)
    assert report.event == "note"
    assert report.message["text"] == ("a holds 3.00 GB, over the budget of 1.00 GB; it runs alone, so it goes on")
    assert executor.next_report() is None
    assert not workers[0].killed


def test_a_worker_that_the_system_killed_runs_again_alone_and_then_fails(workers: list[FakeWorker]) -> None:
    executor = LocalExecutor(2, 5 * GIGABYTE)
    executor.submit(order("a"))
    executor.submit(order("b"))
    for worker, event in ((workers[1], "postponed"), (workers[0], "died")):
        worker.held, worker.status = 2 * GIGABYTE, -signal.SIGKILL
        worker.says(None)
        report = report_of(executor)
        assert report.event == event
    assert "as happens when memory runs out (it held 2.00 GB)" in report.message["message"]
    assert "--jobs 1" in report.message["hint"]


def test_an_idle_worker_that_dies_is_not_used_again(workers: list[FakeWorker]) -> None:
    executor = LocalExecutor(1, GIGABYTE)
    executor.submit(order("a"))
    workers[0].says({"event": "done"})
    report_of(executor)
    workers[0].says(None)
    assert executor.next_report() is None
    executor.submit(order("b"))
    assert [job["step"] for job in workers[1].jobs] == ["b"]


def test_estimates_follow_the_recipe_until_a_run_of_the_same_kind_was_measured(bench: Bench) -> None:
    assert Memory(base=5, per_byte=2, per_largest_byte=10).of([1, 3]) == 5 + 8 + 30
    assert Memory(base=5).of([]) == 5
    planned = bench.plan().steps[0]
    recipe, inputs, sizes = planned.step.recipe, planned.inputs, [fake.WEIGHT_BYTES]
    declared = recipe.memory.of(sizes)
    assert planned.memory == declared
    measured = Measured.of(inputs, fake.WEIGHT_BYTES, 70_000_000, 1.0)
    assert expected_memory(recipe, sizes, measured, inputs) == 77_000_000
    assert expected_memory(recipe, [1], measured, inputs) == recipe.memory.of([1])
    unknown = Measured.of(inputs, fake.WEIGHT_BYTES, 0, 1.0)
    assert expected_memory(recipe, sizes, unknown, inputs) == declared


def test_a_build_remembers_what_its_steps_took(bench: Bench) -> None:
    bench.run()
    planned = {item.step.component: item for item in bench.plan(force=True).steps}
    assert 0 < planned["chunk1"].memory < GIGABYTE
    bench.edit("{ layer = 1 }", '{ layer = 1, behave = "fine" }')
    changed = {item.step.component: item for item in bench.plan().steps}
    assert changed["chunk1"].memory == planned["chunk1"].memory
    assert changed["chunk2"].memory > GIGABYTE  # another kind of run, of which nothing is known


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="nothing tells a process's memory")
def test_real_workers_over_the_budget_run_one_after_the_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "WATCH_SECONDS", 0.1)
    place = bench.root / "holding"
    place.mkdir()
    for layer in (0, 1):
        bench.edit(f"{{ layer = {layer} }}", f'{{ layer = {layer}, behave = "hold:{place}" }}')
    lines = Lines()
    plan = bench.plan(only=("chunk1", "chunk2"))
    cheap = Memory(base=1)
    for planned in plan.steps:
        object.__setattr__(planned, "memory", cheap.of([]))
    with open_caches() as caches:
        carry_out(plan, bench.build, caches, where=Where(jobs=2, memory=300 << 20), progress=lines)
    assert any("chunk2 stopped" in line and "runs again" in line for line in lines.lines)
    assert any("of memory, 1 B was expected" in line for line in lines.lines)
    assert not bench.ran().keys() & {"fake-text/chunk1", "fake-text/chunk2"}


def test_a_worker_killed_beside_others_is_run_again(bench: Bench) -> None:
    gate = bench.root / "gate"
    bench.edit("{ layer = 0 }", f'{{ layer = 0, behave = "gate:{gate}" }}')
    bench.edit("{ layer = 1 }", f'{{ layer = 1, behave = "die:{bench.root / "died"}" }}')

    class Opener(Lines):
        def say(self, text: str) -> None:
            super().say(text)
            gate.touch()

    lines = Opener()
    plan = bench.plan(only=("chunk1", "chunk2"))
    with open_caches() as caches:
        carry_out(plan, bench.build, caches, where=Where(jobs=2, memory=1 << 50), progress=lines)
    assert lines.lines[0] == (
        "fake-text/chunk2: its worker was killed by signal 9, as happens when memory runs out; it runs again alone"
    )


def test_memory_of_a_process_without_its_files() -> None:
    before = held_memory(os.getpid())
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    if before:
        assert 60 << 20 < held_memory(os.getpid()) - before < 80 << 20
    assert held_memory(1 << 30) == 0
