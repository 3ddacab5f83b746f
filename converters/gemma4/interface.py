"""Inputs and outputs of the text chunks' functions: names, shapes and dtypes, computed from the config.

These names are the contract with the app's engine. `kv13_*` and `kv14_*` are historical: they carry the keys and
values of the last own-KV sliding and full layer, whichever those are (22 and 23 in E4B). Nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from converters.gemma4.config import TextConfig
from converters.signature import FunctionSpec, TensorSpec

MAIN = "main"
DECODE = "decode_q1"
VERIFY = "verify_qK"
"""Function names: of a model with one function only, and those that the engine asks for; the K is literal."""

SHARED_KV = ("kv13_k", "kv13_v", "kv14_k", "kv14_v")


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """A range of layers and what follows from it.

    Attributes:
        start: first layer.
        end: one past the last layer.
        sliding: own-KV sliding layers in slot order.
        full: own-KV full-attention layers in slot order.
        computes_ple: turns `per_layer_raw` into `per_layer_combined_out` (the first chunk).
        emits_shared_kv: holds the KV producers and hands their caches on.
        takes_shared_kv: holds sharing layers but not the producers.
        has_head: holds the final norm and the LM head.
    """

    start: int
    end: int
    sliding: tuple[int, ...]
    full: tuple[int, ...]
    computes_ple: bool
    emits_shared_kv: bool
    takes_shared_kv: bool
    has_head: bool


def chunk_span(text: TextConfig, start: int, end: int) -> ChunkSpan:
    """Work out the role of the layers `[start, end)`."""
    sliding, full = text.own_kv_layers(start, end)
    emits = all(start <= producer < end for producer in text.kv_producers)
    return ChunkSpan(
        start=start,
        end=end,
        sliding=sliding,
        full=full,
        computes_ple=start == 0,
        emits_shared_kv=emits,
        takes_shared_kv=end > text.first_shared_layer and not emits,
        has_head=end == text.num_hidden_layers,
    )


def cache_specs(text: TextConfig, span: ChunkSpan, context: int, suffix: str) -> tuple[TensorSpec, ...]:
    """`K/V_sliding*` and `K/V_full*`; sliding heads are padded to the global head width."""
    heads, width = text.num_key_value_heads, text.global_head_dim
    groups = (("sliding", len(span.sliding), text.sliding_window), ("full", len(span.full), context))
    return tuple(
        TensorSpec(f"{letter}_{kind}{suffix}", (slots, heads, length, width))
        for kind, slots, length in groups
        if slots
        for letter in "KV"
    )


def shared_kv_specs(text: TextConfig, window: int, context: int) -> tuple[TensorSpec, ...]:
    """`kv13_*` of `window` positions and `kv14_*` of `context` positions."""
    heads = text.num_key_value_heads
    sliding = (1, heads, window, text.head_dim)
    full = (1, heads, context, text.global_head_dim)
    return tuple(
        TensorSpec(name, shape) for name, shape in zip(SHARED_KV, (sliding, sliding, full, full), strict=True)
    )


def slice_specs(text: TextConfig, span: ChunkSpan, length: int) -> tuple[TensorSpec, ...]:
    """New keys and values of `length` positions, unpadded, in slot order."""
    heads = text.num_key_value_heads
    groups = (("sliding", len(span.sliding), text.head_dim), ("full", len(span.full), text.global_head_dim))
    return tuple(
        TensorSpec(f"new_{letter}_{kind}", (slots, heads, length, width))
        for kind, slots, width in groups
        if slots
        for letter in "KV"
    )


def call_inputs(
    text: TextConfig, span: ChunkSpan, length: int, masks: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    """What every call of a chunk with `length` positions takes: hidden states, masks, per-layer inputs, RoPE rows."""
    sliding, full = text.head_dim, text.global_head_dim
    per_layer = "per_layer_raw" if span.computes_ple else "per_layer_combined"
    return (
        TensorSpec("hidden_states", (1, length, text.hidden_size)),
        *masks,
        TensorSpec(per_layer, (1, length, text.per_layer_width)),
        TensorSpec("cos_s", (1, 1, length, sliding)),
        TensorSpec("sin_s", (1, 1, length, sliding)),
        TensorSpec("cos_f", (1, 1, length, full)),
        TensorSpec("sin_f", (1, 1, length, full)),
    )


def logits_spec(text: TextConfig, length: int) -> TensorSpec:
    """Softcapped logits of every position; an extra output of a head's variant."""
    return TensorSpec("logits", (1, length, text.vocab_size))


