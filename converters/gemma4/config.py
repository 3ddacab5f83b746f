"""Gemma 4's `config.json`, parsed by hand into frozen values, and the layer arithmetic that follows from it.

transformers is not used: 5.5 spells the head dimension of full-attention layers `global_head_dim`, 5.17 and later
spell it `per_layer_config`, neither reads the other's file faithfully, and planning a build must stay light.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.errors import RecipeError
from converters.gemma4.fields import Fields

SLIDING = "sliding_attention"
FULL = "full_attention"
LAYER_TYPES = (SLIDING, FULL)

ACTIVATION = "gelu_pytorch_tanh"
MODEL_TYPES = ("gemma4", "gemma4_text")

Range = tuple[int, int]
"""Layers `start` to `end`, end exclusive."""


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding of one layer type.

    Attributes:
        theta: base wavelength.
        type: `default` or `proportional`.
        partial_rotary_factor: share of the frequency pairs that turn at all; 1.0 unless proportional.
    """

    theta: float
    type: str
    partial_rotary_factor: float


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Special tokens; the multimodal ones are None in a text-only checkpoint. `eos` has at least one id."""

    bos: int
    eos: tuple[int, ...]
    pad: int | None
    image: int | None = None
    audio: int | None = None
    video: int | None = None
    boi: int | None = None
    eoi: int | None = None
    boa: int | None = None
    eoa: int | None = None


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The language model. Names are those of `config.json`, except `rope`, `tokens` and tuples for lists."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    global_head_dim: int
    intermediate_size: int
    use_double_wide_mlp: bool
    vocab_size: int
    vocab_size_per_layer_input: int
    hidden_size_per_layer_input: int
    num_kv_shared_layers: int
    layer_types: tuple[str, ...]
    sliding_window: int
    final_logit_softcapping: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    max_position_embeddings: int
    rope_sliding: RopeConfig
    rope_full: RopeConfig
    tokens: TokenIds

    def rope(self, layer_type: str) -> RopeConfig:
        """Rotary embedding of `sliding_attention` or `full_attention` layers."""
        return {SLIDING: self.rope_sliding, FULL: self.rope_full}[layer_type]

    @property
    def first_shared_layer(self) -> int:
        """The first layer without K/V of its own; it and all later ones read the producers' K/V."""
        return self.num_hidden_layers - self.num_kv_shared_layers

    @property
    def kv_producers(self) -> tuple[int, int]:
        """(sliding, full): the last layer of each type with K/V of its own, whose K/V the shared layers read."""
        own = self.layer_types[: self.first_shared_layer]
        last = {layer_type: len(own) - 1 - own[::-1].index(layer_type) for layer_type in LAYER_TYPES}
        return last[SLIDING], last[FULL]

    @property
    def full_attention_every(self) -> int:
        """The n such that exactly layers n-1, 2n-1, ... are full-attention ones (E4B 6, E2B 5), else 0."""
        period = self.layer_types.index(FULL) + 1
        regular = all((layer % period == period - 1) == self.is_full(layer) for layer in range(len(self.layer_types)))
        return period if regular else 0

    def is_full(self, layer: int) -> bool:
        """Whether this layer attends to the whole context."""
        return self.layer_types[layer] == FULL

    def is_shared(self, layer: int) -> bool:
        """Whether this layer reads a producer's K/V."""
        return layer >= self.first_shared_layer

    def head_dim_of(self, layer: int) -> int:
        """Size of one attention head in this layer."""
        return self.global_head_dim if self.is_full(layer) else self.head_dim

    def intermediate_size_of(self, layer: int) -> int:
        """Width of this layer's MLP; KV-shared layers of E2B have twice the usual one."""
        doubled = self.use_double_wide_mlp and self.is_shared(layer)
        return 2 * self.intermediate_size if doubled else self.intermediate_size

    @property
    def per_layer_width(self) -> int:
        """Width of the per-layer embedding table: one slice of `hidden_size_per_layer_input` for each layer."""
        return self.num_hidden_layers * self.hidden_size_per_layer_input

    def chunk_boundaries(self) -> tuple[Range, Range, Range, Range]:
        """Layer ranges of chunk1 to chunk4, as the Swift engine computes them (its `ModelConfig`).

        Layers with their own K/V are halved (the first half rounded up) and so are the shared ones (rounded
        down), so no chunk mixes both kinds.
        """
        own_end = self.first_shared_layer
        first = (own_end + 1) // 2
        third = own_end + (self.num_hidden_layers - own_end) // 2
        return (0, first), (first, own_end), (own_end, third), (third, self.num_hidden_layers)

    def merged_boundaries(self) -> tuple[Range, Range, Range]:
        """Layer ranges of chunk1, chunk2_3way (chunk2 and chunk3 in one) and chunk3_3way (= chunk4)."""
        first, second, third, fourth = self.chunk_boundaries()
        return first, (second[0], third[1]), fourth

    def own_kv_layers(self, start: int, end: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(sliding, full): layers of the range that keep K/V of their own, in order; cache slots follow it."""
        own = range(start, min(end, self.first_shared_layer))
        sliding = tuple(layer for layer in own if not self.is_full(layer))
        return sliding, tuple(layer for layer in own if self.is_full(layer))


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The vision tower."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    patch_size: int
    pooling_kernel_size: int
    position_embedding_size: int
    use_clipped_linears: bool
    standardize: bool
    rope_theta: float


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """The audio tower (a Conformer)."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    subsampling_conv_channels: tuple[int, int]
    conv_kernel_size: int
    residual_weight: float
    attention_chunk_size: int
    attention_context_left: int
    attention_context_right: int
    attention_logit_cap: float
    attention_invalid_logits_value: float
    use_clipped_linears: bool
    rms_norm_eps: float
    gradient_clipping: float
    output_proj_dims: int


@dataclass(frozen=True, slots=True)
class Gemma4Config:
    """A whole checkpoint; `vision` and `audio` are None where it has no such tower."""

    text: TextConfig
    vision: VisionConfig | None
    audio: AudioConfig | None

    @property
    def tokens(self) -> TokenIds:
        """Special token ids."""
        return self.text.tokens


def parse_config(raw: Mapping[str, Any]) -> Gemma4Config:
    """Parses a `config.json`, multimodal or text-only.

    Raises:
        RecipeError: not Gemma 4, a key is missing or malformed, keys contradict each other, or the model uses
            something the converters do not do. The message names the key.
    """
    root = Fields(raw, "config.json")
    model_type = root.text("model_type", default="")
    if model_type not in MODEL_TYPES:
        raise RecipeError(f"config.json: model_type is {model_type!r}, expected one of {', '.join(MODEL_TYPES)}")
    if model_type == "gemma4_text":
        return Gemma4Config(_parse_text(root, root), None, None)
    vision, audio = root.child("vision_config"), root.child("audio_config")
    text = root.child("text_config")
    if text is None:
        raise RecipeError("config.json: text_config is missing")
    return Gemma4Config(
        _parse_text(text, root),
        _parse_vision(vision) if vision is not None else None,
        _parse_audio(audio) if audio is not None else None,
    )


def _parse_text(text: Fields, root: Fields) -> TextConfig:
    _refuse_unsupported(text)
    layers = text.count("num_hidden_layers")
    layer_types = _parse_layer_types(text, layers)
    head_dim = text.count("head_dim")
    vocab_size = text.count("vocab_size")
    config = TextConfig(
        hidden_size=text.count("hidden_size"),
        num_hidden_layers=layers,
        num_attention_heads=text.count("num_attention_heads"),
        num_key_value_heads=text.count("num_key_value_heads"),
        head_dim=head_dim,
        global_head_dim=_parse_global_head_dim(text, layer_types, head_dim),
        intermediate_size=text.count("intermediate_size"),
        use_double_wide_mlp=text.flag("use_double_wide_mlp", default=False),
        vocab_size=vocab_size,
        vocab_size_per_layer_input=text.count("vocab_size_per_layer_input", default=vocab_size),
        hidden_size_per_layer_input=text.count("hidden_size_per_layer_input"),
        num_kv_shared_layers=text.count("num_kv_shared_layers"),
        layer_types=layer_types,
        sliding_window=text.count("sliding_window"),
        final_logit_softcapping=text.positive("final_logit_softcapping"),
        rms_norm_eps=text.positive("rms_norm_eps", default=1e-6),
        tie_word_embeddings=root.flag("tie_word_embeddings", default=True),  # transformers asks the outer one
        max_position_embeddings=text.count("max_position_embeddings", default=131_072),
        rope_sliding=_parse_rope(text, SLIDING),
        rope_full=_parse_rope(text, FULL),
        tokens=_parse_tokens(text, root, vocab_size),
    )
    _check_sharing(text, config)
    return config


def _refuse_unsupported(text: Fields) -> None:
    """Properties of other Gemma 4 models that the converters would silently get wrong."""
    for key in ("attention_k_eq_v", "enable_moe_block", "attention_bias"):
        if text.flag(key, default=False):
            raise RecipeError(f"{text.path(key)} is true; the converters handle dense E2B and E4B models only")
    activation = text.text("hidden_activation", default=ACTIVATION)
    if activation != ACTIVATION:
        raise RecipeError(f"{text.path('hidden_activation')} is {activation!r}; only {ACTIVATION} is supported")
    if text.get("use_bidirectional_attention") == "all":
        raise RecipeError(f"{text.path('use_bidirectional_attention')} is 'all'; decoding needs causal attention")


def _parse_layer_types(text: Fields, layers: int) -> tuple[str, ...]:
    """The attention type of each layer; never guessed: E2B and E4B differ, and a wrong guess stays unnoticed."""
    where = text.path("layer_types")
    found = text.get("layer_types")
    if found is None:
        pattern = text.count("sliding_window_pattern", default=None)
        if pattern is None:
            raise RecipeError(f"{where} is missing, and so is sliding_window_pattern; it cannot be guessed")
        found = [FULL if (layer + 1) % pattern == 0 else SLIDING for layer in range(layers)]
    if not isinstance(found, list) or any(item not in LAYER_TYPES for item in found):
        raise RecipeError(f"{where} must be a list of {' and '.join(LAYER_TYPES)}")
    if len(found) != layers:
        raise RecipeError(f"{where} has {len(found)} entries for {layers} layers (num_hidden_layers)")
    if found[-1] != FULL:
        raise RecipeError(f"{where} ends with {found[-1]}; Gemma 4's last layer is always {FULL}")
    return tuple(found)


def _parse_global_head_dim(text: Fields, layer_types: tuple[str, ...], head_dim: int) -> int:
    """Head dimension of the full-attention layers, from either spelling; both must agree where both occur."""
    spelled = text.count("global_head_dim", default=None)
    per_layer = text.child("per_layer_config")
    if per_layer is None:
        if spelled is None:
            raise RecipeError(f"{text.path('global_head_dim')} is missing, and so is per_layer_config")
        return spelled
    dims = dict.fromkeys(range(len(layer_types)), head_dim)
    for key in per_layer.raw:
        layer = int(key) if key.isdecimal() and len(key) < 9 else -1
        override = per_layer.child(key)
        if layer not in dims or override is None:
            raise RecipeError(f"{per_layer.path(key)} does not describe one of {len(layer_types)} layers")
        other = sorted(set(override.raw) - {"head_dim"})
        if other:
            raise RecipeError(f"{override.path(other[0])} overrides more than head_dim, which is not supported")
        dims[layer] = override.count("head_dim", default=head_dim)
    full = {dim for layer, dim in dims.items() if layer_types[layer] == FULL}
    sliding = {dim for layer, dim in dims.items() if layer_types[layer] == SLIDING}
    if len(full) != 1 or sliding - {head_dim}:
        raise RecipeError(f"{text.path('per_layer_config')}: head_dim must depend on the layer type alone")
    (found,) = full
    if spelled not in (None, found):
        raise RecipeError(f"{text.path('global_head_dim')} is {spelled}, but per_layer_config says {found}")
    return found


def _parse_rope(text: Fields, layer_type: str) -> RopeConfig:
    parameters = text.child("rope_parameters")
    rope = parameters.child(layer_type) if parameters is not None else None
    if rope is None:
        raise RecipeError(f"{text.path('rope_parameters')}: {layer_type} is missing")
    kind = rope.text("rope_type")
    partial = rope.positive("partial_rotary_factor", default=1.0)
    if kind not in ("default", "proportional"):
        raise RecipeError(f"{rope.path('rope_type')} is {kind!r}; only default and proportional are supported")
    if partial > 1 or (kind == "default" and partial != 1):
        raise RecipeError(f"{rope.path('partial_rotary_factor')} is {partial}, which {kind} rope does not have")
    if rope.positive("factor", default=1.0) != 1:
        raise RecipeError(f"{rope.path('factor')} is set; scaled rope is not supported")
    return RopeConfig(rope.positive("rope_theta"), kind, partial)


def _parse_tokens(text: Fields, root: Fields, vocab_size: int) -> TokenIds:
    def token(*keys: str) -> int | None:
        for fields in (root, text):
            for key in keys:
                if fields.get(key) is not None:
                    return fields.index(key, vocab_size)
        return None

    eos_fields = root if root.get("eos_token_id") is not None else text
    bos = token("bos_token_id")
    if bos is None:
        raise RecipeError(f"{text.path('bos_token_id')} is missing")
    return TokenIds(
        bos=bos,
        eos=eos_fields.indices("eos_token_id", vocab_size),
        pad=token("pad_token_id"),
        image=token("image_token_id"),
        audio=token("audio_token_id"),
        video=token("video_token_id"),
        boi=token("boi_token_id"),
        eoi=token("eoi_token_id"),
        boa=token("boa_token_id"),
        eoa=token("eoa_token_id", "eoa_token_index"),
    )


def _check_sharing(text: Fields, config: TextConfig) -> None:
    shared, layers = config.num_kv_shared_layers, config.num_hidden_layers
    if shared >= layers:
        raise RecipeError(f"{text.path('num_kv_shared_layers')} is {shared} of {layers} layers; none would be left")
    own = config.layer_types[: config.first_shared_layer]
    for layer_type in LAYER_TYPES:
        if layer_type not in own:
            raise RecipeError(
                f"{text.path('num_kv_shared_layers')} is {shared}, which leaves no {layer_type} layer with its own K/V"
            )
    if config.num_attention_heads % config.num_key_value_heads:
        raise RecipeError(
            f"{text.path('num_attention_heads')} is {config.num_attention_heads}, not a multiple of"
            f" num_key_value_heads {config.num_key_value_heads}"
        )
    for key in ("head_dim", "global_head_dim"):
        if getattr(config, key) % 2:
            raise RecipeError(f"{text.path(key)} is odd; rotary embeddings need pairs")


def _parse_vision(fields: Fields) -> VisionConfig:
    rope = fields.child("rope_parameters")
    heads = fields.count("num_attention_heads")
    activation = fields.text("hidden_activation", default=ACTIVATION)
    if activation != ACTIVATION:
        raise RecipeError(f"{fields.path('hidden_activation')} is {activation!r}; only {ACTIVATION} is supported")
    if fields.flag("attention_bias", default=False):
        raise RecipeError(f"{fields.path('attention_bias')} is true, which is not supported")
    return VisionConfig(
        hidden_size=fields.count("hidden_size"),
        intermediate_size=fields.count("intermediate_size"),
        num_hidden_layers=fields.count("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=fields.count("num_key_value_heads", default=heads),
        head_dim=fields.count("head_dim"),
        rms_norm_eps=fields.positive("rms_norm_eps", default=1e-6),
        patch_size=fields.count("patch_size", default=16),
        pooling_kernel_size=fields.count("pooling_kernel_size", default=3),
        position_embedding_size=fields.count("position_embedding_size"),
        use_clipped_linears=fields.flag("use_clipped_linears", default=False),
        standardize=fields.flag("standardize", default=False),
        # 100 is the class default of transformers' Gemma4VisionConfig
        rope_theta=100.0 if rope is None else rope.positive("rope_theta", default=100.0),
    )


def _parse_audio(fields: Fields) -> AudioConfig:
    """Values missing from the file are transformers' `Gemma4AudioConfig` defaults, which are the real model's."""
    channels = fields.get("subsampling_conv_channels", [128, 32])
    if not isinstance(channels, list) or len(channels) != 2 or any(type(item) is not int for item in channels):
        raise RecipeError(f"{fields.path('subsampling_conv_channels')} is {channels!r}, expected two numbers")
    activation = fields.text("hidden_act", default="silu")
    if activation != "silu":
        raise RecipeError(f"{fields.path('hidden_act')} is {activation!r}; only silu is supported")
    return AudioConfig(
        hidden_size=fields.count("hidden_size"),
        num_hidden_layers=fields.count("num_hidden_layers"),
        num_attention_heads=fields.count("num_attention_heads"),
        subsampling_conv_channels=(channels[0], channels[1]),
        conv_kernel_size=fields.count("conv_kernel_size", default=5),
        residual_weight=fields.positive("residual_weight", default=0.5),
        attention_chunk_size=fields.count("attention_chunk_size", default=12),
        attention_context_left=fields.count("attention_context_left", default=13),
        attention_context_right=fields.index("attention_context_right", 1 << 31, default=0),
        attention_logit_cap=fields.positive("attention_logit_cap", default=50.0),
        attention_invalid_logits_value=fields.number("attention_invalid_logits_value", default=-1e9),
        use_clipped_linears=fields.flag("use_clipped_linears", default=True),
        rms_norm_eps=fields.positive("rms_norm_eps", default=1e-6),
        gradient_clipping=fields.positive("gradient_clipping", default=1e10),
        output_proj_dims=fields.count("output_proj_dims"),
    )


def check_expectations(
    config: Gemma4Config, expect: Mapping[str, int | bool | str | float], entry: str = "the manifest"
) -> None:
    """Compares the checkpoint with what an entry says it is made from.

    Args:
        config: of the checkpoint.
        expect: text keys by their `config.json` name, e.g. `num_hidden_layers`; others with the tower in front,
            e.g. `vision.hidden_size`.
        entry: who expects it, for the message.

    Raises:
        RecipeError: names every key that differs, with both values.
    """
    differing = []
    for key, wanted in expect.items():
        part, _, name = key.rpartition(".")
        kind = _SECTIONS.get(part or "text")
        if kind is None or name not in _expectable(kind):
            raise RecipeError(f"{entry} expects {key} to be {wanted}, which is no key of Gemma 4's configuration")
        section = getattr(config, part or "text")
        found = "missing" if section is None else getattr(section, name)
        if found != wanted:
            differing.append(f"{key} is {found}, {entry} expects {wanted}")
    if differing:
        raise RecipeError("this is another model size: " + "; ".join(differing))


_SECTIONS: Mapping[str, type] = {"text": TextConfig, "vision": VisionConfig, "audio": AudioConfig}


def _expectable(section: type) -> frozenset[str]:
    """Fields and computed properties of a section."""
    computed = (name for name, value in vars(section).items() if isinstance(value, property))
    return frozenset(field.name for field in dataclasses.fields(section)) | frozenset(computed)
