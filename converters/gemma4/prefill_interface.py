"""Inputs and outputs of the functions that run a prompt: names, shapes and dtypes, computed from the config.

There are two. `prefill_chunk1` to `prefill_chunk4` run the first N positions of a prompt at once, without caches.
`prefill_bT` in the decode chunks continues from the caches, T positions at a time. Nothing heavy is imported.
"""

from __future__ import annotations

from converters.gemma4.config import TextConfig
from converters.gemma4.interface import (
    ChunkSpan,
    cache_specs,
    call_inputs,
    logits_spec,
    shared_kv_specs,
    slice_specs,
)
from converters.signature import FunctionSpec, TensorSpec

SEPARATE, WINDOW, LEGACY = "separate", "window", "legacy"
MASKS = (SEPARATE, WINDOW, LEGACY)
"""How sliding layers get their mask: as an input of its own, `causal_mask_sliding`; computed from `causal_mask` by
hiding what is out of the window; or, as in the public bundles, not at all: they use `causal_mask` as it is."""


def prefill_name(length: int) -> str:
    """Name of the function for `length` positions."""
    return f"prefill_b{length}"


def non_producers(text: TextConfig, span: ChunkSpan) -> tuple[int, ...]:
    """Own-KV layers whose keys and values come out as `K0`, `V0`, `K1` and so on, in order.

    Those of the producers come out as `kv13_*` and `kv14_*` instead.
    """
    return tuple(layer for layer in sorted(span.sliding + span.full) if layer not in text.kv_producers)


def prefill_spec(
    text: TextConfig, span: ChunkSpan, length: int, name: str, *, masks: str = SEPARATE, logits: bool = False
) -> FunctionSpec:
    """The first `length` positions of a prompt; a shorter one is padded, its last position marked.

    Args:
        text: the text configuration.
        span: the chunk.
        length: N.
        name: of the function.
        masks: one of `MASKS`.
        logits: with a head, also give the last position's logits.
    """
    square = (1, 1, length, length)
    names = ("causal_mask", "causal_mask_sliding") if masks == SEPARATE else ("causal_mask",)
    inputs = call_inputs(text, span, length, tuple(TensorSpec(item, square) for item in names))
    if span.takes_shared_kv:
        inputs += shared_kv_specs(text, length, length)
    if span.has_head:
        inputs += (TensorSpec("last_position_mask", (1, length, 1)),)
        return FunctionSpec(name, inputs, _next_token_specs(text, logits=logits))
    outputs = [TensorSpec("hidden_states_out", (1, length, text.hidden_size))]
    if span.computes_ple:
        outputs.append(TensorSpec("per_layer_combined_out", (1, length, text.per_layer_width)))
    for number, layer in enumerate(non_producers(text, span)):
        shape = (1, text.num_key_value_heads, length, text.head_dim_of(layer))
        outputs += [TensorSpec(f"K{number}", shape), TensorSpec(f"V{number}", shape)]
    if span.emits_shared_kv:
        outputs += shared_kv_specs(text, length, length)
    return FunctionSpec(name, inputs, tuple(outputs))


def batch_spec(text: TextConfig, span: ChunkSpan, context: int, length: int, *, logits: bool = False) -> FunctionSpec:
    """`length` more positions of a prompt after those in the caches: caches in, only the new positions out.

    Sliding layers attend to the cache and the new positions, `window + length` columns: the cache alone would have
    lost what the first position of the batch still sees. The rest is as in `verify_qK`, so the engine keeps the new
    rows the same way, and only those that are real when the batch is not full; the head's outputs are as in decode.
    """
    columns = text.sliding_window + length
    masks = [
        TensorSpec("causal_mask_full", (1, 1, length, context)),
        TensorSpec("causal_mask_sliding", (1, 1, length, columns)),
    ]
    if span.sliding or span.full:
        masks.append(TensorSpec("update_indicator", (1, 1, context, length)))
    inputs = call_inputs(text, span, length, tuple(masks)) + cache_specs(text, span, context, "_in")
    if span.takes_shared_kv:
        inputs += shared_kv_specs(text, columns, context)
    name = prefill_name(length)
    if span.has_head:
        inputs += (TensorSpec("last_position_mask", (1, length, 1)),)
        hidden = TensorSpec("hidden_states_out", (1, 1, text.hidden_size))
        return FunctionSpec(name, inputs, (*_next_token_specs(text, logits=logits), hidden))
    outputs = [TensorSpec("hidden_states_out", (1, length, text.hidden_size))]
    if span.computes_ple:
        outputs.append(TensorSpec("per_layer_combined_out", (1, length, text.per_layer_width)))
    outputs += slice_specs(text, span, length)
    if span.emits_shared_kv:
        outputs += shared_kv_specs(text, columns, context)
    return FunctionSpec(name, inputs, tuple(outputs))


def _next_token_specs(text: TextConfig, *, logits: bool) -> tuple[TensorSpec, ...]:
    token = (TensorSpec("token_id", (1,), "int32"), TensorSpec("token_logit", (1,)))
    return (*token, logits_spec(text, 1)) if logits else token