def _cached_inputs(
    text: TextConfig, span: ChunkSpan, context: int, length: int, write: TensorSpec | None, rows: int
) -> tuple[TensorSpec, ...]:
    masks = (
        TensorSpec("causal_mask_full", (1, 1, length, context)),
        TensorSpec("causal_mask_sliding", (1, 1, length, text.sliding_window)),
        *((write,) if write else ()),
    )
    caches = cache_specs(text, span, context, "_in")
    shared = shared_kv_specs(text, rows, context) if span.takes_shared_kv else ()
    return call_inputs(text, span, length, masks) + caches + shared


def decode_spec(
    text: TextConfig, span: ChunkSpan, context: int, name: str = DECODE, *, logits: bool = False
) -> FunctionSpec:
    """One token: caches in, caches out. With `logits`, a head also gives those.

    `update_mask` is an input of every chunk, also of those that write no cache: the engine passes it to all.
    """
    hidden = TensorSpec("hidden_states_out", (1, 1, text.hidden_size))
    outputs: tuple[TensorSpec, ...]
    if span.has_head:
        outputs = (TensorSpec("token_id", (1,), "int32"), TensorSpec("token_logit", (1,)), hidden)
        outputs += (logits_spec(text, 1),) if logits else ()
    else:
        outputs = (hidden, *cache_specs(text, span, context, "_out"))
        if span.computes_ple:
            outputs += (TensorSpec("per_layer_combined_out", (1, 1, text.per_layer_width)),)
        if span.emits_shared_kv:
            outputs += shared_kv_specs(text, text.sliding_window, context)
    update_mask = TensorSpec("update_mask", (1, 1, context, 1))
    return FunctionSpec(name, _cached_inputs(text, span, context, 1, update_mask, text.sliding_window), outputs)


def verify_spec(
    text: TextConfig,
    span: ChunkSpan,
    context: int,
    length: int,
    name: str = VERIFY,
    *,
    logits: bool = False,
    exact: bool = True,
) -> FunctionSpec:
    """`length` drafted tokens at once: caches in, only the new positions out. With `logits`, a head also gives those.

    The engine commits the accepted prefix of the `new_*` slices itself. `kv13_*` and `kv14_*` include all
    drafted positions and live for this one call.

    Args:
        text: the text configuration.
        span: the chunk.
        context: rows of the full caches.
        length: K.
        name: of the function.
        logits: with a head, also give every position's logits.
        exact: `kv13_*` have the `sliding_window + K - 1` rows that K queries see together; else `sliding_window`.
    """
    rows = text.sliding_window + (length - 1 if exact else 0)
    hidden = TensorSpec("hidden_states_out", (1, length, text.hidden_size))
    outputs: tuple[TensorSpec, ...]
    if span.has_head:
        outputs = (TensorSpec("token_ids", (1, length), "int32"), hidden)
        outputs += (logits_spec(text, length),) if logits else ()
    else:
        combined = TensorSpec("per_layer_combined_out", (1, length, text.per_layer_width))
        outputs = (hidden, *((combined,) if span.computes_ple else ()), *slice_specs(text, span, length))
        if span.emits_shared_kv:
            outputs += shared_kv_specs(text, rows, context)
    owns = bool(span.sliding or span.full)
    indicator = TensorSpec("update_indicator", (1, 1, context, length)) if owns else None
    return FunctionSpec(name, _cached_inputs(text, span, context, length, indicator, rows), outputs)
