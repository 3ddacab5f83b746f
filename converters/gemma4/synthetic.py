"""Small checkpoints in the true Gemma 4 architecture, with random seeded weights, for demos and tests.

transformers' own classes decide names, shapes, file layout and `config.json`; only the values are ours. They are
drawn per tensor from its name and the seed, so the same seed gives the same bytes in any process and whatever order
transformers creates its modules in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from converters.gemma4 import synthetic_tokenizer as vocabulary
from converters.gemma4.config import FULL, SLIDING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# With q/k norms near 1 and attention scale 1.0, a narrow random model is chaotic: fp16 rounding of the weights alone
# flips every seventh argmax. Scaled by 0.35 its logits agree to 0.04 and its argmax always.
QK_NORM_SCALE = 0.35

MEL_BINS = 128  # the audio tower's first convolution has as many channels; the two must stay equal


@dataclass(frozen=True, slots=True)
class Size:
    """What distinguishes one synthetic model from another; everything else follows the real E2B and E4B.

    Attributes:
        layers: decoder layers.
        period: every `period`-th layer is a full-attention one (6 in E4B, 5 in E2B).
        shared: decoder layers without K/V of their own.
        key_value_heads: 2 in E4B, 1 in E2B.
        head_dim: of sliding layers; full ones have twice as much, as in the real models.
        intermediate: MLP width.
        double_wide: whether KV-shared layers have a doubled MLP (E2B).
        vocab: vocabulary of both embedding tables.
        window: sliding attention window.
        vision_layers: of the vision tower.
        audio_layers: of the audio tower.
        shard: largest shard, as transformers spells it.
        hidden: decoder width.
        per_layer: per-layer embedding width of one layer.
        heads: query heads, 8 in both.
        tied: whether the LM head is the embedding, as in both.
    """

    layers: int
    period: int
    shared: int
    key_value_heads: int
    head_dim: int
    intermediate: int
    double_wide: bool
    vocab: int
    window: int
    vision_layers: int
    audio_layers: int
    shard: str
    hidden: int = 128
    per_layer: int = 32
    heads: int = 8
    tied: bool = True


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        # E4B layer for layer: 42 layers 5:1, the last 18 shared, both towers at full depth
        "e4b-small": Size(42, 6, 18, 2, 16, 512, False, 2048, 512, 16, 12, "8MB"),
        # the smallest model whose four chunks each have sliding and full layers, hence 2:1 instead of 5:1
        "e4b-tiny": Size(12, 3, 6, 2, 16, 256, False, 1024, 8, 2, 2, "1500KB"),
        # E2B's pattern, single K/V head and double-wide MLPs, again with both kinds of layers in each chunk
        "e2b-tiny": Size(20, 5, 10, 1, 32, 256, True, 1024, 8, 2, 2, "2MB"),
    }
)

# Projections' output sizes stay multiples of 32 and matrices above 2048 elements, so that int4 palettization in
# groups of 32 output channels applies to each of them, as in the real model.
_VISION = {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 6, "num_key_value_heads": 6}
_AUDIO = {"hidden_size": 64, "num_attention_heads": 4, "output_proj_dims": 96}


def make_checkpoint(directory: Path, *, size: str | Size = "e4b-small", seed: int = 0) -> Path:
    """Writes a checkpoint that transformers loads: sharded bf16 weights, configs, tokenizer, chat template.

    Args:
        directory: created if need be; must be empty.
        size: one of `SIZES`, or one of your own.
        seed: of the weights.

    Returns:
        The directory.

    Raises:
        ValueError: unknown size, or the directory is not empty.
    """
    if isinstance(size, str) and size not in SIZES:
        raise ValueError(f"unknown size {size!r}; there are {', '.join(SIZES)}")
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty")
    chosen = SIZES[size] if isinstance(size, str) else size
    _save_model(directory, chosen, seed)
    vocabulary.save_tokenizer(directory, chosen.vocab)
    save_processors(directory)
    for path in directory.iterdir():
        path.chmod(0o644)  # safetensors writes private files
    return directory


def model_config(size: Size) -> Any:
    """The transformers `Gemma4Config` of a synthetic model."""
    from transformers import Gemma4Config

    ids = vocabulary.multimodal_ids(size.vocab)
    types = [FULL if (layer + 1) % size.period == 0 else SLIDING for layer in range(size.layers)]
    text = {
        "vocab_size": size.vocab,
        "vocab_size_per_layer_input": size.vocab,
        "hidden_size": size.hidden,
        "hidden_size_per_layer_input": size.per_layer,
        "intermediate_size": size.intermediate,
        "use_double_wide_mlp": size.double_wide,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_value_heads,
        "num_kv_shared_layers": size.shared,
        "head_dim": size.head_dim,
        "global_head_dim": 2 * size.head_dim,
        "layer_types": types,
        "sliding_window": size.window,
        "final_logit_softcapping": 30.0,
        "pad_token_id": vocabulary.PAD,
        "eos_token_id": vocabulary.EOS,
        "bos_token_id": vocabulary.BOS,
    }
    vision = {
        **_VISION,
        "num_hidden_layers": size.vision_layers,
        "head_dim": 16,
        "position_embedding_size": 1024,
        "use_clipped_linears": True,
    }
    audio = {**_AUDIO, "num_hidden_layers": size.audio_layers, "subsampling_conv_channels": [MEL_BINS, 32]}
    return Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        tie_word_embeddings=size.tied,
        image_token_id=ids["image"],
        audio_token_id=ids["audio"],
        video_token_id=ids["video"],
        boi_token_id=ids["boi"],
        eoi_token_id=ids["eoi"],
        boa_token_id=ids["boa"],
        eoa_token_index=ids["eoa"],
    )


def _save_model(directory: Path, size: Size, seed: int) -> None:
    import torch
    from transformers import Gemma4ForConditionalGeneration, GenerationConfig
    from transformers.initialization import no_init_weights
    from transformers.utils import logging

    with no_init_weights():
        model = Gemma4ForConditionalGeneration(model_config(size))
    model.tie_weights()
    model.to(torch.bfloat16)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name != "lm_head.weight" or not size.tied:
                drawn = draw(name, tuple(value.shape), seed)
                value.copy_(torch.from_numpy(drawn).reshape(value.shape))
    model.generation_config = GenerationConfig(
        bos_token_id=vocabulary.BOS,
        eos_token_id=[vocabulary.EOS, vocabulary.TURN_END, vocabulary.TOOL_RESPONSE],
        pad_token_id=vocabulary.PAD,
        do_sample=True,
        temperature=1.0,
        top_k=64,
        top_p=0.95,
    )
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(directory, max_shard_size=size.shard)
    finally:
        if shown:
            logging.enable_progress_bar()


def draw(name: str, shape: tuple[int, ...], seed: int) -> npt.NDArray[np.float32]:
    """Random values of a magnitude that suits the tensor, decided by its name, its shape and the seed alone.

    Returns:
        As many values as `shape` has, in one dimension.
    """
    import numpy as np

    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    random = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
    normal = random.standard_normal(math.prod(shape), dtype=np.float32)
    leaf = _leaf(name)
    if leaf == "layer_scalar":
        return random.uniform(0.85, 1.0, normal.size).astype(np.float32)
    if leaf in ("input_max", "output_max", "input_min", "output_min"):
        # Near 3 standard deviations of typical activations: clipping happens, now and then, as it should.
        bound = random.uniform(2.5, 4.0, normal.size).astype(np.float32)
        return -bound if leaf.endswith("min") else bound
    if leaf in ("q_norm", "k_norm"):
        return QK_NORM_SCALE * (1 + 0.1 * normal)
    if len(shape) == 1 and "norm" in leaf:
        return 1 + 0.1 * normal
    if len(shape) == 1:  # audio per_dim_scale, output_proj.bias
        return normal * 0.1
    return normal * spread(name, shape)


def spread(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of the values of a matrix or of a tensor of higher rank."""
    match _leaf(name):
        case "embed_tokens":
            return 2 / math.sqrt(shape[1])  # logits of about 2, well inside the softcap
        case "embed_tokens_per_layer":
            return 0.2  # about 1 after the model's scaling by sqrt(per-layer width)
        case "position_embedding_table":
            return 0.5
        case _:
            return 1 / math.sqrt(math.prod(shape[1:]))


