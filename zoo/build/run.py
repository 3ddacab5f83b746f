"""A whole build: plan, run, assemble, report. The functions the command line calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.build.assemble import Assembly, assemble, plan_assembly, refuse_foreign, unowned_files
from zoo.build.cache import CachedStep, StepCache
from zoo.build.checks import check_bundle
from zoo.build.executor import Executor, OpenExecutor
from zoo.build.graph import Graph
from zoo.build.local import LocalExecutor
from zoo.build.plan import BuildPlan, plan_build
from zoo.build.recipes import FindFamily, load_family, require_libraries
from zoo.build.resources import usable_cores, usable_memory
from zoo.build.scheduler import Outcome, Scheduler, Task, step_units
from zoo.build.store import StepStore
from zoo.build.tensor_digests import TensorDigestCache
from zoo.check import FAMILIES, refuse_unsound
from zoo.digests import DigestCache
from zoo.errors import ConversionError, DiskError, UsageError
from zoo.events import Progress, Silent
from zoo.locations import cache_directory
from zoo.lock import Lock, lock_path
from zoo.manifest import Manifest
from zoo.paths import MODEL_SUFFIXES

HASHING = "checkpoint"
"""The progress item for reading a checkpoint's tensors."""

ASSEMBLING = "assembly"
ASSEMBLY_UNITS = 200
"""Progress units of the assembly, which places links where it can and copies where it must."""

CHECKPOINTS_VARIABLE = "ZOO_CHECKPOINTS"


@dataclass(frozen=True, slots=True)
class Caches:
    """What builds remember between runs."""

    steps: StepCache
    tensors: TensorDigestCache
    digests: DigestCache


@contextmanager
def open_caches() -> Iterator[Caches]:
    """The caches of this user, in the cache directory."""
    with DigestCache.default() as digests, TensorDigestCache.default() as tensors:
        yield Caches(StepCache(cache_directory() / "steps", digests), tensors, digests)


@dataclass(frozen=True, slots=True)
class ComponentResult:
    """One component of the entry after the build; `seconds` is 0 unless it was `built` now."""

    component: str
    state: str
    files: int
    size: int
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class BuildResult:
    """What a build did.

    Attributes:
        components: in manifest order, those whose output exists.
        folder: the assembled bundle; None when `--only` left out components that were never built.
        lock: its lock.
        changed: whether anything was run or assembled.
        removed: files that were in the folder and that no step owns.
    """

    plan: BuildPlan
    components: tuple[ComponentResult, ...]
    folder: Path | None
    lock: Lock | None
    changed: bool
    removed: tuple[tuple[str, int], ...]

    @property
    def packages(self) -> tuple[str, ...]:
        """Model packages that a Mac still has to compile, as bundle paths."""
        if self.lock is None:
            return ()
        package = MODEL_SUFFIXES[0]
        found = {file.path.partition(f"{package}/")[0] for file in self.lock.files if f"{package}/" in file.path}
        return tuple(sorted(f"{name}{package}" for name in found))

    def to_json(self) -> dict[str, Any]:
        """The JSON report of a build; keys are documented in `docs/build.md`."""
        return self.plan.to_json() | {
            "components": [
                {
                    "component": item.component,
                    "state": item.state,
                    "files": item.files,
                    "size": item.size,
                    "seconds": round(item.seconds, 3),
                    "peak_bytes": item.peak_bytes,
                }
                for item in self.components
            ],
            "changed": self.changed,
            "folder": str(self.folder) if self.folder else None,
            "lock": str(lock_path(self.folder.parent, self.folder.name)) if self.folder else None,
            "removed": [{"path": path, "size": size} for path, size in self.removed],
            "to_compile_on_a_mac": list(self.packages),
        }


