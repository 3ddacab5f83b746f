"""The zoo's own packages, executed: what the recipes write against the torch modules they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.checkpoint import Checkpoint
from converters.gemma4.config import parse_config
from converters.gemma4.decode import build_decode_chunk, chunk_functions, load_chunk
from converters.gemma4.recipes.text import DECODE_CHUNK
from converters.mil.runtime import Model
from converters.recipe import Job

pytestmark = pytest.mark.convert

CONTEXT, VERIFY, PREFILL, CHUNK = 32, 2, 3, 2
"""The second chunk has everything: caches of both kinds, producers for the shared layers, verification."""


@pytest.fixture(scope="module")
def package(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("chunk")
    parameters = {**DECODE_CHUNK, "chunk": CHUNK, "context_length": CONTEXT, "verify": VERIFY, "prefill": PREFILL}
    build_decode_chunk(Job(tiny_checkpoint, "chunk2", parameters | {"bits": 16}, output))
    return output / "chunk2.mlpackage"


@pytest.fixture(scope="module")
def modules(tiny_checkpoint: Path) -> dict[str, Any]:
    """The chunk's functions in torch, with the package's fp16 weights and float32 arithmetic."""
    checkpoint = Checkpoint.open(tiny_checkpoint)
    text = parse_config(checkpoint.config).text
    start, end = text.chunk_boundaries()[CHUNK - 1]
    chunk = load_chunk(checkpoint, text, start, end, torch.float32)
    functions = chunk_functions(text, chunk, CONTEXT, VERIFY, "decode_q1", prefill_length=PREFILL)
    for function in functions:
        for tensor in [*function.module.parameters(), *function.module.buffers()]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.half().float()
    return {function.spec.name: function.module for function in functions}


def _inputs(model: Model, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Random activations and caches; masks that hide a few positions; one updated row per token."""
    rng = np.random.default_rng(seed)
    values: dict[str, np.ndarray[Any, Any]] = {}
    for feature in model.interface.inputs:
        shape = feature.type.static_shape()
        assert shape is not None
        value = rng.normal(size=shape)
        if "mask" in feature.name:
            value = np.where(rng.random(shape) < 0.3, -65504.0, 0.0)
        if feature.name in {"update_mask", "update_indicator"}:
            value = np.zeros(shape)
            for column in range(shape[-1]):
                value[0, 0, 5 + column, column] = 1
        values[feature.name] = value.astype(np.float16)
    return values


@pytest.mark.parametrize("function", ["decode_q1", "verify_qK", "prefill_b3"])
@pytest.mark.parametrize(("arithmetic", "tolerance"), [("fp32", 4e-3), ("fp16", 2e-2)])
def test_decode_chunk(
    package: Path, modules: dict[str, Any], function: str, arithmetic: Any, tolerance: float
) -> None:
    model = Model(package, function, arithmetic=arithmetic)
    inputs = _inputs(model, seed=1)
    outputs = model.predict(inputs)
    with torch.no_grad():
        expected = modules[function](*(torch.from_numpy(value).float() for value in inputs.values()))
    assert list(outputs) == list(model.output_names)
    for (name, value), wanted in zip(outputs.items(), expected, strict=True):
        scale = max(1.0, float(wanted.abs().max()))
        error = float(np.abs(value.astype(np.float32) - wanted.numpy()).max())
        assert error <= tolerance * scale, name
