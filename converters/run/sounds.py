"""Sound as an audio encoder takes it: log-mel features of a mono clip, as transformers and the app compute them."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.errors import RecipeError
from converters.gemma4.audio_features import AudioFeatures, token_count
from converters.gemma4.fields import Fields
from converters.mil.types import Array
from converters.run.sidecars import read_json

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
"""`wFormatTag` of a WAV file: integers, floating point, or look at the first two bytes of the GUID."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A clip.

    Attributes:
        samples: mono float32 in -1 to 1.
        rate: Hz.
    """

    samples: Array
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """What stands before a bundle's audio encoder: `audio_config.json` and `mel_filterbank.bin`.

    Attributes:
        features: of the spectrogram.
        filters: `(frequency bins, mel bins)` float32.
    """

    features: AudioFeatures
    filters: Array


@dataclass(frozen=True, slots=True)
class Mel:
    """A clip for the encoder.

    Attributes:
        values: `(frames, mel bins)` float32; frames after the clip's end hold the logarithm of the floor.
        frames: how many are real.
        tokens: how many soft tokens stand for them.
        heard: seconds of the clip that fit.
    """

    values: Array
    frames: int
    tokens: int
    heard: float


def read_front_end(folder: Path) -> FrontEnd:
    """Reads both files. What `audio_config.json` leaves out has transformers' value.

    Raises:
        RecipeError: one is missing, damaged, or of another size than the other implies.
    """
    fields = Fields(read_json(folder / "audio_config.json"), "audio_config.json")
    usual = AudioFeatures()
    features = AudioFeatures(
        sampling_rate=fields.count("sampling_rate", default=usual.sampling_rate),
        feature_size=fields.count("feature_size", default=usual.feature_size),
        frame_length=fields.count("frame_length", default=usual.frame_length),
        hop_length=fields.count("hop_length", default=usual.hop_length),
        fft_length=fields.count("fft_length", default=usual.fft_length),
        # the app reads log_offset and falls back to mel_floor
        mel_floor=fields.positive("log_offset", default=fields.positive("mel_floor", default=usual.mel_floor)),
    )
    path = folder / "mel_filterbank.bin"
    try:
        flat = np.fromfile(path, "<f4")
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    shape = (features.frequency_bins, features.feature_size)
    if flat.size != math.prod(shape):
        raise RecipeError(f"{path} has {flat.nbytes} bytes, audio_config.json implies {4 * math.prod(shape)}")
    return FrontEnd(features, flat.reshape(shape))


def mel_features(sound: Sound, front: FrontEnd, frames: int) -> Mel:
    """Log-mel features of the clip's beginning.

    Source: `Gemma4AudioFeatureExtractor._extract_spectrogram`: half a frame of silence in front, frames that need one
    sample more than they use, a periodic Hann window, magnitudes, filters, the logarithm after adding the floor.

    Args:
        sound: the clip.
        front: of the bundle.
        frames: what the encoder takes.

    Raises:
        RecipeError: the clip is shorter than one frame.
    """
    wanted = front.features
    samples = resampled(sound, wanted.sampling_rate).samples
    padded = np.concatenate([np.zeros(wanted.frame_length // 2, np.float32), samples])
    count = max(0, (len(padded) - (wanted.frame_length + 1)) // wanted.hop_length + 1)
    if not count:
        raise RecipeError(f"a clip of {1000 * sound.seconds:.0f} ms is too short to be heard")
    real = min(count, frames)
    starts = np.arange(real) * wanted.hop_length
    windows = padded[starts[:, None] + np.arange(wanted.frame_length)] * _hann(wanted.frame_length)
    magnitudes = np.abs(np.fft.rfft(windows, n=wanted.fft_length, axis=-1))
    values = np.full((frames, wanted.feature_size), math.log(wanted.mel_floor), np.float32)
    values[:real] = np.log(magnitudes @ front.filters.astype(np.float64) + wanted.mel_floor)
    heard = min(sound.seconds, frames * wanted.hop_length / wanted.sampling_rate)
    return Mel(values, real, token_count(real), heard)


def _hann(length: int) -> Array:
    window: Array = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)
    return window


def resampled(sound: Sound, rate: int) -> Sound:
    """The clip at another rate, by a polyphase low-pass filter."""
    if sound.rate == rate:
        return sound
    from scipy.signal import resample_poly

    common = math.gcd(sound.rate, rate)
    samples = resample_poly(sound.samples, rate // common, sound.rate // common)
    return Sound(samples.astype(np.float32), rate)


def read_wav(path: Path) -> Sound:
    """Reads a RIFF WAV file: integers of 8 to 32 bits or floating point, any rate; channels are averaged.

    (The standard library's `wave` knows no floating point.)

    Raises:
        RecipeError: not such a file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise RecipeError(f"{path} is not a WAV file; convert it, for example with `ffmpeg -i IN -ar 16000 out.wav`")
    chunks = _chunks(data)
    if len(chunks.get(b"fmt ", b"")) < 16 or b"data" not in chunks:
        raise RecipeError(f"{path}: a WAV file without sound in it")
    form, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunks[b"fmt "])
    if form == EXTENSIBLE and len(chunks[b"fmt "]) >= 26:
        (form,) = struct.unpack_from("<H", chunks[b"fmt "], 24)
    samples = _samples(chunks[b"data"], form, bits)
    if samples is None or not channels or not rate:
        raise RecipeError(f"{path}: WAV format {form} with {bits} bits and {channels} channels is not read")
    whole = len(samples) // channels * channels
    return Sound(samples[:whole].reshape(-1, channels).mean(axis=1, dtype=np.float32), rate)


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The first chunk of each name; one that ends early (a recording that was cut off) is taken as far as it goes."""
    found: dict[bytes, bytes] = {}
    place = 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        found.setdefault(name, data[place + 8 : place + 8 + size])
        place += 8 + size + size % 2
    return found


def _samples(data: bytes, form: int, bits: int) -> Array | None:
    """float32 in -1 to 1; None for a format that is not known."""
    width = bits // 8
    if bits % 8 or not width:
        return None
    data = data[: len(data) // width * width]
    if form == FLOAT and bits in (32, 64):
        return np.frombuffer(data, f"<f{width}").astype(np.float32)
    if form != PCM or bits not in (8, 16, 24, 32):
        return None
    if bits == 8:  # the only unsigned one
        values, scale = np.frombuffer(data, "u1").astype(np.float64) - 128, 128.0
    elif bits == 24:
        wide = np.zeros((len(data) // 3, 4), "u1")
        wide[:, 1:] = np.frombuffer(data, "u1").reshape(-1, 3)
        values, scale = wide.view("<i4")[:, 0].astype(np.float64), 2.0**31
    else:
        values, scale = np.frombuffer(data, f"<i{width}").astype(np.float64), 2.0 ** (bits - 1)
    samples: Array = (values / scale).astype(np.float32)
    return samples
