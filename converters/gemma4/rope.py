"""Rotary tables: the cos and sin inputs of every chunk, one row per position.

Two variants. `transformers` is what the model was trained with. `legacy` is what the first public bundles shipped:
there the full-attention tables turn all frequency pairs, while the model's `proportional` rope turns a quarter of
them and leaves the rest at angle 0. It exists for byte parity only; with it, text degrades with distance.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from converters.gemma4.config import FULL, SLIDING, RopeConfig, TextConfig
from converters.gemma4.tables import blocks, npy_header, write_tensor

if TYPE_CHECKING:
    import torch

VARIANTS = ("transformers", "legacy")
MIN_ROWS = 4096  # the app's tables are never shorter, and twice the context otherwise


def table_rows(context_length: int) -> int:
    """Positions in a table; the app zero-fills rows past the end without a word, so there is room to spare."""
    return max(2 * context_length, MIN_ROWS)


def inverse_frequencies(rope: RopeConfig, head_dim: int, *, variant: str = "transformers") -> torch.Tensor:
    """(head_dim / 2,) float32 angles per position, in the order and arithmetic of transformers.

    Source: `compute_default_rope_parameters` in transformers' Gemma4TextRotaryEmbedding and
    `_compute_proportional_rope_parameters` in its modeling_rope_utils.
    """
    import torch

    pairs = head_dim // 2
    turning = pairs
    if rope.type == "proportional" and variant == "transformers":
        turning = int(rope.partial_rotary_factor * head_dim // 2)
    exponents = torch.arange(0, 2 * turning, 2, dtype=torch.float32) / head_dim
    frequencies = torch.zeros(pairs, dtype=torch.float32)
    frequencies[:turning] = 1.0 / rope.theta**exponents
    return frequencies


def cos_sin(frequencies: torch.Tensor, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(stop - start, 2 * pairs) fp16 cos and sin of positions `start` to `stop`, each pair's angle twice."""
    import torch

    angles = torch.arange(start, stop, dtype=torch.float32)[:, None] * frequencies
    doubled = torch.cat((angles, angles), dim=-1)
    return doubled.cos().to(torch.float16), doubled.sin().to(torch.float16)


def write_rope_tables(text: TextConfig, context_length: int, variant: str, output: Path) -> None:
    """Writes cos and sin tables of both layer types, each (rows, head_dim of the type) fp16 npy.

    Args:
        text: dimensions and rope parameters.
        context_length: of the bundle; decides the number of rows.
        variant: one of `VARIANTS`.
        output: existing directory; gets `{cos,sin}_{sliding,full}.npy`.
    """
    rows = table_rows(context_length)
    for label, layer_type, head_dim in (
        ("sliding", SLIDING, text.head_dim),
        ("full", FULL, text.global_head_dim),
    ):
        frequencies = inverse_frequencies(text.rope(layer_type), head_dim, variant=variant)
        header = npy_header("<f2", (rows, head_dim))
        with (
            (output / f"cos_{label}.npy").open("wb") as cos_file,
            (output / f"sin_{label}.npy").open("wb") as sin_file,
        ):
            cos_file.write(header)
            sin_file.write(header)
            for start, stop in blocks(rows, head_dim):
                cos, sin = cos_sin(frequencies, start, stop)
                write_tensor(cos_file, cos)
                write_tensor(sin_file, sin)
