"""A scratch zoo, checkpoint and cache for every test, and a build in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.build import fake
from zoo.build.graph import make_graph
from zoo.build.plan import BuildPlan
from zoo.build.run import BuildResult, Where, carry_out, make_plan, open_caches
from zoo.catalog import load_catalog
from zoo.events import Progress


@dataclass
class Bench:
    """Where a test builds."""

    root: Path
    zoo: Path
    checkpoint: Path
    build: Path
    cache: Path

    def plan(self, entry: str = "fake-text", **options: Any) -> BuildPlan:
        graph = make_graph(load_catalog(self.zoo), entry, fake.find_family)
        with open_caches() as caches:
            return make_plan(graph, self.checkpoint, caches, find_family=fake.find_family, **options)

    def run(
        self,
        entry: str = "fake-text",
        *,
        jobs: int = 2,
        where: Where | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> BuildResult:
        graph = make_graph(load_catalog(self.zoo), entry, fake.find_family)
        with open_caches() as caches:
            plan = make_plan(graph, self.checkpoint, caches, find_family=fake.find_family, **options)
            return carry_out(plan, self.build, caches, where=where or Where(jobs=jobs), progress=progress)

    def ran(self, entry: str = "fake-text") -> dict[str, str]:
        """Steps that would run, with the reason."""
        return {planned.step.id: planned.reason for planned in self.plan(entry).to_run}

    def edit(self, old: str, new: str, entry: str = "fake-text") -> None:
        path = self.zoo / f"{entry}.toml"
        text = path.read_text()
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new))

    def cached_file(self, name: str) -> Path:
        (found,) = (path for path in (self.cache / "steps").rglob(name) if "output" in path.parts)
        return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return Bench(
        root=tmp_path,
        zoo=fake.write_zoo(tmp_path / "zoo"),
        checkpoint=fake.write_checkpoint(tmp_path / "checkpoint"),
        build=tmp_path / "build",
        cache=tmp_path / "cache",
    )
