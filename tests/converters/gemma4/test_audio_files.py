"""The audio projection, the mel filter bank and audio_config.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.audio_features import AudioFeatures, mel_filter_bank, token_count
from converters.gemma4.config import parse_config
from tests.converters.gemma4.sidecar_cases import (
    altered,
    model,
    needs,
    run,
)

__all__ = ["altered", "model"]

pytestmark = pytest.mark.convert


def test_audio_projection(tiny_checkpoint: Path, tmp_path: Path, model: Any) -> None:
    """The three arrays reproduce what follows the audio encoder in transformers."""
    import torch

    run("gemma4.audio-projection", tiny_checkpoint, tmp_path)
    weight, bias, embed = (
        np.load(tmp_path / name).astype(np.float32)
        for name in ("output_proj_weight.npy", "output_proj_bias.npy", "embed_proj_weight.npy")
    )
    hidden = torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.model.embed_audio(model.model.audio_tower.output_proj(hidden)).numpy()
    projected = hidden.numpy() @ weight.T + bias
    normed = projected / np.sqrt((projected**2).mean(-1, keepdims=True) + 1e-6)
    assert np.abs(normed @ embed.T - expected).max() < 5e-3


@given(
    st.sampled_from([(16_000, 320, 512), (16_000, 400, 512), (8_000, 160, 256), (44_100, 1024, 1024)]),
    st.integers(2, 128),
)
@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")  # transformers, of its own bank
def test_mel_filter_bank_is_transformers(rates: tuple[int, int, int], mels: int) -> None:
    from transformers.audio_utils import mel_filter_bank as reference

    rate, frame, fft = rates
    features = AudioFeatures(
        sampling_rate=rate, feature_size=mels, frame_length=frame, fft_length=fft, max_frequency=rate / 2
    )
    expected = reference(fft // 2 + 1, mels, 0.0, rate / 2, rate, norm=None, mel_scale="htk")
    found = mel_filter_bank(features)
    assert found.dtype == np.float32
    assert (found == expected.astype(np.float32)).all()


def test_audio_features_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoFeatureExtractor

    run("gemma4.audio-features", tiny_checkpoint, tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tiny_checkpoint)
    bank = np.fromfile(tmp_path / "mel_filterbank.bin", np.float32).reshape(257, 128)
    assert (bank == extractor.mel_filters.astype(np.float32)).all()
    assert (tmp_path / "mel_filterbank.bin").stat().st_size == 131_584
    settings = json.loads((tmp_path / "audio_config.json").read_text())
    for key in ("sampling_rate", "feature_size", "frame_length", "hop_length", "fft_length", "min_frequency"):
        assert settings[key] == getattr(extractor, key)
    assert settings["log_offset"] == float(extractor.mel_floor)
    tokens = parse_config(Checkpoint.open(tiny_checkpoint).config).tokens
    assert settings["audio_token_id"] == tokens.audio
    assert (settings["mel_frames"], settings["num_tokens"], settings["ms_per_token"]) == (200, 50, 40)


@pytest.mark.parametrize("frames", [1, 2, 5, 40, 41, 99, 200])
def test_token_count_is_the_towers(model: Any, frames: int) -> None:
    import torch

    with torch.no_grad():
        out, _ = model.model.audio_tower.subsample_conv_projection(torch.zeros(1, frames, 128))
    assert out.shape[1] == token_count(frames)


def test_audio_steps_the_app_lacks_are_refused(altered: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json"):
        (altered / name).unlink()
    assert needs("gemma4.audio-features", altered).files == ("config.json",)
    section = {"feature_extractor_type": "Gemma4AudioFeatureExtractor", "preemphasis": 0.97}
    (altered / "preprocessor_config.json").write_text(json.dumps(section))
    with pytest.raises(RecipeError, match=r"preprocessor_config.json: preemphasis is 0\.97"):
        needs("gemma4.audio-features", altered)
    nested = {"feature_extractor": {"per_bin_mean": [0.0]}}
    (altered / "processor_config.json").write_text(json.dumps(nested))
    with pytest.raises(RecipeError, match=r"processor_config.json: feature_extractor\.per_bin_mean is set"):
        needs("gemma4.audio-features", altered)
