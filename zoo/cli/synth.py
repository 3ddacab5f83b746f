"""`zoo synth`: make a synthetic checkpoint of the true size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import DryRunOption, FormatOption, OutputFormat, QuietOption
from zoo.cli.output import print_json, print_report, say

if TYPE_CHECKING:
    from zoo.build.synth import Synthesis


def complete_model(incomplete: str) -> list[str]:
    """Models that start with what was typed."""
    from zoo.build.synth import MODELS

    return [model for model in MODELS if model.startswith(incomplete)]


def synth(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="gemma4-e2b or gemma4-e4b.", autocompletion=complete_model),
    ],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the checkpoint goes: an empty directory.")],
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the random weights.")] = 0,
    layers: Annotated[
        int | None,
        typer.Option("--layers", min=1, metavar="N", help="Decoder layers.", show_default="all of the model's"),
    ] = None,
    shrink: Annotated[
        int, typer.Option("--shrink", min=1, metavar="N", help="Divide widths and vocabulary by 2, 4, 8 or 16.")
    ] = 1,
    shard: Annotated[str, typer.Option("--shard", metavar="SIZE", help="Largest shard, e.g. 2G.")] = "5G",
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    output: FormatOption = OutputFormat.text,
) -> None:
    """Write a checkpoint with every tensor of the real model, none of its weights.

    Names, shapes, files and configuration are those of Gemma 4 with images and audio; the weights are random numbers,
    distributed like trained ones. `zoo build` takes it like the real one, so that anyone can measure a full build.
    The same seed gives the same bytes. An interrupted run goes on where it was.

    \b
    Examples:
      zoo synth gemma4-e4b big --dry-run
      zoo synth gemma4-e4b big
      zoo build gemma4-e4b-multimodal --checkpoint big
      zoo synth gemma4-e2b small --layers 20 --shrink 8
    """
    from zoo.build.synth import carry_out, plan_synthesis
    from zoo.report.progress import progress_display
    from zoo.sizes import parse_size

    synthesis = plan_synthesis(
        model, directory, seed=seed, layers=layers, shrink=shrink, shard_bytes=parse_size(shard, "--shard")
    )
    if dry_run:
        if output is OutputFormat.json:
            print_json(synthesis.to_json())
        else:
            print_report(_plan_text(synthesis))
        return
    if not quiet and output is OutputFormat.text:
        say(_plan_text(synthesis))
    with progress_display("Writing", unit="bytes", total=synthesis.to_write, quiet=quiet) as progress:
        carry_out(synthesis, progress)
    if output is OutputFormat.json:
        print_json(synthesis.to_json())
    else:
        print_report(_result_text(synthesis))


def _plan_text(synthesis: Synthesis) -> str:
    from zoo.report.sizes import human_bytes
    from zoo.report.text import columns, plural

    missing = {shard.file for shard in synthesis.missing}
    rows = [
        [shard.file, str(len(shard.tensors)), human_bytes(shard.size), "write" if shard.file in missing else "keep"]
        for shard in synthesis.plan.shards
    ]
    table = columns(rows, header=["shard", "tensors", "size", "action"], align="<>><")
    plan = synthesis.plan
    return (
        f"{table}\n{plan.model}: {plural(plan.layers, 'layer')}, {plan.parameters / 1e9:.2f} billion parameters,"
        f" seed {plan.seed}; {human_bytes(synthesis.to_write)} to write, {human_bytes(synthesis.free)} free"
    )


def _result_text(synthesis: Synthesis) -> str:
    from zoo.report.sizes import human_bytes
    from zoo.report.text import plural

    shards = plural(len(synthesis.plan.shards), "shard")
    return f"{synthesis.directory}: {human_bytes(synthesis.plan.size)} in {shards}, random weights"
