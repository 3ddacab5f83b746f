"""Carries the sidecar recipes out: each function here writes one component's files into its job's output."""

from __future__ import annotations

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4 import audio_features, model_config, rope, tables, tokenizer_files
from converters.gemma4.config import AudioConfig, Gemma4Config, parse_config
from converters.gemma4.tensors import EMBEDDING, LM_HEAD, PLE_NORM, PLE_PROJECTION, TEXT
from converters.parameters import choice, text, whole
from converters.recipe import Job, Parameters

PLE_TABLE = f"{TEXT}embed_tokens_per_layer.weight"
AUDIO_OUTPUT_WEIGHT = "model.audio_tower.output_proj.weight"
AUDIO_OUTPUT_BIAS = "model.audio_tower.output_proj.bias"
AUDIO_EMBEDDING = "model.embed_audio.embedding_projection.weight"

TOKENIZER_FOLDER = "hf_model"

MAX_FRAMES = 3000  # 30 s of sound, the most that transformers' feature extractor keeps


def embeddings(job: Job) -> None:
    """`embed_tokens_q8.bin` (vocab, hidden) int8 and `embed_tokens_scales.bin` (vocab,) fp16."""
    checkpoint, config = _open(job)
    shape = (config.text.vocab_size, config.text.hidden_size)
    _write_table(job, checkpoint, "embed_tokens", EMBEDDING, shape)


def per_layer_embeddings(job: Job) -> None:
    """`embed_tokens_per_layer_q8.bin` (vocab, layers * width) int8 and its `_scales.bin` (vocab,) fp16.

    One scale spans a token's whole row, all layers together.
    """
    checkpoint, config = _open(job)
    shape = (config.text.vocab_size_per_layer_input, config.text.per_layer_width)
    _write_table(job, checkpoint, "embed_tokens_per_layer", PLE_TABLE, shape)


def per_layer_projection(job: Job) -> None:
    """`per_layer_projection.bin` (layers * width, hidden) fp16 and `per_layer_norm_weight.bin` (width,) float32.

    The norm is float32 because the app reads 4 bytes per value; the first public E4B bundle had fp16 here.
    """
    checkpoint, config = _open(job)
    job.progress("per-layer projection", 0.0)
    shape = (config.text.per_layer_width, config.text.hidden_size)
    tables.write_half(checkpoint, PLE_PROJECTION, shape, job.output / "per_layer_projection.bin")
    norm = job.output / "per_layer_norm_weight.bin"
    tables.write_float32(checkpoint, PLE_NORM, (config.text.hidden_size_per_layer_input,), norm)
    job.progress("per-layer projection", 1.0)


def rope_tables(job: Job) -> None:
    """`cos_sliding.npy`, `sin_sliding.npy`, `cos_full.npy`, `sin_full.npy` (rows, head_dim) fp16."""
    _, config = _open(job)
    length, variant = rope_parameters(config, job.parameters)
    job.progress("rotary tables", 0.0)
    rope.write_rope_tables(config.text, length, variant, job.output)
    job.progress("rotary tables", 1.0)


def rope_parameters(config: Gemma4Config, parameters: Parameters) -> tuple[int, str]:
    """Checked (context_length, variant) of the rope recipe."""
    return context_length(config, parameters), choice(parameters, "variant", rope.VARIANTS)


def context_length(config: Gemma4Config, parameters: Parameters) -> int:
    """The parameter `context_length`: at least the sliding window, at most what the model was trained for."""
    return whole(parameters, "context_length", config.text.sliding_window, config.text.max_position_embeddings)


def model_settings(job: Job) -> None:
    """`model_config.json`."""
    _, config = _open(job)
    settings = model_config.model_config(
        config.text,
        model_name=text(job.parameters, "model_name"),
        context_length=context_length(config, job.parameters),
        quantization=text(job.parameters, "quantization"),
        compute_units=text(job.parameters, "compute_units"),
        tokenizer_repo=text(job.parameters, "tokenizer_repo"),
    )
    (job.output / "model_config.json").write_bytes(model_config.to_json(settings))


def tokenizer(job: Job) -> None:
    """`hf_model/`: tokenizer, chat template and the configs that go with them."""
    checkpoint = Checkpoint.open(job.checkpoint)
    folder = job.output / TOKENIZER_FOLDER
    folder.mkdir()
    files = tokenizer_files.tokenizer_files(checkpoint, text(job.parameters, "end_of_turn"))
    for name, content in files.items():
        (folder / name).write_bytes(content)


def audio_projection(job: Job) -> None:
    """`output_proj_weight.npy` (dims, audio hidden), `output_proj_bias.npy` and `embed_proj_weight.npy`, all fp16.

    They follow the audio encoder package: a linear layer with bias, an RMS norm without weight, another linear.
    """
    checkpoint, config = _open(job)
    for file, name, shape in audio_projection_tensors(config):
        tables.write_half(checkpoint, name, shape, job.output / file, npy=True)


def audio_projection_tensors(config: Gemma4Config) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """(file, tensor, shape) of the audio projection."""
    audio = require_audio(config)
    return (
        ("output_proj_weight.npy", AUDIO_OUTPUT_WEIGHT, (audio.output_proj_dims, audio.hidden_size)),
        ("output_proj_bias.npy", AUDIO_OUTPUT_BIAS, (audio.output_proj_dims,)),
        ("embed_proj_weight.npy", AUDIO_EMBEDDING, (config.text.hidden_size, audio.output_proj_dims)),
    )


def audio_features_files(job: Job) -> None:
    """`mel_filterbank.bin` (frequency bins, mel bins) float32 and `audio_config.json`."""
    checkpoint, config = _open(job)
    require_audio(config)
    features = audio_features.read_features(checkpoint)
    frames, quantization = audio_features_parameters(job.parameters)
    settings = audio_features.audio_config(features, config.tokens, frames, quantization)
    (job.output / "mel_filterbank.bin").write_bytes(audio_features.mel_filter_bank(features).tobytes())
    (job.output / "audio_config.json").write_bytes(model_config.to_json(settings))


def audio_features_parameters(parameters: Parameters) -> tuple[int, str]:
    """Checked (frames, quantization) of the audio features recipe."""
    return whole(parameters, "frames", 1, MAX_FRAMES), text(parameters, "quantization")


def require_audio(config: Gemma4Config) -> AudioConfig:
    """The audio tower's config.

    Raises:
        RecipeError: the checkpoint has none.
    """
    if config.audio is None:
        raise RecipeError("config.json: audio_config is missing; a checkpoint without audio tower has no audio parts")
    return config.audio


def _open(job: Job) -> tuple[Checkpoint, Gemma4Config]:
    checkpoint = Checkpoint.open(job.checkpoint)
    return checkpoint, parse_config(checkpoint.config)


def _write_table(job: Job, checkpoint: Checkpoint, stem: str, tensor: str, shape: tuple[int, int]) -> None:
    # Some tools store the tied head as well; then it has to be the embedding, or the head would be silently lost.
    tied = tensor == EMBEDDING and parse_config(checkpoint.config).text.tie_word_embeddings

    def report(fraction: float) -> None:
        job.progress(f"quantising {stem}", fraction)

    tables.write_quantized_table(
        checkpoint,
        tensor,
        shape,
        job.output / f"{stem}_q8.bin",
        job.output / f"{stem}_scales.bin",
        must_equal=LM_HEAD if tied and LM_HEAD in checkpoint.names else None,
        progress=report,
    )
