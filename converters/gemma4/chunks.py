"""The text model in chunks: modules for tracing, one per Core ML function.

A `TextChunk` holds the weights of a layer range. `decode` is a way to call it; others, over the same weights, are in
`verify.py` and `batches.py`. `ChunkFunction` makes any of them traceable. Which inputs and outputs there are says
`interface.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.gemma4.config import TextConfig
from converters.gemma4.interface import SHARED_KV, ChunkSpan
from converters.gemma4.layers import (
    CONVOLUTION,
    KeyValue,
    LayerShape,
    Layout,
    Projection,
    RMSNorm,
    TextLayer,
    grouped_mask,
    prepare_rotary,
)
from converters.gemma4.tensors import (
    FINAL_NORM,
    PLE_NORM,
    PLE_PROJECTION,
    TEXT,
    head_tensor,
    layer_shapes,
)
from converters.signature import FunctionSpec

Named = Mapping[str, Tensor]
Read = Callable[[str], Tensor]
"""Reads one checkpoint tensor by canonical name, in the dtype the modules shall work in."""


class PerLayerInputs(nn.Module):
    """Combines the per-layer token embedding with a projection of the input embedding.

    `(norm(proj(h) * hidden^-0.5) + raw) * 2^-0.5`, norm per layer slice (`project_per_layer_inputs` in
    transformers).
    """

    def __init__(self, text: TextConfig, read: Read, layout: Layout = CONVOLUTION) -> None:
        super().__init__()
        self.layout = layout
        self.projection = Projection(read(PLE_PROJECTION), layout)
        self.norm = RMSNorm(read(PLE_NORM), text.rms_norm_eps)
        self.layers = text.num_hidden_layers
        self.width = text.hidden_size_per_layer_input
        # tensors, not numbers: coremltools takes a Python number for float32 and would drag all that follows along
        dtype = self.norm.weight.dtype
        self.projection_scale = nn.Parameter(torch.tensor([text.hidden_size**-0.5], dtype=dtype), False)
        self.input_scale = nn.Parameter(torch.tensor([2.0**-0.5], dtype=dtype), False)

    def forward(self, hidden: Tensor, raw: Tensor, length: int) -> Tensor:
        """`hidden` `(1, 1, S, H)` and `raw` `(1, 1, S, layers * width)`, already scaled, to the shape of `raw`."""
        projected = self.layout.leave(self.projection(self.layout.enter(hidden))) * self.projection_scale
        normed = self.norm(projected.reshape(1, length, self.layers, self.width))
        combined: Tensor = (normed.reshape(1, 1, length, self.layers * self.width) + raw) * self.input_scale
        return combined


class Head(nn.Module):
    """Final norm and LM head."""

    def __init__(self, text: TextConfig, read: Read, layout: Layout = CONVOLUTION) -> None:
        super().__init__()
        self.layout = layout
        self.norm = RMSNorm(read(FINAL_NORM), text.rms_norm_eps)
        self.lm_head = Projection(read(head_tensor(text)), layout)
        self.softcap = text.final_logit_softcapping

    def capped(self, logits: Tensor) -> Tensor:
        """Final logit softcapping; the identity when the config has none."""
        if not self.softcap:
            return logits
        return torch.tanh(logits / self.softcap) * self.softcap

    def next_token(self, normed: Tensor) -> dict[str, Tensor]:
        """What a head can say of one position `(1, 1, 1, H)` after the norm; the function's spec picks.

        The token is the argmax of the raw logits: softcapping is monotone, and in float16 it would merge large
        logits that still differ. `token_logit` is the winner's alone, softcapped, `logits` are all, softcapped.
        """
        logits, axis = self.lm_head(self.layout.enter(normed)), self.layout.axis
        return {
            "token_id": logits.argmax(dim=axis).reshape(1).to(torch.int32),
            "token_logit": self.capped(logits.amax(dim=axis)).reshape(1),
            "logits": self.capped(self.layout.leave(logits)).squeeze(0),
        }


class TextChunk(nn.Module):
    """The weights of the layers `[span.start, span.end)`, with the per-layer inputs or the head where due."""

    def __init__(self, text: TextConfig, span: ChunkSpan, read: Read, layout: Layout = CONVOLUTION) -> None:
        super().__init__()
        self.text = text
        self.span = span
        self.layout = layout
        self.per_layer_inputs = PerLayerInputs(text, read, layout) if span.computes_ple else None
        self.layers = nn.ModuleDict(
            {str(layer): _layer(text, layer, read, layout) for layer in range(span.start, span.end)}
        )
        self.head = Head(text, read, layout) if span.has_head else None


def _layer(text: TextConfig, layer: int, read: Read, layout: Layout) -> TextLayer:
    shape = LayerShape(
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim_of(layer),
        is_full=text.is_full(layer),
        owns_kv=not text.is_shared(layer),
        eps=text.rms_norm_eps,
    )
    weights = {name: read(f"{TEXT}layers.{layer}.{name}") for name in layer_shapes(text, layer)}
    return TextLayer(shape, weights, layout)


Keep = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""What becomes of a layer's new keys and values, both `(1, heads, S, d)`: called with the layer's index, stores them
and returns the keys and values `(1, heads, C, d)` that the layer attends to."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a chunk.

    Attributes:
        tensors: inputs by name.
        length: S, how many positions are run.
        keep: called for each layer with its own keys and values.
        sliding_mask: what sliding layers add to their scores, `(1, 1, S, C)`.
        full_mask: the same of full-attention layers.
    """

    tensors: Named
    length: int
    keep: Keep
    sliding_mask: Tensor
    full_mask: Tensor


