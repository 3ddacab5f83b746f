"""What `zoo compile` says."""

from __future__ import annotations

from zoo.compile.plan import CompilePlan
from zoo.compile.run import CompileResult
from zoo.report.sizes import human_bytes
from zoo.report.text import columns, plural


def plan_text(plan: CompilePlan) -> str:
    """The plan for people."""
    waiting = {package.key for package in plan.to_compile}
    rows = [
        [package.path, "compile" if package.key in waiting else "keep", human_bytes(package.size)]
        for package in plan.packages
    ]
    lines = [columns(rows, header=["package", "action", "size"], align="<<>")] if rows else []
    lines.append(
        f"{plural(len(plan.to_compile), 'package')} to compile, {plural(len(plan.kept), 'other file')}"
        f" ({human_bytes(sum(file.size for file in plan.kept))}) to link"
    )
    return "\n".join(lines)


def result_text(result: CompileResult) -> str:
    """What was done, for people."""
    size = human_bytes(result.lock.size)
    if not result.changed and not result.compiled:
        return f"{result.plan.lock.entry} is up to date in {result.folder} ({size}); nothing to do"
    before = len(result.plan.packages) - len(result.compiled)
    lines = [f"{path}: compiled" for path in result.compiled]
    if before:
        lines.append(f"{plural(before, 'package')} compiled before")
    lines += [f"note: {note}" for note in result.notes]
    lines.append(
        f"{result.plan.lock.entry} is in {result.folder}: {plural(len(result.lock.files), 'file')}, {size};"
        f" publish it with `zoo push {result.plan.lock.entry} --build {result.folder.parent}`"
    )
    return "\n".join(lines)
