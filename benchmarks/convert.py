"""Chunks of the text model, from the checkpoint to the package, beside the ordinary way with coremltools.

    zoo synth gemma4-e4b CHECKPOINT
    python -m benchmarks.convert CHECKPOINT [--layers 0-3] [--full 0-12 --full 12-33] [--json FILE]

`zoo` and `coremltools` build the same chunk, one that is small enough for both: `coremltools` traces the module with
its weights, converts it with the default passes (without the one that undoes 4-D convolutions), calls
`palettize_weights`, and saves. Then `zoo` builds the chunks given with `--full`. Each in a process of its own; memory
is its peak.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Run, describe, machine, run_once, write_json
from zoo.report.text import columns

WEIGHTS = Path("Data", "com.apple.CoreML", "weights", "weight.bin")

CONTEXT, VERIFY = 2048, 3
"""What the bundle's chunks have: rows of the full-attention caches, tokens per verify call."""

Layers = tuple[int, int]


def layers(text: str) -> Layers:
    """`0-12`: the layers from the first to before the second."""
    start, _, end = text.partition("-")
    return int(start), int(end)


def build_with_zoo(checkpoint: Path, span: Layers, verify: int, output: Path) -> None:
    """As the recipe of the chunks does."""
    from converters.checkpoint import Checkpoint
    from converters.gemma4.config import parse_config
    from converters.gemma4.decode import chunk_functions, load_chunk, palettization
    from converters.light import Placeholders
    from converters.package import build_package

    opened, placeholders = Checkpoint.open(checkpoint), Placeholders()
    text = parse_config(opened.config).text
    chunk = load_chunk(opened, text, *span, placeholders=placeholders)
    functions = chunk_functions(text, chunk, CONTEXT, verify, "decode_q1" if verify else "main")
    build_package(functions, output, compression=palettization(4, 32), placeholders=placeholders)


def build_with_coremltools(checkpoint: Path, span: Layers, output: Path) -> None:
    """As one does without zoo; the decode function alone."""
    import numpy as np
    import torch

    from converters.checkpoint import Checkpoint
    from converters.gemma4.config import parse_config
    from converters.gemma4.decode import chunk_functions, load_chunk
    from converters.package import quiet

    opened = Checkpoint.open(checkpoint)
    text = parse_config(opened.config).text
    (function,) = chunk_functions(text, load_chunk(opened, text, *span), CONTEXT, 0, "main")
    spec = function.spec
    with quiet(), torch.no_grad():
        import coremltools as ct
        from coremltools.optimize import coreml as cto

        passes = ct.PassPipeline()
        passes.remove_passes({"common::compose_conv1d"})
        example = tuple(torch.zeros(item.shape, dtype=getattr(torch, item.dtype)) for item in spec.inputs)
        trace: Any = torch.jit.trace
        model = ct.convert(
            trace(function.module.eval(), example, check_trace=False),
            inputs=[ct.TensorType(item.name, item.shape, getattr(np, item.dtype)) for item in spec.inputs],
            outputs=[ct.TensorType(name=item.name, dtype=getattr(np, item.dtype)) for item in spec.outputs],
            minimum_deployment_target=ct.target.iOS18,
            compute_units=ct.ComputeUnit.CPU_AND_NE,
            pass_pipeline=passes,
            skip_model_load=True,
        )
        grain: dict[str, Any] = {"granularity": "per_grouped_channel", "group_size": 32}
        config = cto.OptimizationConfig(cto.OpPalettizerConfig(mode="kmeans", nbits=4, **grain))
        cto.palettize_weights(model, config).save(str(output))


def measure(checkpoint: Path, small: Layers, full: Sequence[Layers], scratch: Path) -> dict[str, Any]:
    """The benchmark; returns the figures."""
    from converters.checkpoint import Checkpoint
    from converters.gemma4.config import parse_config
    from converters.gemma4.tensors import chunk_shapes

    conditions = machine()
    text = parse_config(Checkpoint.open(checkpoint).config).text
    steps = [("zoo", small, 0), ("coremltools", small, 0)]
    # as in the bundles: chunks of the four-chunk layout also verify, the merged one does not
    boundaries = text.chunk_boundaries()
    steps += [("zoo", span, VERIFY if span in boundaries else 0) for span in full]
    found = []
    for number, (road, span, verify) in enumerate(steps):
        output = scratch / f"{number}.mlpackage"
        command = [sys.executable, "-m", "benchmarks.convert", str(checkpoint), "--work", road]
        command += ["--layers", f"{span[0]}-{span[1]}", "--verify", str(verify), "--output", str(output)]
        run = run_once(command, environment=os.environ, cwd=Path(__file__).parents[1])
        shapes = chunk_shapes(text, *span)
        found.append(
            {
                "road": road,
                "layers": span,
                "functions": 2 if verify else 1,
                "weights": sum(math.prod(shape) for shape in shapes.values()),
                "weight_bytes": (output / WEIGHTS).stat().st_size,
                **asdict(run),
            }
        )
    return {"machine": conditions, "builds": found}


def report(figures: dict[str, Any]) -> str:
    """The figures for people."""
    rows = []
    for build in figures["builds"]:
        run = Run(build["wall"], build["cpu"], build["memory"])
        rows.append(
            (
                build["road"],
                "-".join(map(str, build["layers"])),
                str(build["functions"]),
                f"{build['weights'] / 1e9:.2f}e9",
                f"{run.wall:.1f} s",
                f"{run.cpu:.1f} s",
                f"{run.memory / 1e9:.2f} GB",
                f"{build['weight_bytes']:,}",
            )
        )
    header = ("ROAD", "LAYERS", "FUNCTIONS", "WEIGHTS", "WALL", "CPU", "MEMORY", "WEIGHT.BIN")
    return "\n".join([describe(figures["machine"]), columns(rows, header=header, align="<<>>>>>>")])


def main() -> None:
    """Build in turn, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--layers", type=layers, default=(0, 3), metavar="FROM-TO", help="of the chunk that both build"
    )
    parser.add_argument("--full", type=layers, action="append", metavar="FROM-TO", help="a chunk that zoo builds")
    parser.add_argument("--directory", type=Path, help="where to work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--work", choices=("zoo", "coremltools"), help=argparse.SUPPRESS)
    parser.add_argument("--verify", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work == "zoo":
        build_with_zoo(given.checkpoint, given.layers, given.verify, given.output)
    elif given.work:
        build_with_coremltools(given.checkpoint, given.layers, given.output)
    else:
        with tempfile.TemporaryDirectory(prefix="zoo-bench-", dir=given.directory) as name:
            figures = measure(given.checkpoint, given.layers, given.full or [], Path(name))
        print(report(figures))
        if given.json:
            write_json(given.json, figures)


if __name__ == "__main__":
    main()
