"""Compiles a bundle: each package once, beside the old result, which stays usable until the new one is complete."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.build.assemble import Assembly, Wanted, assemble, is_current, refuse_foreign, unowned_files
from zoo.build.cache import CachedStep, StepCache, StepFile, regular_files
from zoo.build.checks import check_model_folder
from zoo.compile.compiler import HINT, TEXT_PROGRAM, compile_package, has_text_program
from zoo.compile.plan import COMPILED, CompilePlan, Package, plan_compile
from zoo.digests import DigestCache, hash_files
from zoo.errors import ConversionError, DigestMismatch
from zoo.events import Progress
from zoo.lock import Lock, LockedFile, make_lock

COMPILER_KEY = "compiler.coremlcompiler"
"""Where a lock's provenance says which compiler made its models."""

RECIPE = "coremlcompiler"

Compile = Callable[[Path, Path], Path]


@dataclass(frozen=True)
class CompileResult:
    """What a compilation did.

    Attributes:
        plan: what it was for.
        folder: the compiled bundle.
        lock: its lock.
        compiled: packages that were compiled now, by path.
        changed: whether the folder is another than before.
        notes: what a person should know.
    """

    plan: CompilePlan
    folder: Path
    lock: Lock
    compiled: tuple[str, ...]
    changed: bool
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs; see docs/compile.md."""
        return plan_json(self.plan) | {
            "folder": str(self.folder),
            "compiled": list(self.compiled),
            "changed": self.changed,
            "size": self.lock.size,
            "notes": list(self.notes),
        }


def plan_json(plan: CompilePlan) -> dict[str, Any]:
    """The plan for programs; see docs/compile.md."""
    waiting = {package.key for package in plan.to_compile}
    return {
        "entry": plan.lock.entry,
        "compiler": plan.compiler or None,
        "packages": [
            {
                "path": package.path,
                "component": package.component,
                "size": package.size,
                "action": "compile" if package.key in waiting else "keep",
            }
            for package in plan.packages
        ],
        "kept": {"count": len(plan.kept), "bytes": sum(file.size for file in plan.kept)},
    }


def make_plan(lock: Lock, compiler: str | None, cache: StepCache, *, force: bool = False) -> CompilePlan:
    """The plan, with what earlier compilations left in the cache."""
    plan = plan_compile(lock, compiler or "")
    if compiler is None or force:
        return plan
    cached = {package.key for package in plan.packages if isinstance(cache.find(package.key), CachedStep)}
    return plan_compile(lock, compiler, cached)


def check_source(folder: Path, lock: Lock, digests: DigestCache, progress: Progress) -> None:
    """Whether the folder is what its lock says: bytes that were damaged on the way to the Mac are not compiled.

    Raises:
        DigestMismatch, DiskError: naming the file.
    """
    item = "reading"
    progress.start(item, lock.size)
    paths = {folder / file.path: file for file in lock.files}
    found = hash_files(paths, cache=digests, on_bytes=lambda count: progress.advance(item, count))
    for path, file in paths.items():
        if found[path].sha256 != file.sha256:
            raise DigestMismatch(
                f"{path}: expected sha256 {file.sha256}, found {found[path].sha256}",
                hint="bring the build here again, or build it",
            )
    progress.finish(item)


def carry_out(
    plan: CompilePlan,
    source: Path,
    target: Path,
    cache: StepCache,
    *,
    jobs: int,
    progress: Progress,
    compile_one: Compile = compile_package,
) -> CompileResult:
    """Compile what has to be, and assemble the compiled bundle.

    Args:
        plan: from `make_plan`.
        source: the folder with the packages.
        target: the folder that compiled bundles lie in.
        cache: keeps every compiled package.
        jobs: packages at once.
        progress: of the packages.
        compile_one: the compiler.

    Raises:
        ConversionError: there is no compiler, it failed, or what it wrote cannot be used. What was compiled is kept.
        Conflict: there is a folder that is not a build where the result belongs.
        DiskError: no space or no permission.
    """
    folder = target / plan.lock.entry
    refuse_foreign(folder)
    if plan.packages and not plan.compiler:
        raise ConversionError(f"{source}: there is no xcrun coremlcompiler here", hint=HINT)
    outputs = _compile_all(plan, source, cache, jobs, progress, compile_one)
    wanted = tuple(sorted(_wanted(plan, source, outputs), key=lambda item: item.path))
    lock = _make_lock(plan, wanted)
    current = is_current(folder, wanted, lock, cache.digests)
    if not current:
        removed = unowned_files(folder, {item.path for item in wanted})
        assemble(Assembly(folder, wanted, lock, current, removed), cache.digests, lambda beside: _check(plan, beside))
    return CompileResult(
        plan=plan,
        folder=folder,
        lock=lock,
        compiled=tuple(package.path for package in plan.to_compile),
        changed=not current,
        notes=tuple(_notes(plan, outputs)),
    )


def _compile_all(
    plan: CompilePlan, source: Path, cache: StepCache, jobs: int, progress: Progress, compile_one: Compile
) -> dict[str, CachedStep]:
    cache.sweep()
    failed = threading.Event()

    def one(package: Package) -> CachedStep | None:
        if failed.is_set():
            return None
        try:
            return _compile(package, source, cache, progress, compile_one)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="zoo-compile") as pool:
        largest_first = sorted(plan.to_compile, key=lambda package: -package.size)
        futures = {package.key: pool.submit(one, package) for package in largest_first}
    # The first error, in the order of the plan; what finished meanwhile is kept in the cache.
    for key in futures:
        futures[key].result()
    outputs = {}
    for package in plan.packages:
        found = cache.find(package.key)
        if not isinstance(found, CachedStep):
            raise ConversionError(f"{package.path}: its compiled form went away meanwhile", hint="run it again")
        outputs[package.key] = found
    return outputs


def _compile(package: Package, source: Path, cache: StepCache, progress: Progress, compile_one: Compile) -> CachedStep:
    progress.start(package.path, package.size)
    with cache.lock(package.key):
        output = cache.start(package.key)
        compiled = compile_one(source / package.path, output)
        check_compiled(compiled, package.path)
        paths = regular_files(output)
        found = hash_files(paths, jobs=1)
        files = [(path.relative_to(output).as_posix(), found[path]) for path in paths]
        stored = cache.store(package.key, RECIPE, output, files)
    progress.advance(package.path, package.size)
    progress.finish(package.path, "compiled")
    return stored


def check_compiled(folder: Path, where: str) -> None:
    """Whether a compiled model is one that the engine and zoo can use.

    Raises:
        ConversionError: no text program, or weights that it refers to are missing.
    """
    text = has_text_program(folder)
    if not text:
        said = f"the compiler wrote no {TEXT_PROGRAM}" if text is None else f"{TEXT_PROGRAM} is not text"
        raise ConversionError(f"{where}: {said}", hint="use Xcode 16 or newer")
    check_model_folder(folder, where)


def _check(plan: CompilePlan, folder: Path) -> None:
    for package in plan.packages:
        check_model_folder(folder / package.compiled, package.compiled)


def _wanted(plan: CompilePlan, source: Path, outputs: dict[str, CachedStep]) -> list[Wanted]:
    wanted = [
        Wanted(
            file.path,
            file.component,
            StepFile(path=file.path, size=file.size, sha256=file.sha256 or "", xxh3=file.xxh3 or ""),
            source / file.path,
        )
        for file in plan.kept
    ]
    for package in plan.packages:
        output = outputs[package.key]
        wanted += [
            Wanted(package.place(file.path), package.component, file, output.path_of(file))
            for file in output.record.files
        ]
    return wanted


def _make_lock(plan: CompilePlan, wanted: tuple[Wanted, ...]) -> Lock:
    files = [
        LockedFile(
            path=item.path,
            component=item.component,
            size=item.file.size,
            sha256=item.file.sha256,
            xxh3=item.file.xxh3,
        )
        for item in wanted
    ]
    said = {**plan.lock.provenance, COMPILER_KEY: plan.compiler} if plan.packages else dict(plan.lock.provenance)
    return make_lock(plan.lock.entry, plan.lock.manifest, files, said)


def _notes(plan: CompilePlan, outputs: dict[str, CachedStep]) -> list[str]:
    """Weights that the compiler rewrote: then models that shared them before may not any more."""
    notes = []
    for package in plan.packages:
        before = {file.sha256 for file in package.files if file.path.endswith("/weight.bin")}
        after = {file.sha256 for file in outputs[package.key].record.files if file.path.endswith("/weight.bin")}
        if before != after:
            notes.append(f"{package.name}{COMPILED}: the compiler rewrote weight.bin")
    return notes
