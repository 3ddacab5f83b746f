"""Gemma 4's audio encoder (a Conformer), from mel features to the last layer's hidden states.

Own code after the formulas of `Gemma4AudioModel` in transformers 5.23, for a fixed number of frames that are all
valid: masks and relative positions are constants, overlapping windows are two static slices. The two projections
behind it (`project_audio`) are no part of the Core ML model: the app does them in float32, because the norm between
them came out wrong on the GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.config import AudioConfig, Gemma4Config
from converters.gemma4.encoder_interface import audio_steps
from converters.gemma4.encoder_layers import (
    FLOAT16_MAX,
    MASKED,
    ClippedLinear,
    Named,
    below,
    build_layers,
    read_weights,
)
from converters.gemma4.encoder_tensors import AUDIO, audio_shapes
from converters.light import Placeholders

LAYER_NORM_EPS = 1e-6
"""Epsilon of the feed-forward and attention norms: `Gemma4RMSNorm`'s default, not the config's `rms_norm_eps`."""

LONGEST_WAVELENGTH = 10_000.0
"""`max_timescale` of `Gemma4AudioRelPositionalEncoding`; the shortest one is 1."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Chunked local attention over a fixed number of steps.

    The steps are cut into `blocks` blocks of `chunk`. Queries of one block see a context of `past` steps before
    it, the block itself, and `future` steps after it.
    """

    steps: int
    chunk: int
    past: int
    future: int

    @property
    def blocks(self) -> int:
        """Number of blocks; the last one may be filled up."""
        return math.ceil(self.steps / self.chunk)

    @property
    def context(self) -> int:
        """Steps that one block sees."""
        return self.past + self.chunk + self.future

    @property
    def blocks_before(self) -> int:
        """Whole blocks that hold `past` steps."""
        return math.ceil(self.past / self.chunk)

    @property
    def blocks_after(self) -> int:
        """Whole blocks that hold `future` steps."""
        return math.ceil(self.future / self.chunk)


def make_windows(audio: AudioConfig, frames: int) -> Windows:
    """The windows for `frames` mel frames. `attention_context_left` counts the query itself."""
    past = audio.attention_context_left - 1
    return Windows(audio_steps(frames), audio.attention_chunk_size, past, audio.attention_context_right)


def window_mask(windows: Windows) -> Tensor:
    """`(blocks, 1, chunk, context)`: 0 where a query may look, `MASKED` elsewhere.

    As in transformers, a query sees itself and `past - 1` steps before it: one less than the context has. To the
    right it sees `future - 1` steps.
    """
    block = torch.arange(windows.blocks)[:, None, None]
    query = block * windows.chunk + torch.arange(windows.chunk)[None, :, None]
    key = block * windows.chunk - windows.past + torch.arange(windows.context)[None, None, :]
    distance = query - key
    near = ((distance >= 0) & (distance < windows.past)) | ((distance < 0) & (-distance < windows.future))
    seen = near & (key >= 0) & (key < windows.steps) & (query < windows.steps)
    return torch.where(seen, 0.0, MASKED)[:, None]


def relative_positions(hidden_size: int, windows: Windows) -> Tensor:
    """Sinusoids `(context // 2 + 1, hidden)` of the distances `context // 2` down to 0, sines first."""
    count = hidden_size // 2
    step = math.log(LONGEST_WAVELENGTH) / max(count - 1, 1)
    inverse = torch.exp(torch.arange(count) * -step)
    angles = torch.arange(windows.context // 2, -1, -1)[:, None] * inverse
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class RMSNorm(nn.Module):
    """RMS norm over the last axis, spelled out: the conversion keeps its mean in float32."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(..., width)`."""
        return x * (x.pow(2).mean(-1, keepdim=True) + self.eps).pow(-0.5) * self.weight


