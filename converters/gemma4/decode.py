"""Builds the text chunks' packages: `chunk1` to `chunk4`, `chunk2_3way` and `chunk3_3way`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.chunks import ChunkFunction, Read, TextChunk, decode, verify
from converters.gemma4.config import TextConfig, parse_config
from converters.gemma4.interface import chunk_span, decode_spec, verify_spec
from converters.gemma4.layers import CONVOLUTION, Layout
from converters.gemma4.recipes.text import TextParameters, decode_parameters, merged_parameters
from converters.gemma4.tensors import chunk_shapes
from converters.package import Function, build_package
from converters.palettize import Palettization
from converters.recipe import Job
from converters.signature import FunctionSpec

HALF_BITS = 16


def build_decode_chunk(job: Job) -> None:
    """Recipe `gemma4.decode-chunk`: `decode_q1` (default) and `verify_qK` over one set of weights.

    With `verify = 0` a plain model that only decodes; its `weight.bin` is the same.
    """
    checkpoint = Checkpoint.open(job.checkpoint)
    text = parse_config(checkpoint.config).text
    parameters = decode_parameters(text, job.parameters)
    _build(job, checkpoint, text, parameters, "gemma4.decode-chunk")


def build_merged_chunk(job: Job) -> None:
    """Recipe `gemma4.merged-chunk`: plain models; `chunk3_3way` has the `weight.bin` of `chunk4`."""
    checkpoint = Checkpoint.open(job.checkpoint)
    text = parse_config(checkpoint.config).text
    parameters = merged_parameters(text, job.parameters)
    _build(job, checkpoint, text, parameters, "gemma4.merged-chunk")


def load_chunk(
    checkpoint: Checkpoint,
    text: TextConfig,
    start: int,
    end: int,
    dtype: torch.dtype = torch.float16,
    layout: Layout = CONVOLUTION,
) -> TextChunk:
    """The layers `[start, end)` with their weights; only these tensors are read.

    Args:
        checkpoint: where the weights are.
        text: its text configuration.
        start: first layer.
        end: one past the last layer.
        dtype: what the module shall compute in.
        layout: what its projections are: 1x1 convolutions or linear layers.

    Raises:
        RecipeError: a tensor is missing, has another shape, or holds values that `dtype` cannot.
    """
    read = reader(checkpoint, chunk_shapes(text, start, end), dtype)
    return TextChunk(text, chunk_span(text, start, end), read, layout)


def reader(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> Read:
    """Reads tensors of known shapes as `dtype`."""

    def read(name: str) -> Tensor:
        # a copy even where the dtype is right already: the checkpoint's mapping must not be written to or kept
        tensor = checkpoint.tensor(name, shapes[name]).to(dtype, copy=True)
        if not torch.isfinite(tensor).all():
            raise RecipeError(f"tensor {name} holds values that are not finite in {str(dtype).split('.')[-1]}")
        return tensor

    return read


def chunk_functions(
    text: TextConfig, chunk: TextChunk, context_length: int, verify_length: int, name: str
) -> list[Function]:
    """A chunk's functions, the default one first.

    Args:
        text: the text configuration.
        chunk: the weights.
        context_length: rows of the full-attention caches.
        verify_length: tokens per verify call; 0 for none.
        name: of the decode function.
    """

    def spec_of(length: int) -> FunctionSpec:
        if length:
            return verify_spec(text, chunk.span, context_length, length)
        return decode_spec(text, chunk.span, context_length, name)

    bodies = [(decode, spec_of(0))] + ([(verify, spec_of(verify_length))] if verify_length else [])
    half = all(parameter.dtype == torch.float16 for parameter in chunk.parameters())
    return [Function(spec, ChunkFunction(chunk, body, spec), half) for body, spec in bodies]


def _build(job: Job, checkpoint: Checkpoint, text: TextConfig, parameters: TextParameters, recipe: str) -> None:
    job.progress("reading weights", 0.0)
    chunk = load_chunk(checkpoint, text, parameters.start, parameters.end)
    name = "decode_q1" if parameters.verify else "main"
    functions = chunk_functions(text, chunk, parameters.context_length, parameters.verify, name)
    scheme = None
    if parameters.bits != HALF_BITS:
        scheme = Palettization(bits=parameters.bits, group_size=parameters.group_size)
    build_package(
        functions,
        job.output / f"{job.path}.mlpackage",
        palettization=scheme,
        metadata=_metadata(job, recipe, parameters),
        progress=job.progress,
    )


def _metadata(job: Job, recipe: str, parameters: TextParameters) -> dict[str, str]:
    """What a reader of the model wants to know and no build changes."""
    given = {f"zoo.{key}": str(value) for key, value in job.parameters.items()}
    return {"zoo.recipe": recipe, "zoo.layers": f"{parameters.start}-{parameters.end - 1}", **given}
