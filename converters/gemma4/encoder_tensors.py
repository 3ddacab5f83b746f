"""Which checkpoint tensors the vision and audio encoders are made of, with their shapes.

One table serves the recipes, which only plan, and the converters, which read. Nothing heavy is imported.
"""

from __future__ import annotations

from converters.errors import RecipeError
from converters.gemma4.config import AudioConfig, VisionConfig
from converters.gemma4.encoder_interface import patch_values
from converters.gemma4.tensors import Shapes

VISION = "model.vision_tower."
"""Prefix of the vision tower's tensors."""

AUDIO = "model.audio_tower."
"""Prefix of the audio tower's tensors."""

VISION_PROJECTION = "model.embed_vision.embedding_projection.weight"
"""From the vision tower's width to the text model's."""

AUDIO_OUTPUT_WEIGHT = f"{AUDIO}output_proj.weight"
AUDIO_OUTPUT_BIAS = f"{AUDIO}output_proj.bias"
AUDIO_PROJECTION = "model.embed_audio.embedding_projection.weight"
"""With the two before it, the audio path's last two stages: sidecar files of a bundle, not part of the encoder."""

CLIP_BOUNDS = ("input_min", "input_max", "output_min", "output_max")
"""Scalars beside every weight of a clipped linear layer (`Gemma4ClippableLinear`)."""

COMPUTED = ("position_embedding_table", "relative_k_proj.weight")
"""Large tensors that the encoders compute their own from when they are made, and do not multiply with themselves."""


def _linear(name: str, outputs: int, inputs: int, clipped: bool) -> Shapes:
    shapes: Shapes = {f"{name}.linear.weight": (outputs, inputs)}
    if clipped:
        shapes |= {f"{name}.{bound}": () for bound in CLIP_BOUNDS}
    return shapes


def vision_layer_shapes(vision: VisionConfig) -> Shapes:
    """Tensors of one vision layer by their name inside the layer, e.g. `mlp.up_proj.linear.weight`."""
    hidden, inner = vision.hidden_size, vision.intermediate_size
    heads = vision.num_attention_heads * vision.head_dim
    clipped = vision.use_clipped_linears
    shapes: Shapes = {}
    for projection in ("q_proj", "k_proj", "v_proj"):
        shapes |= _linear(f"self_attn.{projection}", heads, hidden, clipped)
    shapes |= _linear("self_attn.o_proj", hidden, heads, clipped)
    shapes |= _linear("mlp.gate_proj", inner, hidden, clipped)
    shapes |= _linear("mlp.up_proj", inner, hidden, clipped)
    shapes |= _linear("mlp.down_proj", hidden, inner, clipped)
    shapes |= {f"self_attn.{norm}.weight": (vision.head_dim,) for norm in ("q_norm", "k_norm")}
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    return shapes | {f"{norm}_layernorm.weight": (hidden,) for norm in norms}


def vision_shapes(vision: VisionConfig, text_hidden_size: int) -> Shapes:
    """Every tensor, by canonical checkpoint name, that the vision encoder reads.

    Raises:
        RecipeError: the config asks for something the encoder does not do.
    """
    if vision.num_key_value_heads != vision.num_attention_heads:
        raise RecipeError(
            f"config.json: vision_config.num_key_value_heads is {vision.num_key_value_heads}, but only as many as"
            f" num_attention_heads ({vision.num_attention_heads}) are supported"
        )
    if vision.head_dim % 4:
        raise RecipeError(
            f"config.json: vision_config.head_dim is {vision.head_dim}; its two-axis rotary embedding needs a"
            " multiple of 4"
        )
    hidden = vision.hidden_size
    shapes: Shapes = {
        f"{VISION}patch_embedder.input_proj.weight": (hidden, patch_values(vision)),
        f"{VISION}patch_embedder.position_embedding_table": (2, vision.position_embedding_size, hidden),
        VISION_PROJECTION: (text_hidden_size, hidden),
    }
    if vision.standardize:
        shapes |= {f"{VISION}std_bias": (hidden,), f"{VISION}std_scale": (hidden,)}
    layer = vision_layer_shapes(vision)
    for index in range(vision.num_hidden_layers):
        shapes |= {f"{VISION}encoder.layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def audio_layer_shapes(audio: AudioConfig) -> Shapes:
    """Tensors of one audio layer by their name inside the layer, e.g. `lconv1d.linear_end.linear.weight`."""
    hidden, clipped = audio.hidden_size, audio.use_clipped_linears
    shapes: Shapes = {
        "self_attn.per_dim_scale": (hidden // audio.num_attention_heads,),
        "self_attn.relative_k_proj.weight": (hidden, hidden),
        "lconv1d.depthwise_conv1d.weight": (hidden, 1, audio.conv_kernel_size),
    }
    for feed_forward in ("feed_forward1", "feed_forward2"):
        shapes |= _linear(f"{feed_forward}.ffw_layer_1", 4 * hidden, hidden, clipped)
        shapes |= _linear(f"{feed_forward}.ffw_layer_2", hidden, 4 * hidden, clipped)
        shapes |= {f"{feed_forward}.{norm}_layer_norm.weight": (hidden,) for norm in ("pre", "post")}
    for projection in ("q_proj", "k_proj", "v_proj", "post"):
        shapes |= _linear(f"self_attn.{projection}", hidden, hidden, clipped)
    shapes |= _linear("lconv1d.linear_start", 2 * hidden, hidden, clipped)
    shapes |= _linear("lconv1d.linear_end", hidden, hidden, clipped)
    norms = ("lconv1d.pre_layer_norm", "lconv1d.conv_norm", "norm_pre_attn", "norm_post_attn", "norm_out")
    return shapes | {f"{norm}.weight": (hidden,) for norm in norms}


def audio_shapes(audio: AudioConfig) -> Shapes:
    """Every tensor, by canonical checkpoint name, that the audio encoder reads (`output_proj` is a sidecar).

    Raises:
        RecipeError: the config contradicts itself.
    """
    hidden, heads = audio.hidden_size, audio.num_attention_heads
    if hidden % heads or hidden % 2:
        raise RecipeError(
            f"config.json: audio_config.hidden_size is {hidden}, which must be even and a multiple of"
            f" num_attention_heads ({heads})"
        )
    first, second = audio.subsampling_conv_channels
    convolutions = f"{AUDIO}subsample_conv_projection."
    shapes: Shapes = {
        f"{convolutions}layer0.conv.weight": (first, 1, 3, 3),
        f"{convolutions}layer0.norm.weight": (first,),
        f"{convolutions}layer1.conv.weight": (second, first, 3, 3),
        f"{convolutions}layer1.norm.weight": (second,),
        f"{convolutions}input_proj_linear.weight": (hidden, first // 4 * second),
    }
    layer = audio_layer_shapes(audio)
    for index in range(audio.num_hidden_layers):
        shapes |= {f"{AUDIO}layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes
