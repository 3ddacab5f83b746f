"""Gemma 4's vision encoder, from flattened patches to soft tokens in the text model's width.

Own code after the formulas of `Gemma4VisionModel` and `Gemma4MultimodalEmbedder` in transformers 5.23, made
static: there is no boolean indexing and no shape that depends on data. Patches are placed by the position input
alone (position embedding, rotary embedding and pooling), so a grid of any aspect ratio and any patch order works,
as in transformers. Where transformers drops the empty tokens of a padded image, they stay here, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.config import Gemma4Config, VisionConfig
from converters.gemma4.encoder_interface import Grid
from converters.gemma4.encoder_layers import MASKED, ClippedLinear, Named, below, build_layers, read_weights
from converters.gemma4.encoder_tensors import VISION, VISION_PROJECTION, vision_shapes
from converters.gemma4.layers import RMSNorm, rms_normalize
from converters.light import Placeholders


@dataclass(frozen=True, slots=True)
class PatchRotary:
    """Rotary factors of every patch, `(1, 1, patches, head_dim)` each; `signed_sin` has rotate-half's signs."""

    cos: Tensor
    signed_sin: Tensor


def axis_table(vision: VisionConfig, positions: int) -> Tensor:
    """What a coordinate means, `(positions, head_dim + 1)`: cosines, signed sines, and which kernel it lies in.

    Looked up, not computed in the model: there angles would be float16, off by 0.02 radian at position 47, and a
    division that multiplies with a reciprocal could put a patch into the kernel before its own.
    """
    width = vision.head_dim // 2
    inverse = 1.0 / vision.rope_theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    position = torch.arange(positions, dtype=torch.float32)[:, None]
    cos, sin = (position * inverse).cos(), (position * inverse).sin()
    kernel = torch.div(position, vision.pooling_kernel_size, rounding_mode="floor")
    return torch.cat([cos, cos, -sin, sin, kernel], dim=-1)


def rotate_patches(x: Tensor, rotary: PatchRotary, head_dim: int) -> Tensor:
    """Rotate `(1, heads, patches, head_dim)`: the first half of each head by x, the second by y."""
    quarter = head_dim // 4
    parts = [x[..., index * quarter : (index + 1) * quarter] for index in (1, 0, 3, 2)]
    return x * rotary.cos + torch.cat(parts, dim=-1) * rotary.signed_sin


class VisionLayer(nn.Module):
    """One encoder layer; attention is bidirectional, with scale 1.0 and normed queries, keys and values."""

    def __init__(self, vision: VisionConfig, patches: int, named: Named) -> None:
        super().__init__()
        self.patches = patches
        self.heads, self.head_dim, self.eps = vision.num_attention_heads, vision.head_dim, vision.rms_norm_eps

        def norm(name: str) -> RMSNorm:
            return RMSNorm(named[f"{name}.weight"], vision.rms_norm_eps)

        self.input_norm = norm("input_layernorm")
        self.q_proj = ClippedLinear(named, "self_attn.q_proj")
        self.k_proj = ClippedLinear(named, "self_attn.k_proj")
        self.v_proj = ClippedLinear(named, "self_attn.v_proj")
        self.q_norm = norm("self_attn.q_norm")
        self.k_norm = norm("self_attn.k_norm")
        self.o_proj = ClippedLinear(named, "self_attn.o_proj")
        self.post_attention_norm = norm("post_attention_layernorm")
        self.pre_feedforward_norm = norm("pre_feedforward_layernorm")
        self.gate_proj = ClippedLinear(named, "mlp.gate_proj")
        self.up_proj = ClippedLinear(named, "mlp.up_proj")
        self.down_proj = ClippedLinear(named, "mlp.down_proj")
        self.post_feedforward_norm = norm("post_feedforward_layernorm")

    def forward(self, hidden: Tensor, rotary: PatchRotary, mask: Tensor | None) -> Tensor:
        """`(1, patches, hidden)` to the same; `mask` `(1, 1, 1, patches)` is added to the scores."""
        hidden = hidden + self.post_attention_norm(self.attend(self.input_norm(hidden), rotary, mask))
        normed = self.pre_feedforward_norm(hidden)
        gated = F.gelu(self.gate_proj(normed), approximate="tanh") * self.up_proj(normed)
        update: Tensor = self.post_feedforward_norm(self.down_proj(gated))
        return hidden + update

    def attend(self, normed: Tensor, rotary: PatchRotary, mask: Tensor | None) -> Tensor:
        """Attention over all patches."""
        query = rotate_patches(self.q_norm(self.split(self.q_proj(normed))), rotary, self.head_dim)
        key = rotate_patches(self.k_norm(self.split(self.k_proj(normed))), rotary, self.head_dim)
        value = rms_normalize(self.split(self.v_proj(normed)), self.head_dim, self.eps)
        scores = query @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask
        mixed = torch.softmax(scores, dim=-1) @ value
        joined = mixed.permute(0, 2, 1, 3).reshape(1, self.patches, self.heads * self.head_dim)
        output: Tensor = self.o_proj(joined)
        return output

    def split(self, x: Tensor) -> Tensor:
        """`(1, patches, heads * head_dim)` to `(1, heads, patches, head_dim)`."""
        return x.reshape(1, self.patches, self.heads, self.head_dim).permute(0, 2, 1, 3)