def checkpoint_directory(manifest: Manifest, given: Path | None) -> Path:
    """Where the checkpoint lies: `given`, else `ZOO_CHECKPOINTS/<name of its repo>`.

    Raises:
        ConversionError: neither is there; the hint says how to get one.
    """
    if given is not None:
        return given
    root = os.environ.get(CHECKPOINTS_VARIABLE)
    if manifest.checkpoint is None:
        raise ConversionError(
            f"{manifest.id}: the manifest names no checkpoint", hint="give one with --checkpoint DIR"
        )
    repo = manifest.checkpoint.repo
    name = repo.rpartition("/")[2]
    if root and (Path(root) / name).is_dir():
        return Path(root) / name
    where = f"{Path(root) / name} does not exist" if root else "no --checkpoint DIR given"
    raise ConversionError(
        f"{manifest.id} needs the checkpoint {repo}: {where}",
        hint=f"hf download {repo} --local-dir {name}, then zoo build {manifest.id} --checkpoint {name}",
    )


def make_plan(
    graph: Graph,
    checkpoint: Path,
    caches: Caches,
    *,
    only: Collection[str] = (),
    force: bool = False,
    progress: Progress | None = None,
    find_family: FindFamily = load_family,
) -> BuildPlan:
    """`plan_build`, with progress over the tensors that have to be read."""
    shown = progress or Silent()
    plan = plan_build(
        graph,
        checkpoint,
        caches.steps,
        caches.tensors,
        only=only,
        force=force,
        on_total=lambda total: shown.start(HASHING, total),
        on_bytes=lambda count: shown.advance(HASHING, count),
        progress=shown,
        find_family=find_family,
    )
    shown.finish(HASHING)
    return plan


def files_to_remove(plan: BuildPlan, build: Path) -> tuple[tuple[str, int], ...]:
    """Files in the build folder that no component of the entry owns, for the plan that is shown beforehand.

    Raises:
        Conflict: the folder is not a build.
    """
    folder = build / plan.graph.entry.id
    refuse_foreign(folder)
    files = {path for placement in plan.graph.placements for path in placement.part.files}
    models = tuple(
        f"{placement.part.model}{MODEL_SUFFIXES[0]}/" for placement in plan.graph.placements if placement.part.model
    )
    return tuple(item for item in unowned_files(folder, files) if not item[0].startswith(models))


def assembly_if_cached(plan: BuildPlan, build: Path, caches: Caches) -> Assembly | None:
    """What the build folder lacks, if every step's output is cached; None while something has to run."""
    outputs = _cached_outputs(plan)
    if plan.to_run or len(outputs) < len(plan.steps):
        return None
    return plan_assembly(plan, outputs, build, caches.digests)


def plan_units(plan: BuildPlan) -> int:
    """Progress units of all steps that will run, and of the assembly after them."""
    return sum(step_units(planned.step) for planned in plan.to_run) + ASSEMBLY_UNITS * plan.complete_after


LOCAL = "local"
"""The executor that is this machine."""

DASK = "dask://"


@dataclass(frozen=True, slots=True)
class Where:
    """Where and with how much the steps of a build run.

    Attributes:
        executor: `local`, or `dask://HOST:PORT`.
        jobs: steps at once; None for as many as there are cores.
        memory: bytes for the steps of one machine together; None for most of what is free.
        store: a directory or URL in which outputs are shared between machines.
    """

    executor: str = LOCAL
    jobs: int | None = None
    memory: int | None = None
    store: str | None = None


def executor_of(where: Where, store: StepStore | None, progress: Progress) -> OpenExecutor:
    """What makes the executor that `where` names.

    Raises:
        UsageError: there is no such executor.
    """
    if where.executor == LOCAL:
        jobs, memory = where.jobs or usable_cores(), where.memory or usable_memory()
        return lambda steps: LocalExecutor(min(jobs, steps), memory)
    if where.executor.startswith(DASK):
        from zoo.build.dask_executor import connect

        address = where.executor.removeprefix(DASK)

        def open_dask(_steps: int) -> Executor:
            return connect(address, jobs=where.jobs, memory=where.memory, store=store, progress=progress)

        return open_dask
    raise UsageError(f"--executor {where.executor}: no such executor", hint="local, or dask://HOST:PORT")


