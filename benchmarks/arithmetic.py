"""How far fp16 programs are from float32, in each arithmetic of the runtime, beside torch computing in fp16 itself.

`python -m benchmarks.arithmetic` builds one decode chunk of the small synthetic checkpoint, runs its functions on
random activations, and prints distances from the same torch module in float32 with the same fp16 weights.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converters.checkpoint import Checkpoint
from converters.gemma4.config import parse_config
from converters.gemma4.decode import build_decode_chunk, chunk_functions, load_chunk
from converters.gemma4.recipes.text import DECODE_CHUNK
from converters.gemma4.synthetic import make_checkpoint
from converters.mil.runtime import ARITHMETICS, Model
from converters.recipe import Job
from zoo.report.text import columns

CONTEXT, PREFILL, CHUNK = 32, 3, 2
HIDDEN_POSITIONS = 0.3
"""Share of the positions that the random masks hide."""
MASKED = -65504.0

Array = np.ndarray[Any, Any]


def inputs_for(model: Model, seed: int) -> dict[str, Array]:
    """Random activations and caches, and masks that hide some positions."""
    rng = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    for feature in model.interface.inputs:
        shape = feature.type.static_shape() or ()
        value = rng.normal(size=shape)
        if "mask" in feature.name:
            value = np.where(rng.random(shape) < HIDDEN_POSITIONS, MASKED, 0.0)
        if feature.name == "update_mask":
            value = np.zeros(shape)
            for column in range(shape[-1]):
                value[0, 0, 5 + column, column] = 1
        values[feature.name] = value.astype(np.float16)
    return values


def modules(folder: Path, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """The chunk's functions in torch, with fp16 weights held in `dtype`."""
    checkpoint = Checkpoint.open(folder)
    text = parse_config(checkpoint.config).text
    start, end = text.chunk_boundaries()[CHUNK - 1]
    chunk = load_chunk(checkpoint, text, start, end, torch.float32)
    found = {}
    for function in chunk_functions(text, chunk, CONTEXT, 2, "decode_q1", prefill_length=PREFILL):
        for tensor in [*function.module.parameters(), *function.module.buffers()]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.half().to(dtype)
        found[function.spec.name] = function.module
    return found


def _distance(outputs: Sequence[Array], wanted: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Greatest and root-mean-square distance, relative to the reference's root mean square, over all outputs."""
    differences = [(o.astype(np.float32) - w.numpy()).reshape(-1) for o, w in zip(outputs, wanted, strict=True)]
    scales = [float(w.square().mean().sqrt()) for w in wanted]
    scaled = np.concatenate([d / s for d, s in zip(differences, scales, strict=True)])
    return float(np.abs(scaled).max()), float(np.sqrt(np.square(scaled).mean()))


def measure(folder: Path, seeds: int) -> list[list[str]]:
    """One row per function and way of computing."""
    parameters = {**DECODE_CHUNK, "chunk": CHUNK, "context_length": CONTEXT, "verify": 2, "prefill": PREFILL}
    checkpoint = make_checkpoint(folder / "checkpoint", size="e4b-tiny")
    build_decode_chunk(Job(checkpoint, "chunk2", parameters | {"bits": 16}, folder))
    package = folder / "chunk2.mlpackage"
    exact, half = modules(checkpoint, torch.float32), modules(checkpoint, torch.float16)
    rows = []
    for name, reference in exact.items():
        loaded = {arithmetic: Model(package, name, arithmetic=arithmetic) for arithmetic in ARITHMETICS}
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(seeds):
            inputs = inputs_for(loaded["fp32"], seed)
            tensors = [torch.from_numpy(value) for value in inputs.values()]
            with torch.no_grad():
                wanted = reference(*(tensor.float() for tensor in tensors))
                in_half = [value.numpy() for value in half[name](*tensors)]
            for arithmetic, model in loaded.items():
                found.setdefault(f"runtime, {arithmetic}", []).append(
                    _distance(list(model.predict(inputs).values()), wanted)
                )
            found.setdefault("torch in fp16", []).append(_distance(in_half, wanted))
        for way, distances in found.items():
            rows.append(
                [name, way, f"{max(d for d, _ in distances):.1e}", f"{np.mean([d for _, d in distances]):.1e}"]
            )
    return rows


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="sets of random inputs (5)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), given.seeds)
    print(columns(rows, header=("function", "computed by", "greatest", "root mean square"), align="<<>>"))


if __name__ == "__main__":
    main()
