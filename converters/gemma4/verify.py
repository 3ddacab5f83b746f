"""Drafted tokens checked at once: the function `verify_qK` of the decode chunks.

The first of K queries sees a whole window back, the last one K - 1 positions further, so together they see
`sliding_window + K - 1` rows. The known interface has `sliding_window`: its first queries lose the oldest rows of
their window. Worse, the app makes its sliding mask as if each query's own row were the last one, so that every query
sees the drafts after it, also inside the first window. What a draft is checked against is then not the model.

Here the sliding mask is computed from the full one, which the app makes right, and no row is lost.
`causal_mask_sliding` stays an input that decides nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from converters.gemma4.batches import LOWEST, keep_new
from converters.gemma4.chunks import Body, Caches, Call, Named, TextChunk, run_layers
from converters.gemma4.layers import from_channels, to_channels


def verify_body(*, exact: bool) -> Body:
    """The way to call a chunk with K drafts: as in transformers, or with the known interface."""
    return exact_verify if exact else legacy_verify


def exact_verify(chunk: TextChunk, t: Named, length: int) -> dict[str, Tensor]:
    """`update_indicator` says to which rows of the full caches the drafts go.

    The oldest row of the sliding caches is out of every query's window.
    """
    return _verify(chunk, t, length, 1, sliding_mask(t["causal_mask_full"], chunk.text.sliding_window, length))


def legacy_verify(chunk: TextChunk, t: Named, length: int) -> dict[str, Tensor]:
    """The same with as many rows less as there are drafts.

    The sliding cache is right-aligned to the *last* drafted token, so its column `c` is position `p + K - window + c`
    for every query, and the caller's mask must say so. The new keys and values to commit are not affected in layer 0.
    """
    return _verify(chunk, t, length, length, t["causal_mask_sliding"])


def sliding_mask(full: Tensor, window: int, length: int) -> Tensor:
    """What sliding layers add to their scores, `(1, 1, K, window - 1 + K)`, for rows of the cache and drafts.

    Column c is position `p - window + 1 + c` for the first draft's position p. Query q sees columns q to
    `q + window - 1`, of those before the first draft only such that are there: `p >= window - 1 - c`, which is whether
    the first query sees that position. By way of 1 for visible and 0 for hidden, which a band keeps or clears; no
    constant as large as the mask, which would be stored with the weights.

    Args:
        full: `causal_mask_full`, `(1, 1, K, context)`: 0, or something very low.
        window: rows of the sliding caches.
        length: K.
    """
    first = torch.exp(full[:, :, :1])
    there = torch.cat([first[..., 1:window].flip(-1), first[..., :1].expand(-1, -1, -1, length)], dim=-1)
    visible = torch.tril(torch.triu(there.expand(-1, -1, length, -1)), diagonal=window - 1)
    # A whole number: coremltools 9.0 takes others for float32, and with them all that follows, weights included.
    return (visible - 1) * int(-LOWEST)


def _verify(chunk: TextChunk, t: Named, length: int, left_out: int, sliding: Tensor) -> dict[str, Tensor]:
    """Nothing is committed: the caller writes the accepted ones of the new rows to its caches.

    With a head, the hidden states that come out are the ones before the final norm.
    """
    new: Caches = {}
    call = Call(t, length, keep_new(chunk, t, left_out, new), sliding, t["causal_mask_full"])
    result = run_layers(chunk, call)
    if chunk.head is None:
        return result.named() | {name: torch.cat(rows, dim=0) for name, rows in new.items()}
    logits = chunk.head.lm_head(to_channels(chunk.head.norm(result.hidden)))  # (1, V, 1, K)
    return {
        "token_ids": logits.argmax(dim=1).squeeze(0).to(torch.int32),
        "logits": chunk.head.capped(from_channels(logits)).squeeze(0),
        "hidden_states_out": result.hidden.squeeze(0),
    }