class Subsampling(nn.Module):
    """Two convolutions of stride 2 and a projection: `(1, frames, mel)` to `(1, steps, hidden)`."""

    def __init__(self, audio: AudioConfig, steps: int, named: Named) -> None:
        super().__init__()
        self.eps = audio.rms_norm_eps
        self.steps = steps
        first, second = audio.subsampling_conv_channels
        self.channels = first // 4 * second
        self.conv0 = nn.Buffer(named["layer0.conv.weight"])
        self.conv1 = nn.Buffer(named["layer1.conv.weight"])
        self.norm0 = nn.Buffer(named["layer0.norm.weight"])
        self.norm1 = nn.Buffer(named["layer1.norm.weight"])
        self.projection = nn.Buffer(named["input_proj_linear.weight"])

    def forward(self, features: Tensor) -> Tensor:
        """Mel features to the first layer's input."""
        channels_last = self.halve(features.to(self.conv0.dtype)[:, None], self.conv0, self.norm0)
        channels_last = self.halve(channels_last.permute(0, 3, 1, 2), self.conv1, self.norm1)
        return F.linear(channels_last.reshape(1, self.steps, self.channels), self.projection)

    def halve(self, x: Tensor, weight: Tensor, norm: Tensor) -> Tensor:
        """`(1, in, time, mel)` to `(1, time / 2, mel / 2, out)`."""
        convolved = F.conv2d(x, weight, stride=2, padding=1).permute(0, 2, 3, 1)
        return F.relu(F.layer_norm(convolved, norm.shape, weight=norm, eps=self.eps))


