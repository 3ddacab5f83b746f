"""Checkpoints of the true size with synthetic weights: every tensor of the real E2B and E4B, none of their values.

What they are for: to measure a whole build without the real weights, which need a licence accepted and sixteen
gigabytes fetched. This module says which tensors there are and in which files; `synthetic_values` says what is in
them and `synthetic_files` writes them. Nothing heavy is imported.

The sizes are those of `convert_gemma4_weights.py` in transformers 5.5.0, the last release that had them; names and
shapes are compared with transformers' model of the same configuration in the tests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from converters.errors import RecipeError
from converters.gemma4.config import FULL, SLIDING, Gemma4Config, TextConfig, parse_config
from converters.gemma4.encoder_tensors import (
    AUDIO_OUTPUT_BIAS,
    AUDIO_OUTPUT_WEIGHT,
    AUDIO_PROJECTION,
    audio_shapes,
    vision_shapes,
)
from converters.gemma4.sidecars import PLE_TABLE
from converters.gemma4.tensors import EMBEDDING, TEXT, Shapes, chunk_shapes

BF16_BYTES = 2

SHARD_BYTES = 5_000_000_000
"""Largest shard, unless a single tensor is larger; transformers' `save_pretrained` used to divide there."""

SHRINKS = (1, 2, 4, 8, 16)
"""What widths and the vocabulary may be divided by. 16 leaves a vision head of 4, the least its rotary embedding
takes."""

VOCABULARY = 262_144

TOKENS: Mapping[str, int] = MappingProxyType(
    {
        "boi": 255_999,
        "boa": 256_000,
        "image": 258_880,
        "audio": 258_881,
        "eoi": 258_882,
        "eoa": 258_883,
        "video": 258_884,
    }
)
"""Ids of the multimodal markers in the real vocabulary."""

PAD, EOS, BOS, TURN_END, TOOL_RESPONSE = 0, 1, 2, 106, 50


@dataclass(frozen=True, slots=True)
class FullSize:
    """What distinguishes E2B from E4B.

    Attributes:
        hidden: decoder width.
        intermediate: MLP width.
        layers: decoder layers.
        period: every `period`-th layer is a full-attention one.
        shared: decoder layers without K/V of their own.
        key_value_heads: of the decoder; it has 8 query heads in both.
        double_wide: whether KV-shared layers have a doubled MLP.
        equal_keys: groups of layers whose `k_norm` is the same, see `_alike`.
    """

    hidden: int
    intermediate: int
    layers: int
    period: int
    shared: int
    key_value_heads: int
    double_wide: bool
    equal_keys: tuple[tuple[int, ...], ...]


