"""Inputs, outputs and states of the stateful text chunks' functions, computed from the config.

A chunk whose layers have keys and values of their own keeps them in two states: `kv_cache_sliding`, a ring of
`sliding_window` rows, and `kv_cache_full`, one row per position. Slot `2 i` of the first axis is the keys of the i-th
such layer, slot `2 i + 1` its values; sliding heads are padded to the global head width.

The names are the contract with the app's engine. Nothing heavy is imported.
"""

from __future__ import annotations

from converters.gemma4.config import TextConfig
from converters.gemma4.interface import ChunkSpan, call_inputs, logits_spec, shared_kv_specs
from converters.signature import FunctionSpec, TensorSpec

INFER = "infer"
"""One token; the default function."""

MAIN = "main"
"""What the single function of a plain model is called."""

SLIDING_STATE = "kv_cache_sliding"
FULL_STATE = "kv_cache_full"

EXACT = "transformers"
LEGACY = "legacy"
VARIANTS = (EXACT, LEGACY)
"""What a batch attends to once the ring has been filled; see `shared_window`."""


def prefill_name(length: int) -> str:
    """The function that takes `length` tokens; the app's engine looks for 16, 8 and 4."""
    return f"prefill_b{length}"


def shared_window(text: TextConfig, length: int, variant: str) -> int:
    """Rows of `kv13_*`.

    A batch writes `length` rows into a ring of `sliding_window`. Its first query still needs rows that the batch
    overwrites, so together its queries see `sliding_window + length - 1` positions. The legacy interface has no room
    for them: past the window its queries lose the oldest rows and see the batch's later tokens in their place.
    """
    return text.sliding_window + (length if length > 1 and variant == EXACT else 0)


def state_specs(text: TextConfig, span: ChunkSpan, context: int) -> tuple[TensorSpec, ...]:
    """The chunk's states; none if all its layers share their keys and values."""
    heads, width = text.num_key_value_heads, text.global_head_dim
    groups = ((SLIDING_STATE, len(span.sliding), text.sliding_window), (FULL_STATE, len(span.full), context))
    return tuple(TensorSpec(name, (2 * slots, heads, rows, width)) for name, slots, rows in groups if slots)


def stateful_spec(
    text: TextConfig,
    span: ChunkSpan,
    context: int,
    *,
    name: str = INFER,
    length: int = 1,
    variant: str = EXACT,
    logits: bool = False,
) -> FunctionSpec:
    """One function of a stateful chunk.

    The caller gives `causal_mask_sliding` left-aligned: at position p the first `min(p + 1, sliding_window)` slots
    of the ring are visible, in whichever order the ring holds them. A head speaks of the last position only.

    Args:
        text: the text configuration.
        span: the chunk's layers.
        context: rows of the full-attention states.
        name: of the function.
        length: tokens per call.
        variant: of `VARIANTS`.
        logits: a head also gives its softcapped logits.
    """
    masks = (
        TensorSpec("causal_mask_full", (1, 1, length, context)),
        TensorSpec("causal_mask_sliding", (1, 1, length, text.sliding_window)),
    )
    states = state_specs(text, span, context)
    shared = shared_kv_specs(text, shared_window(text, length, variant), context)
    inputs = call_inputs(text, span, length, masks)
    if states:
        inputs += (TensorSpec("current_pos", (1,), "int32"), TensorSpec("ring_pos", (1,), "int32"))
    if span.takes_shared_kv:
        inputs += shared
    outputs: tuple[TensorSpec, ...]
    if span.has_head:
        outputs = (TensorSpec("token_id", (1,), "int32"), TensorSpec("token_logit", (1,)))
        outputs += (TensorSpec("hidden_normed", (1, 1, text.hidden_size)),)
        outputs += (logits_spec(text, 1),) if logits else ()
    else:
        outputs = (TensorSpec("hidden_states_out", (1, length, text.hidden_size)),)
        if span.computes_ple:
            outputs += (TensorSpec("per_layer_combined_out", (1, length, text.per_layer_width)),)
        if span.emits_shared_kv:
            outputs += shared
    return FunctionSpec(name, inputs, outputs, states)
