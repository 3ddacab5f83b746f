"""Sound against transformers' feature extractor and the standard library's WAV writer."""

from __future__ import annotations

import json
import math
import struct
import wave
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.errors import RecipeError
from converters.gemma4.audio_features import AudioFeatures, mel_filter_bank
from converters.mil.types import Array
from converters.run.sounds import Sound, mel_features, read_front_end, read_wav, resampled

pytestmark = pytest.mark.convert

RATE = 16_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the recipe writes both files."""
    mel_filter_bank(AudioFeatures()).tofile(tmp_path / "mel_filterbank.bin")
    (tmp_path / "audio_config.json").write_text(json.dumps({"sampling_rate": RATE, "log_offset": 0.001}))
    return tmp_path


def tone(seconds: float, rate: int = RATE, pitch: float = 440.0) -> Array:
    time = np.arange(round(seconds * rate)) / rate
    wobble = 0.6 * np.sin(2 * np.pi * pitch * time) + 0.2 * np.sin(2 * np.pi * (50 + 900 * time) * time)
    samples: Array = wobble.astype(np.float32)
    return samples


@pytest.mark.parametrize("seconds", [0.512, 1.024])
def test_features_equal_transformers(folder: Path, seconds: float) -> None:
    """Lengths that are multiples of 128 samples, which the extractor pads to."""
    from transformers import Gemma4AudioFeatureExtractor

    samples = tone(seconds)
    theirs = Gemma4AudioFeatureExtractor()([samples], sampling_rate=RATE, return_tensors="np")
    count = int(theirs["input_features_mask"][0].sum())
    found = mel_features(Sound(samples, RATE), read_front_end(folder), 120)
    assert found.frames == count
    assert found.tokens == math.ceil(math.ceil(count / 2) / 2)
    np.testing.assert_allclose(found.values[:count], theirs["input_features"][0][:count], atol=2e-5)
    np.testing.assert_allclose(found.values[count:], np.log(0.001), rtol=1e-6)
    assert found.heard == pytest.approx(seconds)


def test_long_clips_are_cut(folder: Path) -> None:
    found = mel_features(Sound(tone(2.0), RATE), read_front_end(folder), 40)
    assert (found.frames, found.tokens, found.heard) == (40, 10, 0.4)
    with pytest.raises(RecipeError, match="a clip of 5 ms is too short"):
        mel_features(Sound(tone(0.005), RATE), read_front_end(folder), 40)


def test_other_rates(folder: Path) -> None:
    """The same tone at 44.1 kHz gives nearly the same features."""
    front = read_front_end(folder)
    one = mel_features(Sound(tone(0.5), RATE), front, 48).values
    other = mel_features(Sound(tone(0.5, 44_100), 44_100), front, 48).values
    assert np.abs(one[2:-4] - other[2:-4]).mean() < 0.05
    assert resampled(Sound(tone(0.5, 44_100), 44_100), RATE).seconds == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(("width", "close"), [(1, 0.011), (2, 4e-5), (3, 2e-7), (4, 1e-7)])
@pytest.mark.parametrize("channels", [1, 2])
def test_integers(tmp_path: Path, width: int, close: float, channels: int) -> None:
    samples = tone(0.02)
    whole = np.round(samples.astype(np.float64) * (2 ** (8 * width - 1) - 1)).astype("<i4")
    raw = (whole + 128).astype("u1") if width == 1 else whole.view("u1").reshape(-1, 4)[:, :width]
    interleaved = np.repeat(raw.reshape(len(samples), 1, -1), channels, axis=1)
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(RATE)
        file.writeframes(interleaved.tobytes())
    found = read_wav(path)
    assert found.rate == RATE
    np.testing.assert_allclose(found.samples, samples, atol=close)


@pytest.mark.parametrize("extensible", [False, True])
def test_floating_point(tmp_path: Path, extensible: bool) -> None:
    samples = tone(0.02)
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else 3, 1, RATE, 4 * RATE, 4, 32)
    if extensible:
        head += struct.pack("<HHIH", 22, 32, 4, 3) + bytes(14)
    chunks = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for name, data in ((b"fmt ", head), (b"LIST", b"odd"), (b"data", samples.tobytes()))
    )
    path = tmp_path / "tone.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    np.testing.assert_array_equal(read_wav(path).samples, samples)
    path.write_bytes(path.read_bytes()[:-401])  # a recording that was cut off
    np.testing.assert_array_equal(read_wav(path).samples, samples[: len(samples) - 101])


def test_what_is_no_sound(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "x.wav"
    with pytest.raises(RecipeError, match="cannot be read"):
        read_wav(path)
    path.write_bytes(b"ID3 something")
    with pytest.raises(RecipeError, match="is not a WAV file; convert it"):
        read_wav(path)
    path.write_bytes(b"RIFF\0\0\0\0WAVEdata\0\0\0\0")
    with pytest.raises(RecipeError, match="without sound in it"):
        read_wav(path)
    law = struct.pack("<HHIIHH", 7, 1, 8000, 8000, 1, 8)
    path.write_bytes(b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + law + b"data\x02\0\0\0ab")
    with pytest.raises(RecipeError, match="WAV format 7 with 8 bits and 1 channels is not read"):
        read_wav(path)
    (folder / "mel_filterbank.bin").write_bytes(b"\0" * 12)
    with pytest.raises(RecipeError, match=r"12 bytes, audio_config.json implies 131584"):
        read_front_end(folder)