@dataclass(frozen=True, slots=True)
class Result:
    """What the layers of a chunk compute.

    Attributes:
        hidden: `(1, 1, S, H)`.
        combined: per-layer inputs of all layers, `(1, 1, S, P)`.
        shared: `kv13_k`, `kv13_v`, `kv14_k`, `kv14_v`: what the producers attend to, where known in this chunk.
    """

    hidden: Tensor
    combined: Tensor
    shared: dict[str, Tensor]

    def named(self) -> dict[str, Tensor]:
        """Everything that a chunk without a head could output of it, by name; the function's spec picks."""
        outputs = {"hidden_states_out": self.hidden.squeeze(0), "per_layer_combined_out": self.combined.squeeze(0)}
        return outputs | self.shared


def run_layers(chunk: TextChunk, call: Call) -> Result:
    """Run every layer of the chunk; where keys and values come from and go to is the call's business."""
    text, t, length = chunk.text, call.tensors, call.length
    width = text.hidden_size_per_layer_input
    hidden = t["hidden_states"].unsqueeze(0)
    if chunk.per_layer_inputs is not None:
        combined = chunk.per_layer_inputs(hidden, t["per_layer_raw"].unsqueeze(0), length)
    else:
        combined = t["per_layer_combined"].unsqueeze(0)
    per_layer = chunk.layout.enter(combined)
    sliding = prepare_rotary(t["cos_s"], t["sin_s"], text.head_dim)
    full = prepare_rotary(t["cos_f"], t["sin_f"], text.global_head_dim)
    shared = {name: t[name] for name in SHARED_KV if name in t}
    groups = text.num_attention_heads // text.num_key_value_heads
    full_mask = grouped_mask(call.full_mask, groups, length)
    sliding_mask = grouped_mask(call.sliding_mask, groups, length)
    for index in range(chunk.span.start, chunk.span.end):
        layer = chunk.layers[str(index)]
        assert isinstance(layer, TextLayer)
        is_full = text.is_full(index)
        rotary, mask = (full, full_mask) if is_full else (sliding, sliding_mask)
        name = "kv14" if is_full else "kv13"
        channels = layer.normalized_input(hidden)
        if text.is_shared(index):
            key, value = shared[f"{name}_k"], shared[f"{name}_v"]
        else:
            key, value = call.keep(index, *layer.project_kv(channels, rotary, length))
            if index in text.kv_producers:
                shared |= {f"{name}_k": key, f"{name}_v": value}
        hidden = layer.attention(hidden, channels, rotary, KeyValue(key, value, length), mask)
        hidden = layer.feed_forward(hidden, chunk.layout.channels(per_layer, index * width, (index + 1) * width))
    return Result(hidden, combined, shared)


