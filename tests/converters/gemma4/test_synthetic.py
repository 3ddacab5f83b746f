"""Synthetic checkpoints: transformers loads them whole, and the same seed gives the same bytes."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.gemma4.config import FULL, parse_config
from converters.gemma4.synthetic import SIZES, make_checkpoint
from converters.gemma4.tensors import chunk_shapes

pytestmark = pytest.mark.convert


def digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_transformers_loads_every_key(tiny_checkpoint: Path) -> None:
    import torch
    from transformers import Gemma4ForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, info = Gemma4ForConditionalGeneration.from_pretrained(
        tiny_checkpoint, output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values())
    ids = torch.arange(20)[None] + 500
    logits = model(ids).logits
    assert torch.isfinite(logits).all()
    rounded = Gemma4ForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32).half().float()
    difference = (rounded(ids).logits - logits).abs().max()
    assert difference < 0.1  # not chaotic: fp16 weights barely matter
    assert logits.abs().max() > 1


def test_towers_run(tiny_checkpoint: Path) -> None:
    import torch
    from transformers import Gemma4ForConditionalGeneration

    model = Gemma4ForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    places = torch.stack(torch.meshgrid(torch.arange(6), torch.arange(6), indexing="xy"), -1).reshape(1, 36, 2)
    image = model.get_image_features(torch.rand(1, 36, 768), places).pooler_output[0]
    assert image.shape == (4, 128)
    sound = model.model.get_audio_features(torch.randn(1, 40, 128), torch.ones(1, 40, dtype=torch.bool))
    assert sound.pooler_output.shape == (1, 10, 128)


def test_tokenizer_and_chat_template(tiny_checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    config = parse_config(json.loads((tiny_checkpoint / "config.json").read_text()))
    assert len(tokenizer) == config.text.vocab_size
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>"]) == [0, 1, 2, 105, 106]
    tokens = config.tokens
    assert (tokenizer.image_token_id, tokenizer.audio_token_id) == (tokens.image, tokens.audio)
    markers = ["<|video|>", "<|image>", "<image|>", "<|audio>", "<audio|>"]
    expected = [tokens.video, tokens.boi, tokens.eoi, tokens.boa, tokens.eoa]
    assert tokenizer.convert_tokens_to_ids(markers) == expected
    for text in ("Who are you?", "the zoo  keeper\n", "caf\u00e9 \u2603 \U0001f600"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    content = [{"type": "image"}, {"type": "text", "text": "What is in the picture? "}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "A lake."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<bos><|turn>user\n<|image|>What is in the picture?<turn|>\n<|turn>model\nA lake.<turn|>\n<|turn>model\n"
    )


def test_processors_load(tiny_checkpoint: Path) -> None:
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    assert AutoFeatureExtractor.from_pretrained(tiny_checkpoint).feature_size == 128
    assert AutoImageProcessor.from_pretrained(tiny_checkpoint, backend="pil").max_soft_tokens == 280


@pytest.mark.parametrize("size", list(SIZES))
def test_shapes_are_those_the_converters_expect(tmp_path: Path, size: str) -> None:
    """Our own table of shapes matches what transformers' classes allocate, for each size."""
    directory = make_checkpoint(tmp_path / size, size=size)
    checkpoint = Checkpoint.open(directory)
    text = parse_config(checkpoint.config).text
    assert len(list(directory.glob("*.safetensors"))) > 1
    shapes = chunk_shapes(text, 0, text.num_hidden_layers)
    for name, shape in shapes.items():
        checkpoint.require(name, shape)
    table = {"model.language_model.embed_tokens_per_layer.weight"}
    left = checkpoint.unused(set(shapes) | table)
    assert not [name for name in left if name.startswith(("model.language_model.", "lm_head"))]
    for start, end in text.chunk_boundaries():  # each chunk interface has both kinds of caches and masks
        assert {text.is_full(layer) for layer in range(start, end)} == {True, False}


def test_small_is_e4b_layer_for_layer() -> None:
    size = SIZES["e4b-small"]
    assert (size.layers, size.period, size.shared, size.key_value_heads) == (42, 6, 18, 2)
    assert (size.vision_layers, size.audio_layers, size.window) == (16, 12, 512)


def test_tiny_has_traps_of_the_real_model(tiny_checkpoint: Path) -> None:
    """Scalars that are not 1 and clip bounds that are finite, so that forgetting them shows."""
    import torch

    checkpoint = Checkpoint.open(tiny_checkpoint)
    scalars = [checkpoint.tensor(name) for name in checkpoint.names if name.endswith("layer_scalar")]
    assert len(scalars) == 12
    assert all(0.8 < float(scalar) < 1.01 for scalar in scalars)
    assert len({float(scalar) for scalar in scalars}) > 5
    bounds = [name for name in checkpoint.names if name.endswith(("_min", "_max"))]
    assert bounds
    for name in bounds:
        bound = checkpoint.tensor(name)
        assert torch.isfinite(bound)
        assert (float(bound) < 0) == name.endswith("_min")
    assert parse_config(checkpoint.config).text.layer_types[-1] == FULL


def test_same_seed_same_bytes_in_another_process(tiny_checkpoint: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from converters.gemma4.synthetic import make_checkpoint;"
        "make_checkpoint(Path(sys.argv[1]), size='e4b-tiny')"
    )
    environment = {"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True, env=environment)
    assert digests(tmp_path / "again") == digests(tiny_checkpoint)


def test_another_seed_changes_weights_only(tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = digests(make_checkpoint(tmp_path / "other", size="e4b-tiny", seed=1))
    same = digests(tiny_checkpoint)
    assert set(other) == set(same)
    changed = {name for name in same if other[name] != same[name]}
    assert changed
    assert all(name.endswith(".safetensors") for name in changed)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown size"):
        make_checkpoint(tmp_path / "x", size="e8b")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="not empty"):
        make_checkpoint(tmp_path, size="e4b-tiny")
