"""The text chunks with their keys and values in Core ML state: modules for tracing, one per function.

A `StatefulFunction` runs a `TextChunk` on one or several tokens. Its states are torch buffers that it writes in
place, which coremltools turns into state updates. Functions of one chunk are given the same buffers.

Sliding layers keep a ring: position p lies in slot `p % sliding_window`. With one token per call the order of its
rows does not matter, for RoPE is applied before rows are written. A batch of T tokens overwrites T rows of which its
own first queries still need some, so sliding layers attend to the ring as it was before and to the new rows, and a
mask computed from the caller's picks for each query, slot by slot, the row that lay there when that query would have
had its turn (`_attended_masks`). A batch must not wrap: `ring_pos + T <= sliding_window`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.gemma4.chunks import Call, Named, TextChunk, run_layers
from converters.gemma4.stateful_interface import EXACT, FULL_STATE, SLIDING_STATE
from converters.signature import FunctionSpec

HIDDEN = -65504.0
"""What hides a score: the lowest finite float16, as in the app's masks."""

VISIBLE_ABOVE = -1.0
"""A mask's values are 0 or far below."""


def empty_states(spec: FunctionSpec, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The states that a function's model has before its first call."""
    return {item.name: torch.zeros(item.shape, dtype=dtype) for item in spec.states}


class _Batch(nn.Module):
    """What sliding layers see in a call of T tokens on a ring of W rows.

    Constants are tensors, because coremltools takes Python numbers for float32 or int64 and would drag what follows
    along, and of one dimension, for they are part of the program: the weight file is that of the other functions.
    """

    def __init__(self, window: int, length: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.window, self.length = window, length

        def constant(values: Tensor | list[float], kind: torch.dtype = torch.int32) -> nn.Parameter:
            return nn.Parameter(torch.as_tensor(values, dtype=kind), False)

        self.hidden = constant([HIDDEN], dtype)
        self.rows, self.slots = constant(torch.arange(length)), constant(torch.arange(window))
        self.row = constant(torch.arange(length)[:, None])
        self.row_after = constant(torch.arange(length, 2 * length)[:, None])
        self.last_row, self.end, self.end_after = constant([length - 1]), constant([length]), constant([2 * length])
        self.from_new = constant(torch.arange(window + length) - (window - length))
        self.full_at = constant([window])

    def was_full(self, current: Tensor) -> Tensor:
        """Whether the ring was full before the call, `(1)`."""
        return current >= self.full_at

    def own_mask(self, mask: Tensor, current: Tensor, ring: Tensor) -> Tensor:
        """The mask `(1, 1, T, W + T)` of the ring before the call, slot by slot, and the new rows.

        Query i sees new rows up to its own. Of the ring it sees what the caller shows, without the slots that the
        batch has overwritten by then: up to its own if the ring was full, else all of them, as these held nothing.

        Args:
            mask: the caller's `causal_mask_sliding`.
            current: `current_pos`.
            ring: `ring_pos`.
        """
        limit = torch.where(self.was_full(current), self.row, self.last_row)
        from_batch = self.slots - ring
        overwritten = (from_batch >= 0) & (from_batch <= limit)
        new = mask.index_select(3, self.rows + ring)
        later = self.rows > limit
        return torch.cat([torch.minimum(mask, self.hide(overwritten)), torch.minimum(new, self.hide(later))], dim=-1)

    def hide(self, where: Tensor) -> Tensor:
        """0 or `HIDDEN`. Not `torch.where`, of which coremltools makes constants as large as the result."""
        return where.to(self.hidden.dtype) * self.hidden

    def shared_mask(self, mask: Tensor) -> Tensor:
        """The mask `(1, 1, T, W + T)` of `kv13_*` as `arrange` leaves them.

        Positions are not an input of the chunks that need it. Whether the ring was full shows in the first query's
        row: then and only then it sees the last slot.
        """
        full = mask[:, :, :1, self.window - 1 :] > VISIBLE_ABOVE
        last_new = torch.where(full, self.row, self.end)
        last_gone = torch.where(full, self.row_after, self.end_after)
        later = (self.from_new > last_new) & (self.from_new < self.length)
        gone = (self.from_new <= last_gone) & (self.from_new >= self.length)
        given = torch.cat([mask, mask[:, :, :, : self.length]], dim=-1)
        shown = torch.maximum(given, self.hide(torch.logical_not(full)))
        return torch.minimum(shown, self.hide(torch.logical_or(later, gone)))

    def replaced(self, slot: Tensor, ring: Tensor) -> Tensor:
        """The T rows `(1, heads, T, d)` of a slot `(1, heads, W, d)` that the call is going to overwrite."""
        return slot.index_select(2, self.rows + ring)

    def arrange(self, slot: Tensor, replaced: Tensor, current: Tensor, ring: Tensor) -> Tensor:
        """A producer's rows `(1, heads, W + T, d)` for chunks that do not know the position.

        While the ring fills, slot by slot, as the caller's mask has them. Once it was full, in an order that needs no
        position to mask: rows older than the batch, the batch, and the rows that the batch has replaced.
        """
        shift = (ring + self.end) * self.was_full(current).to(torch.int32)
        turned = torch.cat([slot, slot], dim=2).index_select(2, self.slots + shift)
        return torch.cat([turned, replaced], dim=2)


class StatefulFunction(nn.Module):
    """A chunk and its states as one function, with positional inputs and outputs in the order of its spec."""

    def __init__(self, chunk: TextChunk, spec: FunctionSpec, states: Mapping[str, Tensor], variant: str) -> None:
        """Bind a chunk to its states.

        Args:
            chunk: the weights.
            spec: inputs, outputs and states.
            states: buffers by name, in the dtype of the weights; written in place.
            variant: see `converters.gemma4.stateful_interface.VARIANTS`.
        """
        super().__init__()
        self.chunk = chunk
        self.spec = spec
        self.length = spec.inputs[0].shape[1]
        self.window = chunk.text.sliding_window
        self.exact = variant == EXACT and self.length > 1
        for item in spec.states:
            self.register_buffer(item.name, states[item.name])
        if self.exact:
            self.batch = _Batch(self.window, self.length, next(chunk.parameters()).dtype)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the function on inputs in `spec.inputs` order; outputs in `spec.outputs` order."""
        t = {item.name: tensor for item, tensor in zip(self.spec.inputs, inputs, strict=True)}
        mask = t["causal_mask_sliding"]
        if self.exact and self.spec.states:
            mask = self.batch.own_mask(mask, t["current_pos"], t["ring_pos"])
        elif self.exact:
            mask = self.batch.shared_mask(mask)
        outputs = self._run(t, mask) if self.chunk.head is None else self._next_token(t, mask)
        return tuple(outputs[item.name] for item in self.spec.outputs)

    def _run(self, t: Named, sliding_mask: Tensor) -> dict[str, Tensor]:
        rows = _Rows(self, t)
        result = run_layers(self.chunk, Call(t, self.length, rows.keep, sliding_mask, t["causal_mask_full"]))
        return {
            "hidden_states_out": result.hidden.squeeze(0),
            "per_layer_combined_out": result.combined.squeeze(0),
            **result.shared,
            **rows.emitted,
        }

    def _next_token(self, t: Named, sliding_mask: Tensor) -> dict[str, Tensor]:
        """What follows the last token of the call. Nothing crosses positions in these layers, so only it is run."""
        head, last = self.chunk.head, self.length - 1
        assert head is not None
        rows = {name: t[name][:, last:] for name in ("hidden_states", "per_layer_combined")}
        rows |= {name: t[name][:, :, last:] for name in ("cos_s", "sin_s", "cos_f", "sin_f")}
        full_mask, keep = t["causal_mask_full"][:, :, last:], _Rows(self, t).keep
        result = run_layers(self.chunk, Call(dict(t) | rows, 1, keep, sliding_mask[:, :, last:], full_mask))
        normed = head.norm(result.hidden)
        return head.next_token(normed) | {"hidden_normed": normed.squeeze(0)}


class _Rows:
    """What one call does to the states."""

    def __init__(self, function: StatefulFunction, t: Named) -> None:
        self.function = function
        self.t = t
        self.emitted: dict[str, Tensor] = {}

    def keep(self, index: int, *projected: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values to its slots; return what the layer attends to."""
        function, t = self.function, self.t
        text, is_full = function.chunk.text, function.chunk.text.is_full(index)
        layers = function.chunk.span.full if is_full else function.chunk.span.sliding
        state = function.get_buffer(FULL_STATE if is_full else SLIDING_STATE)
        start, length = t["current_pos" if is_full else "ring_pos"], function.length
        padding = text.global_head_dim - text.head_dim_of(index)
        visible: list[Tensor] = []
        for letter, slot, new in zip(
            "kv", (2 * layers.index(index), 2 * layers.index(index) + 1), projected, strict=True
        ):

            def read(slot: int = slot) -> Tensor:
                rows = state[slot : slot + 1]
                return rows[..., :-padding] if padding > 0 else rows

            # the cast does nothing in torch; coremltools pads in float32 and would drag all that follows along
            padded = F.pad(new, (0, padding)).to(new.dtype) if padding > 0 else new
            if is_full or not function.exact:
                state[slot : slot + 1, :, start : start + length] = padded
                visible.append(read())
                continue
            before = read()
            visible.append(torch.cat([before, new], dim=2))
            replaced = function.batch.replaced(before, t["ring_pos"]) if index in text.kv_producers else None
            state[slot : slot + 1, :, start : start + length] = padded
            if replaced is not None:
                arranged = function.batch.arrange(read(), replaced, t["current_pos"], t["ring_pos"])
                self.emitted[f"kv13_{letter}"] = arranged
        return visible[0], visible[1]
