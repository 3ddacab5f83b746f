"""Builds the encoders' packages: `vision.ane`, `vision`, `vision_video` and `audio`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converters.checkpoint import Checkpoint
from converters.gemma4.audio import load_audio
from converters.gemma4.config import parse_config
from converters.gemma4.encoder_interface import audio_spec, vision_spec
from converters.gemma4.recipes.encoders import (
    AudioParameters,
    audio_config,
    audio_parameters,
    vision_config,
    vision_grid,
)
from converters.gemma4.vision import load_vision
from converters.light import Placeholders
from converters.package import PASSES, Function, build_package, quiet
from converters.palettize import Palettization
from converters.quantize import LinearQuantization
from converters.recipe import Job

HALF_BITS = 16

VISION_PASSES = (*PASSES, "common::fuse_transpose_matmul", "common::dead_code_elimination")
"""Transposing all keys into memory first would be a copy of the largest operand in each layer."""

TO_HALF = "common::add_fp16_cast"
AUDIO_TO_HALF = "zoo::add_fp16_cast_except_sensitive"

SENSITIVE = frozenset({"tanh", "softmax", "reduce_mean", "pow", "sqrt", "rsqrt", "reduce_sum", "l2_norm"})
"""Operations of the audio encoder that stay in float32: the sums of norms and softmax, and the capped scores."""

ELEMENTWISE = frozenset({"add", "mul"})


def build_vision_encoder(job: Job) -> None:
    """Recipe `gemma4.vision-encoder`: float16, not compressed."""
    checkpoint = Checkpoint.open(job.checkpoint)
    config = parse_config(checkpoint.config)
    vision = vision_config(config)
    grid = vision_grid(vision, job.parameters)
    placeholders = Placeholders()
    encoder = load_vision(checkpoint, config, grid, placeholders)
    build_package(
        [Function(vision_spec(vision, config.text.hidden_size, grid), encoder)],
        job.output / f"{job.path}.mlpackage",
        metadata=_metadata(job, "gemma4.vision-encoder"),
        passes=VISION_PASSES,
        progress=job.progress,
        placeholders=placeholders,
    )


def build_audio_encoder(job: Job) -> None:
    """Recipe `gemma4.audio-encoder`: float16 except for `SENSITIVE` operations, weights compressed."""
    checkpoint = Checkpoint.open(job.checkpoint)
    config = parse_config(checkpoint.config)
    parameters = audio_parameters(job.parameters)
    placeholders = Placeholders()
    encoder = load_audio(checkpoint, config, parameters.frames, placeholders)
    build_package(
        [Function(audio_spec(audio_config(config), parameters.frames), encoder)],
        job.output / f"{job.path}.mlpackage",
        compression=audio_compression(parameters),
        metadata=_metadata(job, "gemma4.audio-encoder"),
        passes=audio_passes(),
        progress=job.progress,
        placeholders=placeholders,
    )


def audio_compression(parameters: AudioParameters) -> Palettization | LinearQuantization | None:
    """How the weights are compressed; None for float16."""
    if parameters.linear:
        return LinearQuantization(bits=parameters.bits, block_size=0)
    if parameters.bits == HALF_BITS:
        return None
    return Palettization(bits=parameters.bits, group_size=parameters.group_size)


def _metadata(job: Job, recipe: str) -> dict[str, str]:
    """What a reader of the model wants to know and no build changes."""
    return {"zoo.recipe": recipe, **{f"zoo.{key}": str(value) for key, value in job.parameters.items()}}


def stays_float32(op: Any) -> bool:
    """Whether a MIL operation keeps its float32.

    That is so for `SENSITIVE` ones, and for additions and multiplications on the way from one of them to another:
    the mean of squares plus epsilon, which leaves float16 when values exceed 256, and the capped scores plus
    mask, which float16 would round to steps of 1/32.
    """
    return op.op_type in SENSITIVE or (op.op_type in ELEMENTWISE and _from_sensitive(op) and _to_sensitive(op))


def _from_sensitive(op: Any) -> bool:
    before = op.x.op
    if before is None:
        return False
    return before.op_type in SENSITIVE or (before.op_type in ELEMENTWISE and _from_sensitive(before))


def _to_sensitive(op: Any) -> bool:
    after: Sequence[Any] = op.outputs[0].child_ops
    return bool(after) and all(
        child.op_type in SENSITIVE or (child.op_type in ELEMENTWISE and _to_sensitive(child)) for child in after
    )


def audio_passes() -> tuple[str, ...]:
    """The package's passes with one that spares `stays_float32` in the place of the plain float16 cast."""
    with quiet():
        from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision
        from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    if AUDIO_TO_HALF not in PASS_REGISTRY:
        namespace, _, name = AUDIO_TO_HALF.partition("::")

        class Spared(FP16ComputePrecision):  # type: ignore[misc]  # the registry takes classes only
            def __init__(self) -> None:
                super().__init__(op_selector=lambda op: not stays_float32(op))

        PASS_REGISTRY.add(namespace, Spared, override=False, name=name)
    assert TO_HALF in PASSES, "the passes no longer cast to float16"
    return tuple(AUDIO_TO_HALF if name == TO_HALF else name for name in PASSES)