def _leaf(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


def save_processors(directory: Path) -> None:
    """`processor_config.json` and `preprocessor_config.json` with the real model's values.

    Written by hand: Gemma4Processor cannot be built without torchvision.
    """
    audio = {
        "feature_extractor_type": "Gemma4AudioFeatureExtractor",
        "feature_size": MEL_BINS,
        "sampling_rate": 16_000,
        "frame_length_ms": 20.0,
        "hop_length_ms": 10.0,
        "min_frequency": 0.0,
        "max_frequency": 8000.0,
        "mel_floor": 0.001,
        "preemphasis": 0.0,
        "padding_side": "right",
        "padding_value": 0.0,
    }
    image = {
        "image_processor_type": "Gemma4ImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": False,
        "do_rescale": True,
        "do_resize": True,
        "rescale_factor": 1 / 255,
        "resample": 3,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "max_soft_tokens": 280,
    }
    processor = {
        "processor_class": "Gemma4Processor",
        "audio_ms_per_token": 40,
        "audio_seq_length": 750,
        "image_seq_length": 280,
        "feature_extractor": audio,
        "image_processor": image,
        "video_processor": {
            "video_processor_type": "Gemma4VideoProcessor",
            "max_soft_tokens": 70,
            "num_frames": 32,
        },
    }
    _write_json(directory / "processor_config.json", processor)
    _write_json(directory / "preprocessor_config.json", {**image, **audio})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """`python -m converters.gemma4.synthetic DIR [--size SIZE] [--seed N]`: what the demo converts."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path, help="an empty or new directory")
    parser.add_argument("--size", choices=sorted(SIZES), default="e4b-small")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        make_checkpoint(given.directory, size=given.size, seed=given.seed)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
