"""Builds the text chunks' packages: `chunk1` to `chunk4`, `chunk2_3way` and `chunk3_3way`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.batches import batch
from converters.gemma4.chunks import Body, ChunkFunction, Read, TextChunk, decode
from converters.gemma4.config import Range, TextConfig, parse_config
from converters.gemma4.interface import DECODE, MAIN, chunk_span, decode_spec, verify_spec
from converters.gemma4.layers import CONVOLUTION, Layout
from converters.gemma4.prefill_interface import batch_spec
from converters.gemma4.recipes.text import TextParameters, decode_parameters, merged_parameters
from converters.gemma4.tensors import chunk_shapes
from converters.gemma4.verify import verify_body
from converters.light import Placeholders, is_heavy
from converters.package import Function, build_package
from converters.palettize import Palettization
from converters.recipe import Job
from converters.signature import FunctionSpec
from converters.weights import checkpoint_weight

HALF_BITS = 16


def build_decode_chunk(job: Job) -> None:
    """Recipe `gemma4.decode-chunk`: `decode_q1` (default), `verify_qK` and `prefill_bN` over one set of weights.

    With `verify` and `prefill` 0 a plain model that only decodes; its `weight.bin` is the same.
    """
    checkpoint = Checkpoint.open(job.checkpoint)
    text = parse_config(checkpoint.config).text
    parameters = decode_parameters(text, job.parameters)
    _build(job, checkpoint, text, parameters, "gemma4.decode-chunk")


def build_merged_chunk(job: Job) -> None:
    """Recipe `gemma4.merged-chunk`: plain models unless they have `prefill`.

    `chunk3_3way` has the `weight.bin` of `chunk4`.
    """
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
    placeholders: Placeholders | None = None,
) -> TextChunk:
    """The layers `[start, end)` with their weights; only these tensors are read.

    Args:
        checkpoint: where the weights are.
        text: its text configuration.
        start: first layer.
        end: one past the last layer.
        dtype: what the module shall compute in.
        layout: what its projections are: 1x1 convolutions or linear layers.
        placeholders: when given, large weights are not read: what stands in for them is registered here, and the
            chunk can be converted but not run.

    Raises:
        RecipeError: a tensor is missing, has another shape, or holds values that `dtype` cannot.
    """
    read = reader(checkpoint, chunk_shapes(text, start, end), dtype, placeholders)
    return TextChunk(text, chunk_span(text, start, end), read, layout)


def reader(
    checkpoint: Checkpoint,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    placeholders: Placeholders | None = None,
) -> Read:
    """Reads tensors of known shapes as `dtype`; with `placeholders`, large ones only when they are written."""

    def read(name: str) -> Tensor:
        if placeholders is not None and is_heavy(shapes[name]):
            return placeholders.add(checkpoint_weight(checkpoint, name, shapes[name]), dtype)
        # a copy even where the dtype is right already: the checkpoint's mapping must not be written to or kept
        tensor = checkpoint.tensor(name, shapes[name]).to(dtype, copy=True)
        if not torch.isfinite(tensor).all():
            raise RecipeError(f"tensor {name} holds values that are not finite in {str(dtype).split('.')[-1]}")
        return tensor

    return read


def chunk_functions(
    text: TextConfig,
    chunk: TextChunk,
    context_length: int,
    verify_length: int,
    name: str,
    *,
    prefill_length: int = 0,
    logits: bool = False,
    exact: bool = True,
) -> list[Function]:
    """A chunk's functions, the default one first.

    Args:
        text: the text configuration.
        chunk: the weights.
        context_length: rows of the full-attention caches.
        verify_length: tokens per verify call; 0 for none.
        name: of the decode function.
        prefill_length: positions per batch of a prompt; 0 for none.
        logits: a head also gives all logits.
        exact: see `converters.gemma4.verify`.
    """
    span = chunk.span
    bodies: list[tuple[Body, FunctionSpec]] = [
        (decode, decode_spec(text, span, context_length, name, logits=logits)),
    ]
    if verify_length:
        spec = verify_spec(text, span, context_length, verify_length, logits=logits, exact=exact)
        bodies.append((verify_body(exact=exact), spec))
    if prefill_length:
        bodies.append((batch, batch_spec(text, span, context_length, prefill_length, logits=logits)))
    return [chunk_function(chunk, body, spec) for body, spec in bodies]


def chunk_function(chunk: TextChunk, body: Body, spec: FunctionSpec) -> Function:
    """One way to call a chunk, for conversion."""
    half = all(parameter.dtype == torch.float16 for parameter in chunk.parameters())
    return Function(spec, ChunkFunction(chunk, body, spec), half)


def palettization(bits: int, group_size: int) -> Palettization | None:
    """How weights are compressed; None for float16."""
    return None if bits == HALF_BITS else Palettization(bits=bits, group_size=group_size)


def _build(job: Job, checkpoint: Checkpoint, text: TextConfig, parameters: TextParameters, recipe: str) -> None:
    placeholders = Placeholders()
    chunk = load_chunk(checkpoint, text, *parameters.layers, placeholders=placeholders)
    functions = chunk_functions(
        text,
        chunk,
        parameters.context_length,
        parameters.verify,
        DECODE if parameters.verify or parameters.prefill else MAIN,
        prefill_length=parameters.prefill,
        logits=parameters.logits,
        exact=parameters.exact,
    )
    build_package(
        functions,
        job.output / f"{job.path}.mlpackage",
        compression=palettization(parameters.bits, parameters.group_size),
        metadata=chunk_metadata(job, recipe, parameters.layers),
        progress=job.progress,
        placeholders=placeholders,
    )


def chunk_metadata(job: Job, recipe: str, layers: Range) -> dict[str, str]:
    """What a reader of the model wants to know and no build changes."""
    given = {f"zoo.{key}": str(value) for key, value in job.parameters.items()}
    return {"zoo.recipe": recipe, "zoo.layers": f"{layers[0]}-{layers[1] - 1}", **given}