def carry_out(
    plan: BuildPlan,
    build: Path,
    caches: Caches,
    *,
    where: Where = Where(),
    progress: Progress | None = None,
) -> BuildResult:
    """Run what has to run and assemble the bundle.

    Args:
        plan: from `make_plan`.
        build: the directory that builds lie in.
        caches: as for the plan.
        where: the steps run.
        progress: of the steps, then of the assembly.

    Raises:
        ConversionError, MissingExtra, DiskError, Conflict: see `Scheduler.run` and `assemble`; what is finished is
            kept. Also: the cluster does not answer, Dask is not installed.
        UsageError: there is no such executor or store.
    """
    refuse_foreign(build / plan.graph.entry.id)
    if plan.complete_after:
        _require_writable(build)
    shown = progress or Silent()
    outcomes = _run_steps(plan, caches, where, shown)
    outputs = _cached_outputs(plan) | {name: outcome.cached for name, outcome in outcomes.items()}
    components = _results(plan, outputs, outcomes)
    if len(outputs) < len(plan.steps):
        return BuildResult(plan, components, None, None, bool(outcomes), ())
    assembly = plan_assembly(plan, outputs, build, caches.digests)
    if not assembly.current:
        owners = {item.path: item.component for item in assembly.wanted}
        report = _share_of(shown, ASSEMBLING, assembly.lock.size)
        assemble(assembly, caches.digests, lambda folder: _check(plan.graph, folder, owners), report)
        shown.finish(ASSEMBLING)
    changed = bool(outcomes) or not assembly.current
    return BuildResult(plan, components, assembly.folder, assembly.lock, changed, assembly.removed)


def _check(graph: Graph, folder: Path, owners: Mapping[str, str]) -> None:
    """Static checks of an assembled bundle; that its parts fit each other only where they are known to `zoo check`."""
    check_bundle(graph, folder, owners)
    if any(step.recipe.name.partition(".")[0] in FAMILIES for step in graph.steps):
        refuse_unsound(folder, graph.entry)


def _share_of(progress: Progress, item: str, total: int) -> Callable[[int], None]:
    """Begin an item of `ASSEMBLY_UNITS` that advances with the bytes of a whole."""
    progress.start(item, ASSEMBLY_UNITS)
    done = shown = 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        reached = ASSEMBLY_UNITS * done // max(1, total)
        progress.advance(item, reached - shown)
        shown = reached

    return advance


def _require_writable(build: Path) -> None:
    """Fail before an hour of conversion rather than after it."""
    try:
        build.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{build}: cannot be made: {error.strerror}", hint="choose another with --out DIR") from None
    if not os.access(build, os.W_OK | os.X_OK):
        raise DiskError(f"{build}: no permission to write there", hint="choose another with --out DIR")


def _run_steps(plan: BuildPlan, caches: Caches, where: Where, progress: Progress) -> dict[str, Outcome]:
    if not plan.to_run:
        return {}
    store = StepStore(where.store) if where.store else None
    if store is not None:
        store.check()
    open_executor = executor_of(where, store, progress)
    if where.executor == LOCAL:
        require_libraries(name for planned in plan.to_run for name in planned.step.recipe.libraries)
    caches.steps.sweep()
    scheduler = Scheduler(
        plan.checkpoint,
        caches.steps,
        progress,
        open_executor,
        store=store,
        sources=plan.sources,
        check_unchanged=plan.check_unchanged,
    )
    return scheduler.run(
        Task(
            planned.step,
            planned.key,
            planned.inputs,
            memory=planned.memory,
            tensor_bytes=planned.tensor_bytes,
            force=plan.forced,
        )
        for planned in plan.to_run
    )


def _cached_outputs(plan: BuildPlan) -> dict[str, CachedStep]:
    return {planned.step.id: planned.cached for planned in plan.steps if planned.cached is not None}


def _results(
    plan: BuildPlan, outputs: dict[str, CachedStep], outcomes: dict[str, Outcome]
) -> tuple[ComponentResult, ...]:
    results = []
    for placement in plan.graph.placements:
        name = placement.step.id
        if name not in outputs:
            continue
        outcome = outcomes.get(name)
        record = outputs[name].record
        results.append(
            ComponentResult(
                component=placement.part.name,
                state="built" if outcome is not None and outcome.seconds > 0 else "cached",
                files=len(record.files),
                size=record.size,
                seconds=outcome.seconds if outcome else 0.0,
                peak_bytes=outcome.peak_bytes if outcome else 0,
            )
        )
    return tuple(results)