class FeedForward(nn.Module):
    """Half a feed-forward step, as Conformers have before and after the attention."""

    def __init__(self, audio: AudioConfig, named: Named) -> None:
        super().__init__()
        self.limit = min(audio.gradient_clipping, FLOAT16_MAX)
        self.pre_norm = RMSNorm(named["pre_layer_norm.weight"], LAYER_NORM_EPS)
        self.up = ClippedLinear(named, "ffw_layer_1")
        self.down = ClippedLinear(named, "ffw_layer_2")
        # The norm's weight takes the residual weight (0.5), so that no multiplication is left for it.
        self.post_norm = RMSNorm(named["post_layer_norm.weight"] * audio.residual_weight, LAYER_NORM_EPS)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(1, steps, hidden)` to the same."""
        inner = F.silu(self.up(self.pre_norm(limited(hidden, self.limit))))
        update: Tensor = self.post_norm(limited(self.down(inner), self.limit))
        return hidden + update


def limited(x: Tensor, limit: float) -> Tensor:
    """Clamp to what the working dtype holds: transformers' `gradient_clipping`, at most float16's largest."""
    return torch.clamp(x, -limit, limit)


class LocalAttention(nn.Module):
    """Attention within windows, with relative positions and capped scores."""

    def __init__(self, audio: AudioConfig, windows: Windows, positions: Tensor, named: Named) -> None:
        super().__init__()
        self.windows = windows
        self.heads = audio.num_attention_heads
        self.head_dim = audio.hidden_size // audio.num_attention_heads
        self.cap = audio.attention_logit_cap
        self.q_proj = ClippedLinear(named, "q_proj")
        self.k_proj = ClippedLinear(named, "k_proj")
        self.v_proj = ClippedLinear(named, "v_proj")
        self.output = ClippedLinear(named, "post")
        # transformers scales queries by head_dim^-0.5 / ln 2 and softplus(per_dim_scale), keys by ln(1 + e) / ln 2,
        # and divides the sum of both scores by the cap. All of it goes into one factor of the queries; the relative
        # keys, which have no key scale, are divided by it.
        key_scale = math.log(1.0 + math.e) / math.log(2.0)
        query_scale = self.head_dim**-0.5 / math.log(2.0) * key_scale / self.cap
        self.query_scale = nn.Buffer(F.softplus(named["per_dim_scale"]) * query_scale)
        relative = F.linear(positions, named["relative_k_proj.weight"]).reshape(-1, self.heads, self.head_dim)
        self.distances = windows.context // 2 + 1
        self.relative_keys = nn.Buffer((relative / key_scale).permute(1, 2, 0)[None].contiguous())

    def forward(self, normed: Tensor, mask: Tensor) -> Tensor:
        """`(1, steps, hidden)` to the same; `mask` as `window_mask` gives it."""
        query = self.blocked(self.q_proj(normed), 0, 0).permute(0, 2, 1, 3) * self.query_scale
        key = self.context(self.k_proj(normed)).permute(0, 2, 3, 1)
        value = self.context(self.v_proj(normed)).permute(0, 2, 1, 3)
        scores = query @ key + self.shift(query @ self.relative_keys)
        weights = torch.softmax(torch.tanh(scores) * self.cap + mask, dim=-1)
        mixed = (weights @ value).permute(0, 2, 1, 3)
        windows = self.windows
        joined = mixed.reshape(1, windows.blocks * windows.chunk, self.heads * self.head_dim)
        output: Tensor = self.output(joined[:, : windows.steps])
        return output

    def blocked(self, x: Tensor, before: int, after: int) -> Tensor:
        """`(1, steps, hidden)` to `(before + blocks + after, chunk, heads, head_dim)`, zeros around the steps."""
        windows = self.windows
        left, filled = before * windows.chunk, windows.blocks * windows.chunk - windows.steps
        x = F.pad(x, (0, 0, left, filled + after * windows.chunk))
        return x.reshape(before + windows.blocks + after, windows.chunk, self.heads, self.head_dim)

    def context(self, x: Tensor) -> Tensor:
        """`(1, steps, hidden)` to every block's context, `(blocks, context, heads, head_dim)`.

        Neighbouring blocks are put side by side, so the number of slices does not grow with the steps.
        """
        windows = self.windows
        before, after = windows.blocks_before, windows.blocks_after
        blocks = self.blocked(x, before, after)
        joined = torch.cat([blocks[i : i + windows.blocks] for i in range(before + 1 + after)], dim=1)
        start = before * windows.chunk - windows.past
        return joined[:, start : start + windows.context]

    def shift(self, x: Tensor) -> Tensor:
        """Move each query's scores to the keys they are for: `(blocks, heads, chunk, distances)` to `(.., context)`.

        Row i moves right by i: fill up to one more than the context, join the rows, cut, and split again
        (appendix B of <https://arxiv.org/abs/1901.02860>).
        """
        chunk, context = self.windows.chunk, self.windows.context
        x = F.pad(x, (0, context + 1 - self.distances))
        joined = x.reshape(self.windows.blocks, self.heads, 1, chunk * (context + 1))
        return joined[..., : chunk * context].reshape(self.windows.blocks, self.heads, chunk, context)


class LightConvolution(nn.Module):
    """A gated, causal depthwise convolution over the steps."""

    def __init__(self, audio: AudioConfig, named: Named) -> None:
        super().__init__()
        self.limit = min(audio.gradient_clipping, FLOAT16_MAX)
        self.width, self.left = audio.hidden_size, audio.conv_kernel_size - 1
        self.pre_norm = RMSNorm(named["pre_layer_norm.weight"], audio.rms_norm_eps)
        self.start = ClippedLinear(named, "linear_start")
        self.kernel = nn.Buffer(named["depthwise_conv1d.weight"])
        self.conv_norm = RMSNorm(named["conv_norm.weight"], audio.rms_norm_eps)
        self.end = ClippedLinear(named, "linear_end")

    def forward(self, hidden: Tensor) -> Tensor:
        """`(1, steps, hidden)` to the same."""
        width = self.width
        gated = self.start(self.pre_norm(hidden))
        gated = gated[..., :width] * torch.sigmoid(gated[..., width:])
        padded = F.pad(gated.permute(0, 2, 1), (self.left, 0))
        convolved = F.conv1d(padded, self.kernel, groups=width).permute(0, 2, 1)
        update: Tensor = self.end(F.silu(self.conv_norm(limited(convolved, self.limit))))
        return hidden + update


class AudioLayer(nn.Module):
    """One Conformer layer."""

    def __init__(self, audio: AudioConfig, windows: Windows, positions: Tensor, named: Named) -> None:
        super().__init__()
        self.limit = min(audio.gradient_clipping, FLOAT16_MAX)
        self.feed_forward1 = FeedForward(audio, below(named, "feed_forward1."))
        self.pre_norm = RMSNorm(named["norm_pre_attn.weight"], LAYER_NORM_EPS)
        self.attention = LocalAttention(audio, windows, positions, below(named, "self_attn."))
        self.post_norm = RMSNorm(named["norm_post_attn.weight"], LAYER_NORM_EPS)
        self.convolution = LightConvolution(audio, below(named, "lconv1d."))
        self.feed_forward2 = FeedForward(audio, below(named, "feed_forward2."))
        self.output_norm = RMSNorm(named["norm_out.weight"], LAYER_NORM_EPS)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """`(1, steps, hidden)` to the same."""
        hidden = self.feed_forward1(hidden)
        attended = self.attention(self.pre_norm(limited(hidden, self.limit)), mask)
        hidden = hidden + self.post_norm(limited(attended, self.limit))
        hidden = self.feed_forward2(self.convolution(hidden))
        output: Tensor = self.output_norm(limited(hidden, self.limit))
        return output


class AudioEncoder(nn.Module):
    """`input_features` to `hidden_states`."""

    def __init__(self, audio: AudioConfig, frames: int, tower: Named) -> None:
        """Build the encoder.

        Args:
            audio: its config.
            frames: mel frames it takes.
            tower: the audio tower's tensors by their name inside it.
        """
        super().__init__()
        windows = make_windows(audio, frames)
        positions = relative_positions(audio.hidden_size, windows)
        self.subsampling = Subsampling(audio, windows.steps, below(tower, "subsample_conv_projection."))
        self.layers = build_layers(
            below(tower, "layers."),
            audio.num_hidden_layers,
            lambda named: AudioLayer(audio, windows, positions, named),
        )
        self.mask = nn.Buffer(window_mask(windows))

    def forward(self, input_features: Tensor) -> Tensor:
        """`(1, frames, mel)`, all frames valid, to `(1, steps, hidden)`."""
        hidden: Tensor = self.subsampling(input_features)
        for layer in self.layers:
            hidden = layer(hidden, self.mask)
        return hidden


def project_audio(
    hidden_states: Tensor, output_weight: Tensor, output_bias: Tensor, embed_weight: Tensor, eps: float
) -> Tensor:
    """What the app does with `hidden_states`: project, norm, project into the text model's width.

    Args:
        hidden_states: `(1, steps, audio hidden)`.
        output_weight: `(output_proj_dims, audio hidden)`, the sidecar `output_proj_weight.npy`.
        output_bias: `(output_proj_dims,)`, `output_proj_bias.npy`.
        embed_weight: `(text hidden, output_proj_dims)`, `embed_proj_weight.npy`.
        eps: the audio config's `rms_norm_eps`.

    Returns:
        `(1, steps, text hidden)`, transformers' `get_audio_features(...).pooler_output`.
    """
    projected = F.linear(hidden_states, output_weight, output_bias)
    normed = projected * (projected.pow(2).mean(-1, keepdim=True) + eps).pow(-0.5)
    return F.linear(normed, embed_weight)


def load_audio(
    checkpoint: Checkpoint, config: Gemma4Config, frames: int, placeholders: Placeholders | None = None
) -> AudioEncoder:
    """The encoder with the checkpoint's weights, in float32.

    Args:
        checkpoint: where they are.
        config: its configuration.
        frames: mel frames the encoder takes.
        placeholders: when given, large weights are not read: what stands in for them is registered here, and the
            encoder can be converted but not run.

    Raises:
        RecipeError: the checkpoint has no audio tower, or a tensor is missing or has another shape.
    """
    if config.audio is None:
        raise RecipeError(f"{checkpoint.directory} has no audio tower (audio_config is missing)")
    named = read_weights(checkpoint, audio_shapes(config.audio), placeholders)
    return AudioEncoder(config.audio, frames, below(named, AUDIO)).eval()
