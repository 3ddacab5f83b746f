"""The Gemma 4 decoder layer as the Neural Engine likes it: 4-D tensors and 1x1 convolutions, or linear layers.

Hidden states are `(1, 1, S, H)` between blocks. Inside them a `Layout` decides: `(1, H, 1, S)`, so that a projection
is a 1x1 convolution and each change of layout is one transpose, or `(1, S, H)`, so that it is a linear layer and
nothing moves. Every module works in the dtype of its weights: float32
to compare with transformers, float16 to convert. Sizes are plain numbers
from the config, never read off a tensor: under `torch.jit.trace` that would put shape arithmetic into the graph.

Formulas: `Gemma4TextDecoderLayer` in transformers 5.23 (attention scale 1.0, value norm without a weight,
gelu in its tanh form, per-layer input after the feed-forward block, then `layer_scalar`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one decoder layer looks like, independent of its weights.

    Attributes:
        heads: query heads.
        kv_heads: key/value heads; `heads` is a multiple of it.
        head_dim: width of one head in this layer.
        is_full: attends to the whole context, not to a sliding window.
        owns_kv: projects its own keys and values instead of reading a producer's.
        eps: epsilon of every RMS norm.
    """

    heads: int
    kv_heads: int
    head_dim: int
    is_full: bool
    owns_kv: bool
    eps: float


@dataclass(frozen=True, slots=True)
class KeyValue:
    """What `length` query positions attend to; see `TextLayer.attention`."""

    key: Tensor
    value: Tensor
    length: int


@dataclass(frozen=True, slots=True)
class Rotary:
    """RoPE rows for the positions of one call.

    Attributes:
        cos: `(1, 1, S, head_dim)`.
        signed_sin: `(1, 1, S, head_dim)` with the first half negated, so that rotating is a swap of halves
            and no negation is needed per layer.
    """

    cos: Tensor
    signed_sin: Tensor


def prepare_rotary(cos: Tensor, sin: Tensor, head_dim: int) -> Rotary:
    """Fold the sign of rotate-half into the sine rows, once per call."""
    half = head_dim // 2
    return Rotary(cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1))


def rotate(x: Tensor, rotary: Rotary, head_dim: int) -> Tensor:
    """Apply RoPE to `(1, heads, S, head_dim)`."""
    half = head_dim // 2
    swapped = torch.cat([x[..., half:], x[..., :half]], dim=-1)
    return x * rotary.cos + swapped * rotary.signed_sin


def rms_normalize(x: Tensor, width: int, eps: float) -> Tensor:
    """RMS norm over the last axis, of size `width`, without a weight.

    Written as a layer norm of `[x, -x]`: its mean is zero and its variance is the mean square of `x`. The
    squares stay inside one fused op, where float16 hardware accumulates wider; `x * x` on its own overflows
    float16 from |x| = 256, which Gemma's residual stream exceeds.
    """
    both = torch.cat([x, -x], dim=-1)
    return F.layer_norm(both, (2 * width,), eps=eps)[..., :width]


class RMSNorm(nn.Module):
    """RMS norm over the last axis with a weight (Gemma 4 multiplies by `w`, not by `1 + w`)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.width = weight.shape[0]
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(..., width)`."""
        return rms_normalize(x, self.width, self.eps) * self.weight


@dataclass(frozen=True, slots=True)
class Layout:
    """How the activations lie that projections work on.

    Attributes:
        axis: of the channels.
        weight: a checkpoint's matrix `(out, in)` as `project` wants it.
        project: the bias-free linear map of activations with such a weight.
        enter: `(1, 1, S, C)` to this layout.
        leave: back again.
        split_heads: activations, heads, head_dim, S; to `(1, heads, S, head_dim)`.
        merge_heads: the same, the other way round.
    """

    axis: int
    weight: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, Tensor], Tensor]
    enter: Callable[[Tensor], Tensor]
    leave: Callable[[Tensor], Tensor]
    split_heads: Callable[[Tensor, int, int, int], Tensor]
    merge_heads: Callable[[Tensor, int, int, int], Tensor]

    def channels(self, x: Tensor, start: int, end: int) -> Tensor:
        """The channels `[start, end)`."""
        return x[:, start:end] if self.axis == 1 else x[:, :, start:end]


