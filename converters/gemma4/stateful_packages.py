"""Builds the stateful chunks' packages: `chunk_1` to `chunk_4`, and those for 288 tokens at once."""

from __future__ import annotations

import torch

from converters.checkpoint import Checkpoint
from converters.gemma4.chunks import TextChunk
from converters.gemma4.config import TextConfig, parse_config
from converters.gemma4.decode import chunk_metadata, load_chunk, palettization
from converters.gemma4.interface import MAIN
from converters.gemma4.layers import CONVOLUTION, LINEAR
from converters.gemma4.recipes.stateful import StatefulParameters, stateful_parameters, stateful_prefill_parameters
from converters.gemma4.stateful import StatefulFunction, empty_states
from converters.gemma4.stateful_interface import INFER, prefill_name, stateful_spec
from converters.light import Placeholders
from converters.package import PASSES, Function, build_package
from converters.recipe import Job

STATE_PASSES = (
    *PASSES,
    "common::fuse_squeeze_expand_dims",  # positions go through a scalar
    "common::noop_elimination",
    "common::canonicalize_inplace_pattern",
    "common::prefer_state_in_downstream",
    "common::dead_code_elimination",
)
"""Puts each state's read, change and write side by side, which is how Core ML finds that it can work in place."""


def build_stateful_chunk(job: Job) -> None:
    """Recipe `gemma4.stateful-chunk`: `infer` (default) and a `prefill_bN` for each N, over one set of weights.

    Without `prefill` a plain model for one token; its `weight.bin` is the same.
    """
    checkpoint = Checkpoint.open(job.checkpoint)
    text = parse_config(checkpoint.config).text
    parameters = stateful_parameters(text, job.parameters)
    names = {1: INFER if parameters.lengths else MAIN} | {
        length: prefill_name(length) for length in parameters.lengths
    }
    _build(job, checkpoint, text, parameters, "gemma4.stateful-chunk", names)


def build_stateful_prefill(job: Job) -> None:
    """Recipe `gemma4.stateful-prefill`: a plain model for `length` tokens.

    It has states of its own, from which the app copies to the chunks that go on; the iPhone's compiler refuses
    several tokens only in a model with several functions. Its `weight.bin` is that of the chunk for one token.
    """
    checkpoint = Checkpoint.open(job.checkpoint)
    text = parse_config(checkpoint.config).text
    parameters = stateful_prefill_parameters(text, job.parameters)
    _build(job, checkpoint, text, parameters, "gemma4.stateful-prefill", {parameters.lengths[0]: MAIN})


def stateful_functions(
    text: TextConfig, chunk: TextChunk, parameters: StatefulParameters, names: dict[int, str]
) -> list[Function]:
    """A chunk's functions, the default one first.

    Args:
        text: the text configuration.
        chunk: the weights.
        parameters: of the recipe.
        names: the functions' names by tokens per call.
    """
    dtype = next(chunk.parameters()).dtype
    functions = []
    for length, name in names.items():
        spec = stateful_spec(
            text,
            chunk.span,
            parameters.context_length,
            name=name,
            length=length,
            variant=parameters.variant,
            logits=parameters.logits,
        )
        module = StatefulFunction(chunk, spec, empty_states(spec, dtype), parameters.variant)
        functions.append(Function(spec, module, half=dtype == torch.float16))
    return functions


def _build(
    job: Job,
    checkpoint: Checkpoint,
    text: TextConfig,
    parameters: StatefulParameters,
    recipe: str,
    names: dict[int, str],
) -> None:
    layout = LINEAR if parameters.linear else CONVOLUTION
    placeholders = Placeholders()
    chunk = load_chunk(checkpoint, text, *parameters.layers, layout=layout, placeholders=placeholders)
    build_package(
        stateful_functions(text, chunk, parameters, names),
        job.output / f"{job.path}.mlpackage",
        compression=palettization(parameters.bits, parameters.group_size),
        metadata=chunk_metadata(job, recipe, parameters.layers),
        passes=STATE_PASSES,
        progress=job.progress,
        placeholders=placeholders,
    )
