"""Everything of a bundle folder that is not a Core ML model, read the way the app reads it.

Only the folder is looked at, never the checkpoint: a wrong scale in `model_config.json` must show.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.errors import RecipeError
from converters.gemma4.config import LAYER_TYPES, TokenIds, parse_config
from converters.gemma4.fields import Fields
from converters.mil.types import Array

Position = int | Array
"""A token id, or one row `(hidden,)` of an encoder's features."""

HALF = np.dtype(np.float16)

INT8_MAX = 127
"""A quantised value is `q * scale / 127`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `model_config.json` says; names are the file's."""

    hidden_size: int
    num_layers: int
    num_kv_shared_layers: int
    layer_types: tuple[str, ...]
    per_layer_dim: int
    vocab_size: int
    context_length: int
    sliding_window: int
    embed_scale: float
    per_layer_embed_scale: float
    rms_norm_eps: float

    @property
    def per_layer_width(self) -> int:
        """Width of a row of the per-layer table."""
        return self.num_layers * self.per_layer_dim


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A table of int8 rows with one fp16 scale each.

    Attributes:
        values: `(vocab, width)` int8.
        scales: `(vocab,)` fp16.
        factor: what a dequantised row is multiplied with.
        dtype: of what `row` gives: fp16 as the app computes it, or float32 to leave out that rounding.
    """

    values: Array
    scales: Array
    factor: float
    dtype: np.dtype[Any] = HALF

    def row(self, token: int) -> Array:
        """`(width,)`: `q * (scale / 127 * factor)` in float32, then rounded to `dtype`.

        Raises:
            RecipeError: no such token.
        """
        if not 0 <= token < len(self.values):
            raise RecipeError(f"token {token} is outside of the vocabulary of {len(self.values)}")
        scale = np.float32(self.scales[token]) / np.float32(INT8_MAX) * np.float32(self.factor)
        row: Array = (self.values[token].astype(np.float32) * scale).astype(self.dtype)
        return row


@dataclass(frozen=True, slots=True)
class RopeTables:
    """Rotary tables `(positions, head_dim)` fp16 by their name as chunk input."""

    tables: dict[str, Array]

    def rows(self, start: int, length: int) -> dict[str, Array]:
        """Chunk inputs `(1, 1, length, head_dim)` for the positions from `start`.

        Raises:
            RecipeError: a table ends before; the app would go on with zeros.
        """
        for name, table in self.tables.items():
            if start + length > len(table):
                raise RecipeError(f"{name}: position {start + length - 1} is past the table's {len(table)} rows")
        return {name: np.asarray(table[start : start + length])[None, None] for name, table in self.tables.items()}


@dataclass(frozen=True, slots=True)
class AudioProjection:
    """What follows the audio encoder: linear with bias, RMS norm without weight, linear."""

    output_weight: Array
    output_bias: Array
    embed_weight: Array
    eps: float

    def project(self, hidden: Array) -> Array:
        """`(steps, audio hidden)` encoder states to `(steps, hidden)` fp16 features."""
        first = hidden.astype(np.float32) @ self.output_weight.T.astype(np.float32) + self.output_bias
        first = first.astype(np.float32)
        normed = first / np.sqrt(np.mean(first * first, axis=-1, keepdims=True) + self.eps)
        features: Array = (normed @ self.embed_weight.T.astype(np.float32)).astype(np.float16)
        return features


@dataclass(frozen=True, slots=True)
class Sidecars:
    """The text model's sidecars of one folder."""

    settings: Settings
    tokens: TokenIds
    embeddings: Embeddings
    per_layer: Embeddings
    rope: RopeTables

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of rows and caches: fp16, or float32 where nothing is to be rounded."""
        return self.embeddings.dtype

    def input_row(self, position: Position) -> Array:
        """What goes into the first chunk at a position, `(hidden,)`."""
        if isinstance(position, int):
            return self.embeddings.row(position)
        row: Array = position.astype(self.dtype)
        return row

    def per_layer_row(self, position: Position, *, zero_placeholders: bool = False) -> Array:
        """The per-layer embedding at a position, `(per-layer width,)`.

        Args:
            position: features get the padding token's row, as in `Gemma4Model.forward` of transformers.
            zero_placeholders: they get zeros, as in the app's engine.
        """
        if isinstance(position, int):
            return self.per_layer.row(position)
        if zero_placeholders:
            return np.zeros(self.settings.per_layer_width, self.dtype)
        return self.per_layer.row(self.tokens.pad or 0)


def read_sidecars(folder: Path, *, rounded: bool = True) -> Sidecars:
    """Reads (maps, where large) what decoding needs.

    Args:
        folder: a bundle.
        rounded: rows of embeddings are rounded to fp16, as in the app.

    Raises:
        RecipeError: a file is missing or has another size than `model_config.json` implies.
    """
    settings = read_settings(folder)
    dtype = HALF if rounded else np.dtype(np.float32)
    rows, hidden, width = settings.vocab_size, settings.hidden_size, settings.per_layer_width
    return Sidecars(
        settings=settings,
        tokens=parse_config(read_json(folder / "hf_model" / "config.json")).text.tokens,
        embeddings=_read_table(folder, "embed_tokens", (rows, hidden), settings.embed_scale, dtype),
        per_layer=_read_table(folder, "embed_tokens_per_layer", (rows, width), settings.per_layer_embed_scale, dtype),
        rope=RopeTables(
            {
                f"{kind}_{label[0]}": _read_npy(folder / f"{kind}_{label}.npy", 2)
                for kind in ("cos", "sin")
                for label in ("sliding", "full")
            }
        ),
    )


def read_settings(folder: Path) -> Settings:
    """Reads `model_config.json`.

    Raises:
        RecipeError: the file or a key is missing, or of another type.
    """
    fields = Fields(read_json(folder / "model_config.json"), "model_config.json")
    layers, types = fields.count("num_layers"), fields.get("layer_types")
    if not isinstance(types, list) or len(types) != layers or any(item not in LAYER_TYPES for item in types):
        raise RecipeError(f"model_config.json: layer_types must be a list of {layers}: {' or '.join(LAYER_TYPES)}")
    return Settings(
        hidden_size=fields.count("hidden_size"),
        num_layers=layers,
        num_kv_shared_layers=fields.index("num_kv_shared_layers", layers),
        layer_types=tuple(types),
        per_layer_dim=fields.count("per_layer_dim"),
        vocab_size=fields.count("vocab_size"),
        context_length=fields.count("context_length"),
        sliding_window=fields.count("sliding_window"),
        embed_scale=fields.positive("embed_scale"),
        per_layer_embed_scale=fields.positive("per_layer_embed_scale"),
        rms_norm_eps=fields.positive("rms_norm_eps"),
    )


def check_sizes(name: str, inputs: Mapping[str, tuple[int, ...]], settings: Settings) -> None:
    """The shapes in a chunk's program are the truth; the settings must agree with them.

    Args:
        name: of the chunk, for messages.
        inputs: shapes of its inputs.
        settings: of `model_config.json`.

    Raises:
        RecipeError: they do not.
    """
    for item, key, size in (
        ("hidden_states", "hidden_size", settings.hidden_size),
        ("causal_mask_full", "context_length", settings.context_length),
        ("causal_mask_sliding", "sliding_window", settings.sliding_window),
    ):
        if (found := inputs[item][-1]) != size:
            raise RecipeError(f"{name}: {item} is {found} wide, but {key} in model_config.json is {size}")


def read_audio_projection(folder: Path) -> AudioProjection:
    """Reads the three npy files of the audio projection.

    Raises:
        RecipeError: one is missing, or they do not fit each other or `hidden_size`.
    """
    settings = read_settings(folder)
    output = _read_npy(folder / "output_proj_weight.npy", 2)
    bias = _read_npy(folder / "output_proj_bias.npy", 1)
    embed = _read_npy(folder / "embed_proj_weight.npy", 2)
    if bias.shape != output.shape[:1] or embed.shape != (settings.hidden_size, len(output)):
        raise RecipeError(
            f"{folder}: output_proj_weight {output.shape}, output_proj_bias {bias.shape} and embed_proj_weight"
            f" {embed.shape} do not lead to hidden_size {settings.hidden_size}"
        )
    return AudioProjection(output, bias, embed, settings.rms_norm_eps)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        RecipeError: it cannot be read, or is something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{path} does not hold a JSON object")
    return found


def _read_npy(path: Path, rank: int) -> Array:
    try:
        found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    if found.dtype != np.dtype("<f2") or found.ndim != rank:
        raise RecipeError(f"{path} is {found.dtype} of shape {found.shape}, expected fp16 with {rank} dimensions")
    return found


def _read_table(folder: Path, stem: str, shape: tuple[int, int], factor: float, dtype: np.dtype[Any]) -> Embeddings:
    values = _map(folder / f"{stem}_q8.bin", np.dtype("i1"), shape)
    return Embeddings(values, _map(folder / f"{stem}_scales.bin", np.dtype("<f2"), shape[:1]), factor, dtype)


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    expected = int(np.prod(shape)) * dtype.itemsize
    if not path.is_file():
        raise RecipeError(f"{path}: no such file")
    if path.stat().st_size != expected:
        raise RecipeError(f"{path} has {path.stat().st_size} bytes, model_config.json implies {expected}")
    return np.memmap(path, dtype, mode="r", shape=shape)