def to_channels(x: Tensor) -> Tensor:
    """`(1, 1, S, C)` to `(1, C, 1, S)`."""
    return x.permute(0, 3, 1, 2)


def from_channels(x: Tensor) -> Tensor:
    """`(1, C, 1, S)` to `(1, 1, S, C)`."""
    return x.permute(0, 2, 3, 1)


def split_heads(x: Tensor, heads: int, head_dim: int, length: int) -> Tensor:
    """`(1, heads * head_dim, 1, S)` to `(1, heads, S, head_dim)`."""
    if length == 1:  # the transpose would move nothing
        return x.reshape(1, heads, 1, head_dim)
    return x.reshape(1, heads, head_dim, length).permute(0, 1, 3, 2)


def merge_heads(x: Tensor, heads: int, head_dim: int, length: int) -> Tensor:
    """`(1, heads, S, head_dim)` to `(1, heads * head_dim, 1, S)`."""
    if length == 1:
        return x.reshape(1, heads * head_dim, 1, 1)
    return x.permute(0, 1, 3, 2).reshape(1, heads * head_dim, 1, length)


def split_rows(x: Tensor, heads: int, head_dim: int, length: int) -> Tensor:
    """`(1, S, heads * head_dim)` to `(1, heads, S, head_dim)`."""
    if length == 1:
        return x.reshape(1, heads, 1, head_dim)
    return x.reshape(1, length, heads, head_dim).permute(0, 2, 1, 3)


def merge_rows(x: Tensor, heads: int, head_dim: int, length: int) -> Tensor:
    """`(1, heads, S, head_dim)` to `(1, S, heads * head_dim)`."""
    if length == 1:
        return x.reshape(1, 1, heads * head_dim)
    return x.permute(0, 2, 1, 3).reshape(1, length, heads * head_dim)


CONVOLUTION = Layout(
    axis=1,
    weight=lambda matrix: matrix[:, :, None, None],
    project=F.conv2d,
    enter=to_channels,
    leave=from_channels,
    split_heads=split_heads,
    merge_heads=merge_heads,
)
"""`(1, C, 1, S)`: 1x1 convolutions."""

LINEAR = Layout(
    axis=2,
    weight=lambda matrix: matrix,
    project=F.linear,
    enter=lambda x: x.squeeze(0),  # Core ML's linear takes three axes at most
    leave=lambda x: x.unsqueeze(0),
    split_heads=split_rows,
    merge_heads=merge_rows,
)
"""`(1, S, C)`: linear layers."""


