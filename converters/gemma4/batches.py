"""Ways to call a text chunk with several positions of a prompt: without caches, or after those in the caches.

Which inputs and outputs there are says `prefill_interface.py`. The chunk with the head is asked for one token only, so
it runs only that position: its layers read keys and values of earlier chunks, and nothing else crosses positions.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from converters.gemma4.chunks import Body, Caches, Call, Keep, Named, TextChunk, indicated_write, run_layers
from converters.gemma4.prefill_interface import LEGACY, SEPARATE, non_producers

LOWEST = -65504.0
"""The lowest finite float16: what hides a position. The app's masks may hold minus infinity."""

ROPE = ("cos_s", "sin_s", "cos_f", "sin_f")


def prefill_body(masks: str) -> Body:
    """`prefill` with one of `MASKS`."""
    return partial(_prefill, masks)


def _prefill(masks: str, chunk: TextChunk, t: Named, length: int) -> dict[str, Tensor]:
    """The first `length` positions of a prompt, which attend to each other."""
    window, full_mask = chunk.text.sliding_window, t["causal_mask"]
    sliding_mask = t["causal_mask_sliding"] if masks == SEPARATE else full_mask
    if masks not in (SEPARATE, LEGACY) and length > window:
        sliding_mask = _within(full_mask, window)
    new: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        new[index] = key, value
        return key, value

    call = Call(t, length, keep, sliding_mask, full_mask)
    if chunk.head is not None:
        return _next_token(chunk, call)
    outputs = run_layers(chunk, call).named()
    for number, layer in enumerate(non_producers(chunk.text, chunk.span)):
        outputs[f"K{number}"], outputs[f"V{number}"] = new[layer]
    return outputs


def batch(chunk: TextChunk, t: Named, length: int) -> dict[str, Tensor]:
    """`length` positions of a prompt after those in the caches.

    `update_indicator` says to which rows of the full caches they go. In the columns of the sliding mask the cache,
    right-aligned to the last position before the batch, comes before the new positions.
    """
    new: Caches = {}
    keep = keep_new(chunk, t, 0, new)
    call = Call(t, length, keep, t["causal_mask_sliding"], t["causal_mask_full"])
    if chunk.head is not None:
        return _next_token(chunk, call)
    return run_layers(chunk, call).named() | {name: torch.cat(rows, dim=0) for name, rows in new.items()}


def keep_new(chunk: TextChunk, t: Named, left_out: int, new: Caches) -> Keep:
    """Let layers attend to their cache, given as an input `*_in`, and to the call's rows, which only come out.

    Args:
        chunk: the chunk.
        t: inputs by name. `update_indicator` says to which rows of the full caches the call's rows go.
        left_out: how many of the oldest rows of the sliding caches no query sees.
        new: receives the call's rows, by `new_K_sliding` and so on.
    """
    text, indicator = chunk.text, t.get("update_indicator")
    write = indicated_write(chunk, indicator) if indicator is not None else None

    def keep(index: int, *projected: Tensor) -> tuple[Tensor, Tensor]:
        is_full, head_dim = text.is_full(index), text.head_dim_of(index)
        kind, slots = ("full", chunk.span.full) if is_full else ("sliding", chunk.span.sliding)
        position = slots.index(index)
        visible: list[Tensor] = []
        for letter, rows in zip("KV", projected, strict=True):
            new.setdefault(f"new_{letter}_{kind}", []).append(rows)
            slot = t[f"{letter}_{kind}_in"][position : position + 1, :, 0 if is_full else left_out :, :head_dim]
            if is_full:
                assert write is not None
                visible.append(write(slot, rows))
            else:
                visible.append(torch.cat([slot, rows], dim=2))
        return visible[0], visible[1]

    return keep


def _within(mask: Tensor, window: int) -> Tensor:
    """A mask `(1, 1, N, N)` that also hides what is `window` or more positions back.

    By way of 1 for visible and 0 for hidden, which a band keeps or clears; no constant as large as the mask, which
    would be stored with the weights.
    """
    visible = torch.triu(torch.exp(mask), diagonal=1 - window)
    return (visible - 1) * int(-LOWEST)  # whole, as in `converters.gemma4.verify`


def _next_token(chunk: TextChunk, call: Call) -> dict[str, Tensor]:
    """What follows the position that `last_position_mask` `(1, S, 1)` marks with a one."""
    assert chunk.head is not None
    t, length = call.tensors, call.length
    pick = t["last_position_mask"].reshape(1, 1, 1, length)

    def mask_row(mask: Tensor) -> Tensor:
        return pick @ torch.clamp(mask, LOWEST, 0)  # 0 times minus infinity is not a number

    tensors = dict(t) | {name: pick @ t[name] for name in ROPE}
    for name in ("hidden_states", "per_layer_combined"):
        tensors[name] = (pick @ t[name].unsqueeze(0)).squeeze(0)
    result = run_layers(chunk, Call(tensors, 1, call.keep, mask_row(call.sliding_mask), mask_row(call.full_mask)))
    normed = chunk.head.norm(result.hidden)
    return chunk.head.next_token(normed) | {"hidden_states_out": normed.squeeze(0)}
