"""Declares Gemma 4's sidecars: everything in a bundle that is not a Core ML model."""

from __future__ import annotations

from converters.checkpoint import Checkpoint
from converters.gemma4 import audio_features, sidecars, tokenizer_files
from converters.gemma4.config import parse_config
from converters.gemma4.sidecars import PLE_TABLE
from converters.gemma4.tensors import EMBEDDING, LM_HEAD, PLE_NORM, PLE_PROJECTION
from converters.parameters import text
from converters.recipe import STREAMED, Needs, Parameters, Recipe

_RUN = "converters.gemma4.sidecars"


def _embeddings(checkpoint: Checkpoint, _parameters: Parameters) -> Needs:
    config = parse_config(checkpoint.config).text
    shape = (config.vocab_size, config.hidden_size)
    twin = config.tie_word_embeddings and LM_HEAD in checkpoint.names
    names = (EMBEDDING, LM_HEAD) if twin else (EMBEDDING,)
    for name in names:
        checkpoint.require(name, shape)
    return Needs(tensors=names)


def _per_layer_embeddings(checkpoint: Checkpoint, _parameters: Parameters) -> Needs:
    config = parse_config(checkpoint.config).text
    checkpoint.require(PLE_TABLE, (config.vocab_size_per_layer_input, config.per_layer_width))
    return Needs(tensors=(PLE_TABLE,))


def _per_layer_projection(checkpoint: Checkpoint, _parameters: Parameters) -> Needs:
    config = parse_config(checkpoint.config).text
    checkpoint.require(PLE_PROJECTION, (config.per_layer_width, config.hidden_size))
    checkpoint.require(PLE_NORM, (config.hidden_size_per_layer_input,))
    return Needs(tensors=(PLE_PROJECTION, PLE_NORM))


def _rope(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    sidecars.rope_parameters(parse_config(checkpoint.config), parameters)
    return Needs()


def _model_config(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    sidecars.context_length(parse_config(checkpoint.config), parameters)
    for key in ("model_name", "quantization", "compute_units", "tokenizer_repo"):
        text(parameters, key)
    return Needs()


def _tokenizer(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    parse_config(checkpoint.config)
    text(parameters, "end_of_turn")
    return Needs(files=tokenizer_files.source_files(checkpoint))


def _audio_projection(checkpoint: Checkpoint, _parameters: Parameters) -> Needs:
    needed = sidecars.audio_projection_tensors(parse_config(checkpoint.config))
    return Needs(tensors=tuple(checkpoint.require(name, shape).name for _, name, shape in needed))


def _audio_features(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    config = parse_config(checkpoint.config)
    sidecars.require_audio(config)
    frames, quantization = sidecars.audio_features_parameters(parameters)
    features = audio_features.read_features(checkpoint)
    audio_features.audio_config(features, config.tokens, frames, quantization)
    source = audio_features.feature_file(checkpoint)
    return Needs(files=("config.json",) if source is None else ("config.json", source))


SIDECAR_RECIPES: tuple[Recipe, ...] = (
    Recipe("gemma4.embeddings", 1, ("torch",), {}, _embeddings, f"{_RUN}:embeddings", weight=0.2, memory=STREAMED),
    Recipe(
        "gemma4.per-layer-embeddings",
        1,
        ("torch",),
        {},
        _per_layer_embeddings,
        f"{_RUN}:per_layer_embeddings",
        weight=0.6,
        memory=STREAMED,
    ),
    Recipe(
        "gemma4.per-layer-projection",
        1,
        ("torch",),
        {},
        _per_layer_projection,
        f"{_RUN}:per_layer_projection",
        weight=0.05,
        memory=STREAMED,
    ),
    Recipe(
        "gemma4.rope",
        1,
        ("torch",),
        {"context_length": 2048, "variant": "transformers"},
        _rope,
        f"{_RUN}:rope_tables",
        weight=0.05,
        memory=STREAMED,
    ),
    Recipe(
        "gemma4.model-config",
        1,
        (),
        {
            "model_name": "",  # names the entry, so there is no default that would be right
            "context_length": 2048,
            "quantization": "int4",
            "compute_units": "CPU_AND_NE",
            "tokenizer_repo": "",
        },
        _model_config,
        f"{_RUN}:model_settings",
        weight=0.01,
        memory=STREAMED,
    ),
    Recipe(
        "gemma4.tokenizer",
        1,
        (),
        {"end_of_turn": "<turn|>"},
        _tokenizer,
        f"{_RUN}:tokenizer",
        weight=0.05,
        memory=STREAMED,
    ),
    Recipe(
        "gemma4.audio-projection",
        1,
        ("torch",),
        {},
        _audio_projection,
        f"{_RUN}:audio_projection",
        weight=0.05,
        memory=STREAMED,
    ),
    Recipe(
        "gemma4.audio-features",
        1,
        ("numpy",),
        {"frames": 200, "quantization": "int4"},
        _audio_features,
        f"{_RUN}:audio_features_files",
        weight=0.01,
        memory=STREAMED,
    ),
)