class Projection(nn.Module):
    """A bias-free linear map of the channels of a `Layout`."""

    def __init__(self, matrix: Tensor, layout: Layout = CONVOLUTION) -> None:
        """Take a weight `(out, in)`."""
        super().__init__()
        self.layout = layout
        self.weight = nn.Parameter(layout.weight(matrix), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Project the channel axis."""
        return self.layout.project(x, self.weight)


def grouped_mask(mask: Tensor, groups: int, length: int) -> Tensor:
    """A mask `(1, 1, S, C)` for the rows of `attend`: `(1, 1, groups * S, C)`, or one row, which broadcasts."""
    return mask.repeat(1, 1, groups, 1) if length > 1 else mask


def attend(shape: LayerShape, length: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Grouped-query attention with scale 1.0.

    The query heads that share a key head become rows of one matrix, so keys and values are never repeated.

    Args:
        shape: the layer's heads.
        length: S, the number of query positions.
        query: `(1, heads, S, d)`.
        key: `(1, kv_heads, C, d)`.
        value: `(1, kv_heads, C, d)`.
        mask: what is added to the scores; see `grouped_mask`.

    Returns:
        `(1, heads, S, d)`.
    """
    rows = shape.heads // shape.kv_heads * length
    scores = query.reshape(1, shape.kv_heads, rows, shape.head_dim) @ key.transpose(-1, -2)
    mixed = torch.softmax(scores + mask, dim=-1) @ value
    return mixed.reshape(1, shape.heads, length, shape.head_dim)


class TextLayer(nn.Module):
    """One decoder layer; the cache policy is the caller's.

    `project_kv`, `attention` and `feed_forward` are separate steps because decode, verify and prefill differ
    only in what happens to keys and values between the first two.
    """

    def __init__(self, shape: LayerShape, weights: dict[str, Tensor], layout: Layout = CONVOLUTION) -> None:
        """Build the layer.

        Args:
            shape: see `LayerShape`.
            layout: of the activations that are projected.
            weights: tensors by their name inside the checkpoint's layer, e.g. `self_attn.q_proj.weight`, all in
                the dtype the layer shall work in.
        """
        super().__init__()
        self.shape = shape
        self.layout = layout
        eps = shape.eps

        def norm(name: str) -> RMSNorm:
            return RMSNorm(weights[f"{name}.weight"], eps)

        def projection(name: str) -> Projection:
            return Projection(weights[f"{name}.weight"], layout)

        self.input_norm = norm("input_layernorm")
        self.q_proj = projection("self_attn.q_proj")
        self.q_norm = norm("self_attn.q_norm")
        if shape.owns_kv:
            self.k_proj = projection("self_attn.k_proj")
            self.v_proj = projection("self_attn.v_proj")
            self.k_norm = norm("self_attn.k_norm")
        self.o_proj = projection("self_attn.o_proj")
        self.post_attention_norm = norm("post_attention_layernorm")
        self.pre_feedforward_norm = norm("pre_feedforward_layernorm")
        self.gate_proj = projection("mlp.gate_proj")
        self.up_proj = projection("mlp.up_proj")
        self.down_proj = projection("mlp.down_proj")
        self.post_feedforward_norm = norm("post_feedforward_layernorm")
        self.per_layer_input_gate = projection("per_layer_input_gate")
        self.per_layer_projection = projection("per_layer_projection")
        self.post_per_layer_input_norm = norm("post_per_layer_input_norm")
        self.layer_scalar = nn.Parameter(weights["layer_scalar"], requires_grad=False)

    def normalized_input(self, hidden: Tensor) -> Tensor:
        """Attention input of `(1, 1, S, H)` in the layer's layout."""
        return self.layout.enter(self.input_norm(hidden))

    def project_kv(self, channels: Tensor, rotary: Rotary, length: int) -> tuple[Tensor, Tensor]:
        """Rotated, normed keys and normed values, both `(1, kv_heads, S, head_dim)`."""
        heads, head_dim = self.shape.kv_heads, self.shape.head_dim
        key = self.k_norm(self.layout.split_heads(self.k_proj(channels), heads, head_dim, length))
        value = self.layout.split_heads(self.v_proj(channels), heads, head_dim, length)
        return rotate(key, rotary, head_dim), rms_normalize(value, head_dim, self.shape.eps)

    def attention(self, hidden: Tensor, channels: Tensor, rotary: Rotary, kv: KeyValue, mask: Tensor) -> Tensor:
        """Attend from `channels` to the keys and values and add to the residual `hidden`.

        Args:
            hidden: `(1, 1, S, H)`.
            channels: `normalized_input(hidden)`.
            rotary: rows of the S positions.
            kv: what the layer attends to, both `(1, kv_heads, C, head_dim)`.
            mask: `grouped_mask` of `(1, 1, S, C)`.
        """
        heads, head_dim, length = self.shape.heads, self.shape.head_dim, kv.length
        query = self.q_norm(self.layout.split_heads(self.q_proj(channels), heads, head_dim, length))
        mixed = attend(self.shape, length, rotate(query, rotary, head_dim), kv.key, kv.value, mask)
        output = self.layout.leave(self.o_proj(self.layout.merge_heads(mixed, heads, head_dim, length)))
        normed: Tensor = self.post_attention_norm(output)
        return hidden + normed

    def feed_forward(self, hidden: Tensor, per_layer_input: Tensor) -> Tensor:
        """The gated feed-forward block, the per-layer input and the layer's scale.

        Args:
            hidden: `(1, 1, S, H)`.
            per_layer_input: this layer's slice of the combined per-layer embedding, in the layer's layout.
        """
        channels = self.layout.enter(self.pre_feedforward_norm(hidden))
        gated = F.gelu(self.gate_proj(channels), approximate="tanh") * self.up_proj(channels)
        hidden = hidden + self.post_feedforward_norm(self.layout.leave(self.down_proj(gated)))

        gate = F.gelu(self.per_layer_input_gate(self.layout.enter(hidden)), approximate="tanh")
        injected = self.layout.leave(self.per_layer_projection(gate * per_layer_input))
        hidden = hidden + self.post_per_layer_input_norm(injected)
        return hidden * self.layer_scalar
