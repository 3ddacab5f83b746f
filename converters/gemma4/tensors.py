"""Which checkpoint tensors a range of Gemma 4 text layers is made of, with their shapes.

One table serves the recipes, which only plan, and the converters, which read. Nothing heavy is imported.
"""

from __future__ import annotations

from converters.gemma4.config import TextConfig

TEXT = "model.language_model."
"""Prefix of the text model's tensors in a checkpoint saved by transformers."""

EMBEDDING = f"{TEXT}embed_tokens.weight"
"""The token embedding; E2B and E4B tie the LM head to it."""

LM_HEAD = "lm_head.weight"
"""The LM head of a checkpoint that does not tie it."""

FINAL_NORM = f"{TEXT}norm.weight"
PLE_PROJECTION = f"{TEXT}per_layer_model_projection.weight"
PLE_NORM = f"{TEXT}per_layer_projection_norm.weight"

Shapes = dict[str, tuple[int, ...]]


def layer_shapes(text: TextConfig, layer: int) -> Shapes:
    """Tensors of one decoder layer by their name inside the layer, e.g. `mlp.up_proj.weight`."""
    hidden, inner = text.hidden_size, text.intermediate_size_of(layer)
    per_layer, head_dim = text.hidden_size_per_layer_input, text.head_dim_of(layer)
    queries = text.num_attention_heads * head_dim
    keys = text.num_key_value_heads * head_dim
    shapes: Shapes = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.q_norm.weight": (head_dim,),
        "self_attn.o_proj.weight": (hidden, queries),
        "post_attention_layernorm.weight": (hidden,),
        "pre_feedforward_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "post_feedforward_layernorm.weight": (hidden,),
        "per_layer_input_gate.weight": (per_layer, hidden),
        "per_layer_projection.weight": (hidden, per_layer),
        "post_per_layer_input_norm.weight": (hidden,),
        "layer_scalar": (1,),
    }
    if not text.is_shared(layer):
        shapes |= {
            "self_attn.k_proj.weight": (keys, hidden),
            "self_attn.v_proj.weight": (keys, hidden),
            "self_attn.k_norm.weight": (head_dim,),
        }
    return shapes


def head_tensor(text: TextConfig) -> str:
    """What the LM head multiplies with: the embedding, or a matrix of its own."""
    return EMBEDDING if text.tie_word_embeddings else LM_HEAD


def chunk_shapes(text: TextConfig, start: int, end: int) -> Shapes:
    """Every tensor, by canonical checkpoint name, that the chunk of layers `[start, end)` reads.

    The first chunk also computes the per-layer inputs; the last one also holds the final norm and the LM head.
    """
    shapes: Shapes = {
        f"{TEXT}layers.{layer}.{name}": shape
        for layer in range(start, end)
        for name, shape in layer_shapes(text, layer).items()
    }
    hidden, per_layer = text.hidden_size, text.hidden_size_per_layer_input
    if start == 0:
        shapes[PLE_PROJECTION] = (text.per_layer_width, hidden)
        shapes[PLE_NORM] = (per_layer,)
    if end == text.num_hidden_layers:
        shapes[FINAL_NORM] = (hidden,)
        shapes[head_tensor(text)] = (text.vocab_size, hidden)
    return shapes
