"""`zoo build`: make a bundle from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.options import (
    DryRunOption,
    EntryArgument,
    FormatOption,
    OutputFormat,
    QuietOption,
    ZooOption,
    names,
)
from zoo.cli.output import print_json, print_report, say

if TYPE_CHECKING:
    from zoo.build.assemble import Assembly
    from zoo.build.plan import BuildPlan
    from zoo.build.run import BuildResult


def build(
    entry: EntryArgument,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="DIR", help="Hugging Face checkpoint.", show_default="ZOO_CHECKPOINTS/<repo name>"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where builds lie.", show_default="ZOO_BUILD or ./build"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, metavar="N", help="Steps at once.", show_default="cores, minding memory"),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", help="Memory for all steps, e.g. 6G.", show_default="most of the free"
        ),
    ] = None,
    executor: Annotated[
        str, typer.Option("--executor", metavar="WHERE", help="Where steps run: local, or dask://HOST:PORT.")
    ] = "local",
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="Share outputs of steps: a directory or an object store."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="COMPONENT", help="Just this component (repeatable, or a,b)."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run the steps again even if their outputs are kept.")
    ] = False,
    zoo: ZooOption = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    output: FormatOption = OutputFormat.text,
) -> None:
    """Convert a checkpoint into a bundle: DIR/ENTRY with its lock beside it.

    Each component is a step whose output is kept under what decides its bytes: recipe, parameters, checkpoint tensors,
    library versions. A step runs only when one of them changed. An interrupted build keeps the steps that finished.

    \b
    Examples:
      zoo build gemma4-e4b --checkpoint gemma-4-E4B-it
      zoo build gemma4-e4b-multimodal --checkpoint gemma-4-E4B-it --dry-run
      zoo build gemma4-e4b --only rope,tokenizer --force
      zoo build gemma4-e4b --memory 6G
      zoo build gemma4-e4b --executor dask://head:8786
    """
    from zoo.build.graph import make_graph
    from zoo.build.run import (
        Where,
        assembly_if_cached,
        carry_out,
        checkpoint_directory,
        files_to_remove,
        make_plan,
        open_caches,
        plan_units,
    )
    from zoo.catalog import load_catalog
    from zoo.locations import build_directory, zoo_directory
    from zoo.report.progress import progress_display
    from zoo.sizes import parse_size

    where = Where(executor, jobs, parse_size(memory, "--memory") if memory else None, store)
    catalog = load_catalog(zoo_directory(zoo))
    graph = make_graph(catalog, entry)
    source = checkpoint_directory(graph.entry.manifest, checkpoint)
    builds = build_directory(out)
    with open_caches() as caches:
        with progress_display("Reading the checkpoint", unit="bytes", quiet=quiet) as progress:
            plan = make_plan(graph, source, caches, only=names(only), force=force, progress=progress)
        removed = files_to_remove(plan, builds)
        assembly = assembly_if_cached(plan, builds, caches)
        idle = assembly is not None and assembly.current
        if dry_run:
            _print_plan(plan, assembly, removed, output)
            return
        if not idle and not quiet and output is OutputFormat.text:
            say(_plan_text(plan, assembly, removed))
        with progress_display("Building", unit="steps", total=plan_units(plan), quiet=quiet) as progress:
            result = carry_out(plan, builds, caches, where=where, progress=progress)
    if output is OutputFormat.json:
        print_json(result.to_json())
    else:
        print_report(_result_text(result))


def _print_plan(
    plan: BuildPlan, assembly: Assembly | None, removed: tuple[tuple[str, int], ...], output: OutputFormat
) -> None:
    if output is OutputFormat.text:
        print_report(_plan_text(plan, assembly, removed))
        return
    data: dict[str, Any] = plan.to_json()
    data["to_remove"] = [{"path": path, "size": size} for path, size in removed]
    data["up_to_date"] = assembly is not None and assembly.current
    print_json(data)


def _plan_text(plan: BuildPlan, assembly: Assembly | None, removed: tuple[tuple[str, int], ...]) -> str:
    from zoo.report.sizes import human_bytes
    from zoo.report.text import columns, plural

    rows = []
    for planned in plan.steps:
        action = "keep" if planned.state == "cached" else "build" if planned.selected else "leave out"
        size = human_bytes(planned.cached.record.size) if planned.cached else ""
        rows.append([", ".join(planned.components), planned.step.recipe.name, action, size, planned.reason])
    rows += [[item.part.name, "", "not here", "", item.reason] for item in plan.graph.not_built]
    lines = [columns(rows, header=["component", "recipe", "action", "size", "why"], align="<<<>")]
    lines += [f"remove {path} ({human_bytes(size)}): no component owns it" for path, size in removed]
    if assembly is not None and assembly.current:
        lines.append(f"{plan.graph.entry.id} is up to date; nothing to do")
    elif assembly is not None:
        lines.append(f"every step is built; {assembly.folder} has to be assembled")
    else:
        read = sum(planned.tensor_bytes for planned in plan.to_run)
        lines.append(f"{plural(len(plan.to_run), 'step')} to run, from {human_bytes(read)} of tensors")
        if plan.to_run:
            most = max(plan.to_run, key=lambda planned: planned.memory)
            lines[-1] += f"; {most.components[0]} is expected to take the most memory, {human_bytes(most.memory)}"
    return "\n".join(lines)


def _result_text(result: BuildResult) -> str:
    from zoo.report.sizes import human_bytes, human_seconds
    from zoo.report.text import columns, plural

    entry = result.plan.graph.entry.id
    if not result.changed and result.lock is not None:
        size = human_bytes(result.lock.size)
        return f"{entry} is up to date in {result.folder} ({size}); nothing to do"
    rows = [
        [
            item.component,
            item.state,
            str(item.files),
            human_bytes(item.size),
            human_seconds(item.seconds) if item.state == "built" else "",
        ]
        for item in result.components
    ]
    lines = [columns(rows, header=["component", "state", "files", "size", "time"], align="<<>>>")]
    if result.lock is None or result.folder is None:
        missing = [
            name
            for planned in result.plan.steps
            if not planned.runs and not planned.cached
            for name in planned.components
        ]
        lines.append(f"{entry} was not assembled: {', '.join(missing)} still to be built (without --only)")
        return "\n".join(lines)
    size, unique = human_bytes(result.lock.size), human_bytes(result.lock.unique_size)
    once = "" if unique == size else f", {unique} with identical files counted once"
    files = plural(len(result.lock.files), "file")
    lines.append(f"{entry} is in {result.folder}: {files}, {size}{once}")
    if result.removed:
        lines.append(f"{plural(len(result.removed), 'file')} that no component owns went away")
    lines += [f"{item.part.name} is not in it: {item.reason}" for item in result.plan.graph.not_built]
    if result.packages:
        lines.append(
            f"left to do on a Mac: compile {plural(len(result.packages), 'package')} to .mlmodelc with"
            f" `zoo compile {result.folder}`: {', '.join(result.packages)}"
        )
    return "\n".join(lines)
