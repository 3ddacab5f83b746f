"""`model_config.json`: how the app learns what it has loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from converters.gemma4.config import TextConfig


def model_config(
    text: TextConfig,
    *,
    model_name: str,
    context_length: int,
    quantization: str,
    compute_units: str,
    tokenizer_repo: str,
) -> dict[str, Any]:
    """The content of `model_config.json`, in the order the public bundles have it.

    `layer_types` is always there: without it the app assumes E2B's pattern. `num_layers` repeats
    `num_hidden_layers` since readers ask for either.
    """
    return {
        "model_name": model_name,
        "architecture": "gemma4",
        "hidden_size": text.hidden_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "head_dim": text.head_dim,
        "global_head_dim": text.global_head_dim,
        "vocab_size": text.vocab_size,
        "context_length": context_length,
        "sliding_window": text.sliding_window,
        "per_layer_dim": text.hidden_size_per_layer_input,
        "num_kv_shared_layers": text.num_kv_shared_layers,
        "layer_types": list(text.layer_types),
        "embed_scale": math.sqrt(text.hidden_size),
        "per_layer_embed_scale": math.sqrt(text.hidden_size_per_layer_input),
        "per_layer_model_projection_scale": 1 / math.sqrt(text.hidden_size),
        "per_layer_input_scale": 1 / math.sqrt(2),
        "rms_norm_eps": text.rms_norm_eps,
        "final_logit_softcapping": text.final_logit_softcapping,
        "bos_token_id": text.tokens.bos,
        "eos_token_id": text.tokens.eos[0],
        "quantization": quantization,
        "compute_units": compute_units,
        "tokenizer_repo": tokenizer_repo,
    }


def to_json(value: Mapping[str, Any]) -> bytes:
    """Indented JSON in the mapping's own order, UTF-8, without a final newline as in the public bundles."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8")