WriteFull = Callable[[Tensor, Tensor], Tensor]
"""Merges new rows `(1, heads, S, d)` into a full-attention cache slot `(1, heads, context, d)`."""

Caches = dict[str, list[Tensor]]
"""What the own-KV layers of one call leave behind, in slot order: by `K_sliding`, `V_full` and so on."""


def _keep_in(chunk: TextChunk, t: Named, caches: Caches, write_full: WriteFull) -> Keep:
    """Write a token's keys and values to the cache slots given as inputs, `*_in`.

    Args:
        chunk: the chunk.
        t: inputs by name.
        caches: receives the slots.
        write_full: see `WriteFull`.
    """
    text = chunk.text

    def keep(index: int, *projected: Tensor) -> tuple[Tensor, Tensor]:
        is_full, head_dim = text.is_full(index), text.head_dim_of(index)
        kind = "full" if is_full else "sliding"
        slots = chunk.span.full if is_full else chunk.span.sliding
        position = slots.index(index)
        padding = text.global_head_dim - head_dim
        visible: list[Tensor] = []
        for letter, new in zip("KV", projected, strict=True):
            cache = t[f"{letter}_{kind}_in"]
            # the cast does nothing in torch; coremltools pads in float32 and would drag all that follows along
            padded = F.pad(new, (0, padding)).to(new.dtype) if padding > 0 else new
            if is_full:
                updated = write_full(cache[position : position + 1], padded)
            else:  # right-aligned: the oldest row goes, the new one comes last
                updated = torch.cat([cache[position : position + 1, :, 1:], padded], dim=2)
            caches.setdefault(f"{letter}_{kind}", []).append(updated)
            visible.append(updated[..., :head_dim] if padding > 0 else updated)
        return visible[0], visible[1]

    return keep


def decode(chunk: TextChunk, t: Named, length: int = 1) -> dict[str, Tensor]:
    """One token. `update_mask` `(1, 1, context, 1)` is 1 at the position being written, else 0.

    With a head, the hidden states that come out are the normed ones.
    """
    keep = 1 - t["update_mask"]

    def write(slot: Tensor, new: Tensor) -> Tensor:
        return slot * keep + new * t["update_mask"]

    caches: Caches = {}
    keep_in = _keep_in(chunk, t, caches, write)
    result = run_layers(chunk, Call(t, length, keep_in, t["causal_mask_sliding"], t["causal_mask_full"]))
    if chunk.head is not None:
        normed = chunk.head.norm(result.hidden)
        return chunk.head.next_token(normed) | {"hidden_states_out": normed.squeeze(0)}
    return result.named() | {f"{name}_out": torch.cat(slots, dim=0) for name, slots in caches.items()}


def indicated_write(chunk: TextChunk, indicator: Tensor) -> WriteFull:
    """Writes rows where `update_indicator` `(1, 1, context, S)` says: one-hot columns; an empty one writes nothing."""
    keep = 1 - indicator.sum(dim=-1, keepdim=True)
    heads = chunk.text.num_key_value_heads
    scatter = indicator.expand(1, heads, -1, -1) if heads > 1 else indicator

    def write(slot: Tensor, new: Tensor) -> Tensor:
        return slot * keep + scatter @ new

    return write


Body = Callable[[TextChunk, Named, int], dict[str, Tensor]]


class ChunkFunction(nn.Module):
    """A chunk and a way to call it, with positional inputs and outputs in the order of its spec."""

    def __init__(self, chunk: TextChunk, body: Body, spec: FunctionSpec) -> None:
        super().__init__()
        self.chunk = chunk
        self.body = body
        self.spec = spec

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the function on inputs in `spec.inputs` order; outputs in `spec.outputs` order."""
        named = {spec.name: tensor for spec, tensor in zip(self.spec.inputs, inputs, strict=True)}
        length = self.spec.inputs[0].shape[1]
        outputs = self.body(self.chunk, named, length)
        return tuple(outputs[spec.name] for spec in self.spec.outputs)
