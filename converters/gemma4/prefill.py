"""Builds the prefill packages, `prefill_chunk1` to `prefill_chunk4`."""

from __future__ import annotations

from collections.abc import Sequence

from converters.checkpoint import Checkpoint
from converters.gemma4.batches import prefill_body
from converters.gemma4.chunks import TextChunk
from converters.gemma4.config import TextConfig, parse_config
from converters.gemma4.decode import chunk_function, chunk_metadata, load_chunk, palettization
from converters.gemma4.interface import MAIN
from converters.gemma4.prefill_interface import SEPARATE, prefill_name, prefill_spec
from converters.gemma4.recipes.prefill import prefill_parameters
from converters.light import Placeholders
from converters.package import Function, build_package
from converters.recipe import Job


def build_prefill_chunk(job: Job) -> None:
    """Recipe `gemma4.prefill-chunk`: one function per length, over the weights of the decode chunk.

    Its `weight.bin` is that of the decode chunk of the same number. A single length gives a plain model: a
    multifunction one takes about three times as long to load on a phone.
    """
    checkpoint = Checkpoint.open(job.checkpoint)
    text = parse_config(checkpoint.config).text
    parameters = prefill_parameters(text, job.parameters)
    placeholders = Placeholders()
    chunk = load_chunk(checkpoint, text, *parameters.layers, placeholders=placeholders)
    build_package(
        prefill_functions(text, chunk, parameters.lengths, masks=parameters.masks, logits=parameters.logits),
        job.output / f"{job.path}.mlpackage",
        compression=palettization(parameters.bits, parameters.group_size),
        metadata=chunk_metadata(job, "gemma4.prefill-chunk", parameters.layers),
        progress=job.progress,
        placeholders=placeholders,
    )


def prefill_functions(
    text: TextConfig, chunk: TextChunk, lengths: Sequence[int], *, masks: str = SEPARATE, logits: bool = False
) -> list[Function]:
    """A chunk's prefill functions; the longest is the default one, which an engine gets that asks for none.

    Args:
        text: the text configuration.
        chunk: the weights.
        lengths: how many positions each function takes.
        masks: one of `MASKS`.
        logits: a head also gives the last position's logits.
    """

    def function(length: int) -> Function:
        name = prefill_name(length) if len(lengths) > 1 else MAIN
        spec = prefill_spec(text, chunk.span, length, name, masks=masks, logits=logits)
        return chunk_function(chunk, prefill_body(masks), spec)

    return [function(length) for length in sorted(lengths, reverse=True)]