FULL_SIZES: Mapping[str, FullSize] = MappingProxyType(
    {
        "gemma4-e2b": FullSize(1536, 6144, 35, 5, 20, 1, True, ((0, 1, 2, 3), (8, 10))),
        "gemma4-e4b": FullSize(2560, 10240, 42, 6, 18, 2, False, ((0, 1, 2, 3, 4), (12, 13, 14, 15))),
    }
)


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to be written, in bfloat16.

    Attributes:
        name: canonical name.
        shape: dimensions, outermost first.
        drawn_as: the name that decides its values; tensors with the same one are equal.
    """

    name: str
    shape: tuple[int, ...]
    drawn_as: str

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * BF16_BYTES


@dataclass(frozen=True, slots=True)
class Shard:
    """A safetensors file to be written: its name, and its tensors in the order in which they lie in it."""

    file: str
    tensors: tuple[PlannedTensor, ...]

    @property
    def size(self) -> int:
        """Bytes of the tensors; the header comes on top."""
        return sum(tensor.size for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class SyntheticPlan:
    """A checkpoint to be written. The same plan gives the same bytes, on any machine and with any number of threads.

    Attributes:
        model: one of `FULL_SIZES`.
        seed: of the weights.
        layers: decoder layers.
        shrink: what widths and vocabulary are divided by.
        config: `config.json`.
        shards: of the weights.
        markers: ids of the multimodal markers in the vocabulary.
    """

    model: str
    seed: int
    layers: int
    shrink: int
    config: Mapping[str, Any]
    shards: tuple[Shard, ...]
    markers: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(shard.size for shard in self.shards)

    @property
    def tensors(self) -> tuple[PlannedTensor, ...]:
        """Every tensor, in order."""
        return tuple(tensor for shard in self.shards for tensor in shard.tensors)

    @property
    def parameters(self) -> int:
        """Values in all tensors."""
        return self.size // BF16_BYTES


def plan_checkpoint(
    model: str, *, seed: int = 0, layers: int | None = None, shrink: int = 1, shard_bytes: int = SHARD_BYTES
) -> SyntheticPlan:
    """Decide what a synthetic checkpoint consists of.

    Args:
        model: one of `FULL_SIZES`.
        seed: of the weights.
        layers: decoder layers, a multiple of the attention period; all of them by default. The share of them that
            reads the K/V of others stays what it is.
        shrink: one of `SHRINKS`.
        shard_bytes: largest shard, unless a tensor is larger.

    Raises:
        RecipeError: no such model, or a number that does not go with it.
    """
    if model not in FULL_SIZES:
        raise RecipeError(f"there is no synthetic {model!r}; there are {', '.join(FULL_SIZES)}")
    size = FULL_SIZES[model]
    count = size.layers if layers is None else layers
    if not 2 * size.period <= count <= size.layers or count % size.period:
        possible = ", ".join(str(number) for number in range(2 * size.period, size.layers + 1, size.period))
        raise RecipeError(f"{model} cannot have {count} layers; it can have {possible}")
    if shrink not in SHRINKS:
        raise RecipeError(f"widths cannot be divided by {shrink}; they can by {', '.join(map(str, SHRINKS))}")
    if shard_bytes < 1:
        raise RecipeError(f"a shard cannot have {shard_bytes} bytes")
    markers = marker_ids(VOCABULARY // shrink)
    config = full_size_config(size, count, shrink, markers)
    parsed = parse_config(config)
    alike = _alike(size, parsed.text)
    shapes = checkpoint_shapes(parsed)
    tensors = [PlannedTensor(name, shape, alike.get(name, name)) for name, shape in shapes.items()]
    return SyntheticPlan(model, seed, count, shrink, config, divide(tensors, shard_bytes), markers)


def marker_ids(vocabulary: int) -> dict[str, int]:
    """Ids of the multimodal markers: the real ones, or the last ids of a smaller vocabulary in the same order."""
    if vocabulary == VOCABULARY:
        return dict(TOKENS)
    return {kind: vocabulary - len(TOKENS) + offset for offset, kind in enumerate(TOKENS)}


def full_size_config(size: FullSize, layers: int, shrink: int, markers: Mapping[str, int]) -> dict[str, Any]:
    """`config.json`, in the spelling of transformers 5.5 (`global_head_dim`), which later releases read as well."""
    text = {
        "model_type": "gemma4_text",
        "vocab_size": VOCABULARY // shrink,
        "vocab_size_per_layer_input": VOCABULARY // shrink,
        "hidden_size": size.hidden // shrink,
        "hidden_size_per_layer_input": 256 // shrink,
        "intermediate_size": size.intermediate // shrink,
        "use_double_wide_mlp": size.double_wide,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": size.key_value_heads,
        "num_kv_shared_layers": size.shared * layers // size.layers,
        "head_dim": 256 // shrink,
        "global_head_dim": 512 // shrink,
        "layer_types": [FULL if (layer + 1) % size.period == 0 else SLIDING for layer in range(layers)],
        "sliding_window": 512,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "final_logit_softcapping": 30.0,
        "attention_bias": False,
        "attention_k_eq_v": False,
        "enable_moe_block": False,
        "tie_word_embeddings": True,
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
            FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
        },
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "bos_token_id": BOS,
        "dtype": "bfloat16",
    }
    return {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "text_config": text,
        "vision_config": _vision_config(shrink),
        "audio_config": _audio_config(shrink),
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": [EOS, TURN_END],
        "image_token_id": markers["image"],
        "audio_token_id": markers["audio"],
        "video_token_id": markers["video"],
        "boi_token_id": markers["boi"],
        "eoi_token_id": markers["eoi"],
        "boa_token_id": markers["boa"],
        "eoa_token_index": markers["eoa"],
    }


def _vision_config(shrink: int) -> dict[str, Any]:
    return {
        "model_type": "gemma4_vision",
        "hidden_size": 768 // shrink,
        "intermediate_size": 3072 // shrink,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "head_dim": 64 // shrink,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "position_embedding_size": 10_240,
        "use_clipped_linears": True,
        "standardize": False,
        "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
        "dtype": "bfloat16",
    }


def _audio_config(shrink: int) -> dict[str, Any]:
    return {
        "model_type": "gemma4_audio",
        "hidden_size": 1024 // shrink,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "hidden_act": "silu",
        # The first equals the number of mel bins, which the feature extractor decides; so neither is divided.
        "subsampling_conv_channels": [128, 32],
        "conv_kernel_size": 5,
        "residual_weight": 0.5,
        "attention_chunk_size": 12,
        "attention_context_left": 13,
        "attention_context_right": 0,
        "attention_logit_cap": 50.0,
        "attention_invalid_logits_value": -1e9,
        "use_clipped_linears": True,
        "rms_norm_eps": 1e-6,
        "gradient_clipping": 1e10,
        "output_proj_dims": 1536 // shrink,
        "dtype": "bfloat16",
    }


def checkpoint_shapes(config: Gemma4Config) -> Shapes:
    """Every tensor of a whole multimodal checkpoint with tied embeddings, by name, in the order they are written."""
    text, vision, audio = config.text, config.vision, config.audio
    if vision is None or audio is None:
        raise AssertionError("a full-size configuration has both towers")
    shapes: Shapes = {
        EMBEDDING: (text.vocab_size, text.hidden_size),
        PLE_TABLE: (text.vocab_size_per_layer_input, text.per_layer_width),
    }
    shapes |= chunk_shapes(text, 0, text.num_hidden_layers)
    shapes |= vision_shapes(vision, text.hidden_size)
    shapes |= audio_shapes(audio)
    return shapes | {
        AUDIO_OUTPUT_WEIGHT: (audio.output_proj_dims, audio.hidden_size),
        AUDIO_OUTPUT_BIAS: (audio.output_proj_dims,),
        AUDIO_PROJECTION: (text.hidden_size, audio.output_proj_dims),
    }


def _alike(size: FullSize, text: TextConfig) -> dict[str, str]:
    """Tensors that equal another one -> that one.

    Equal tensors are stored once in a `weight.bin`, so the exact sizes of the public bundles' chunks tell how many of
    the small norms are equal: `q_norm` in all layers that read the K/V of a producer, and in the producer; and some
    norms of other sliding layers, seven in E4B and four in E2B. Which ones the sizes do not tell; `k_norm` of the
    layers in `equal_keys` stands for them.
    """
    alike: dict[str, str] = {}
    for layer in range(text.first_shared_layer, text.num_hidden_layers):
        sliding, full = text.kv_producers
        producer = full if text.is_full(layer) else sliding
        alike[_norm(layer, "q")] = _norm(producer, "q")
    for first, *others in size.equal_keys:
        alike |= {_norm(layer, "k"): _norm(first, "k") for layer in others}
    return alike


def _norm(layer: int, kind: str) -> str:
    return f"{TEXT}layers.{layer}.self_attn.{kind}_norm.weight"


def divide(tensors: list[PlannedTensor], limit: int) -> tuple[Shard, ...]:
    """Shards of at most `limit` bytes, a larger tensor alone in its shard, in the given order."""
    groups: list[list[PlannedTensor]] = [[]]
    room = limit
    for tensor in tensors:
        if tensor.size > room and groups[-1]:
            groups.append([])
            room = limit
        groups[-1].append(tensor)
        room -= tensor.size
    total = len(groups)
    return tuple(
        Shard(f"model-{number:05d}-of-{total:05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, start=1)
    )


def index_json(plan: SyntheticPlan) -> str:
    """`model.safetensors.index.json`."""
    weight_map = {tensor.name: shard.file for shard in plan.shards for tensor in shard.tensors}
    return (
        json.dumps({"metadata": {"total_size": plan.size}, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"
    )