class VisionEncoder(nn.Module):
    """`pixel_values` and `pixel_position_ids` to `image_features`."""

    def __init__(self, vision: VisionConfig, grid: Grid, tower: Named, projection: Tensor) -> None:
        """Build the encoder.

        Args:
            vision: its config.
            grid: how many patches it takes.
            tower: the vision tower's tensors by their name inside it.
            projection: `(text hidden, vision hidden)`.
        """
        super().__init__()
        self.grid = grid
        # A grid is at least one kernel high, so no coordinate reaches further than this: the rest of the position
        # table (92 % of it at 2304 patches, 29 MB in float16) could never be read.
        reachable = min(vision.position_embedding_size, grid.patches // grid.kernel)
        table = tower["patch_embedder.position_embedding_table"][:, :reachable].contiguous()
        self.x_table = nn.Buffer(table[0])
        self.y_table = nn.Buffer(table[1])
        self.axis_table = nn.Buffer(axis_table(vision, reachable))
        self.half_head = vision.head_dim // 2
        self.cells = nn.Buffer(torch.arange(grid.tokens, dtype=torch.float32)[None, :, None])
        self.input_weight = nn.Buffer(tower["patch_embedder.input_proj.weight"])
        self.layers = build_layers(
            below(tower, "encoder.layers."),
            vision.num_hidden_layers,
            lambda named: VisionLayer(vision, grid.patches, named),
        )
        # transformers multiplies the pooled patches by sqrt(hidden), which can leave float16's range, and then
        # norms them. The norm takes the factor out again, so here its epsilon is divided by the factor squared.
        self.hidden_size = vision.hidden_size
        scale = vision.hidden_size**0.5
        self.norm_eps = vision.rms_norm_eps / vision.hidden_size
        self.std_bias = nn.Buffer(tower["std_bias"] / scale) if vision.standardize else None
        self.std_scale = nn.Buffer(tower["std_scale"]) if vision.standardize else None
        self.projection = nn.Buffer(projection)

    def forward(self, pixel_values: Tensor, pixel_position_ids: Tensor) -> Tensor:
        """Encode one image.

        Args:
            pixel_values: `(1, patches, 3 * patch_size^2)`, colours in 0 to 1, channels last within a patch.
            pixel_position_ids: `(1, patches, 2)` int32, x and y of each patch in its grid.

        Returns:
            `(1, tokens, text hidden)`, row by row.
        """
        x, y = pixel_position_ids[..., 0], pixel_position_ids[..., 1]
        mask, keep = None, None
        if self.grid.is_padded:
            padding = (x < 0).to(self.input_weight.dtype)
            mask, keep = (padding * MASKED)[:, None, None, :], 1.0 - padding
            zero = torch.zeros_like(x)
            x, y = torch.maximum(x, zero), torch.maximum(y, zero)
        hidden = F.linear(2.0 * pixel_values.to(self.input_weight.dtype) - 1.0, self.input_weight)
        hidden = hidden + (F.embedding(x, self.x_table) + F.embedding(y, self.y_table))
        x_axis, y_axis = F.embedding(x, self.axis_table), F.embedding(y, self.axis_table)
        rotary = self.rotary(x_axis, y_axis)
        for layer in self.layers:
            hidden = layer(hidden, rotary, mask)
        return self.project(self.pool_weights(x_axis, y_axis, keep) @ hidden)

    def rotary(self, x_axis: Tensor, y_axis: Tensor) -> PatchRotary:
        """Rotary factors from both coordinates' rows of the axis table."""
        half = self.half_head
        cos = torch.cat([x_axis[..., :half], y_axis[..., :half]], dim=-1)
        sin = torch.cat([x_axis[..., half : 2 * half], y_axis[..., half : 2 * half]], dim=-1)
        return PatchRotary(cos[:, None], sin[:, None])

    def pool_weights(self, x_axis: Tensor, y_axis: Tensor, keep: Tensor | None) -> Tensor:
        """`(1, tokens, patches)`: each token is the mean of the kernel x kernel patches it covers."""
        column, row = x_axis[..., 2 * self.half_head], y_axis[..., 2 * self.half_head]
        columns = column.amax(dim=-1, keepdim=True) + 1.0
        cell = column + columns * row  # exact in float16: there are fewer than 2048 tokens
        covers = (cell[:, None, :] == self.cells).to(self.projection.dtype)
        weights = covers * (1.0 / self.grid.kernel**2)
        return weights if keep is None else weights * keep[:, None, :]

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled patches to the text model's width."""
        if self.std_bias is not None and self.std_scale is not None:
            pooled = (pooled - self.std_bias) * self.std_scale
        return F.linear(rms_normalize(pooled, self.hidden_size, self.norm_eps), self.projection)


def load_vision(
    checkpoint: Checkpoint, config: Gemma4Config, grid: Grid, placeholders: Placeholders | None = None
) -> VisionEncoder:
    """The encoder with the checkpoint's weights, in float32.

    Args:
        checkpoint: where they are.
        config: its configuration.
        grid: how many patches the encoder takes.
        placeholders: when given, large weights are not read: what stands in for them is registered here, and the
            encoder can be converted but not run.

    Raises:
        RecipeError: the checkpoint has no vision tower, or a tensor is missing or has another shape.
    """
    if config.vision is None:
        raise RecipeError(f"{checkpoint.directory} has no vision tower (vision_config is missing)")
    shapes = vision_shapes(config.vision, config.text.hidden_size)
    named = read_weights(checkpoint, shapes, placeholders)
    return VisionEncoder(config.vision, grid, below(named, VISION), named[VISION_PROJECTION]).eval()
